#!/usr/bin/perl
# A server of lines over TCP: `perl back.pl ADDRESS PORT PAUSE-SECONDS`.
#   later   answers after PAUSE-SECONDS
#   now     (or anything else) answers at once
use strict;
use warnings;
use IO::Socket::INET;

my ($address, $port, $pause_s) = @ARGV;
my $listener = IO::Socket::INET->new(
    LocalAddr => $address, LocalPort => $port, Listen => 16, ReuseAddr => 1, Proto => 'tcp',
) or die "cannot listen on $address:$port: $@\n";

while (my $client = $listener->accept) {
    my $word = <$client>;
    next unless defined $word;
    select(undef, undef, undef, $pause_s) if $word =~ /^later\b/;
    syswrite $client, "answered\n";
    close $client;
}
