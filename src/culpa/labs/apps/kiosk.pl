#!/usr/bin/perl
# A kiosk of lines over TCP: `perl kiosk.pl PORT BACKLOG SHIFT-SECONDS`. It says `sold` to every line.
# It looks up only after each SHIFT, and then serves all who wait; with a SHIFT of 0 it serves each one at once.
use strict;
use warnings;
use IO::Select;
use IO::Socket::INET;

my ($port, $backlog, $shift_s) = @ARGV;
my $listener = IO::Socket::INET->new(
    LocalAddr => '127.0.0.1', LocalPort => $port, Listen => $backlog, ReuseAddr => 1, Proto => 'tcp',
) or die "cannot listen on $port: $@\n";
my $waiting = IO::Select->new($listener);
syswrite STDERR, "ready\n";

sub serve {
    my $client = $listener->accept // return;
    my $line = <$client>;
    syswrite $client, "sold\n" if defined $line;
    close $client;
}

while (1) {
    select(undef, undef, undef, $shift_s) if $shift_s > 0;
    serve() if $shift_s == 0;
    serve() while $shift_s > 0 && $waiting->can_read(0);
}
