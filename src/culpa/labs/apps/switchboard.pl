#!/usr/bin/perl
# A switchboard over HTTP that looks up where a line is: `perl switchboard.pl PORT DOMAIN`. It keeps no names.
#
# /WORD   the address of WORD.DOMAIN, from the name server in /etc/resolv.conf; where WORD begins with "ring" the line
#         is rung for a moment
use strict;
use warnings;
use IO::Socket::INET;
use Socket qw(getaddrinfo getnameinfo NI_NUMERICHOST NIx_NOSERV SOCK_STREAM);

my ($port, $domain) = @ARGV;
my $listener = IO::Socket::INET->new(
    LocalAddr => '127.0.0.1', LocalPort => $port, Listen => 16, ReuseAddr => 1, Proto => 'tcp',
) or die "cannot listen on $port: $@\n";

sub looked_up {
    my ($name) = @_;
    my ($problem, @found) = getaddrinfo($name, '', {socktype => SOCK_STREAM});
    return "unknown: $problem" if $problem;
    my (undef, $address) = getnameinfo($found[0]{addr}, NI_NUMERICHOST, NIx_NOSERV);
    return $address;
}

while (my $client = $listener->accept) {
    my $question = <$client> // next;
    while (my $line = <$client>) {
        last if $line =~ /^\r?\n$/;
    }
    my ($word) = $question =~ m{^GET /(\w*)};
    my $answer = $word ? looked_up("$word.$domain") : 'up';
    select(undef, undef, undef, 0.06) if ($word // '') =~ /^ring/;
    my $status = $answer =~ /^unknown/ ? '502 Bad Gateway' : '200 OK';
    my $head = "HTTP/1.1 $status\r\nContent-Length: " . length($answer) . "\r\nConnection: close\r\n\r\n";
    syswrite $client, $head . $answer;
    close $client;
}
