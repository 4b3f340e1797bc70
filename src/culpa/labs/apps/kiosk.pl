#!/usr/bin/perl
# A kiosk of lines over TCP: `perl kiosk.pl PORT BACKLOG BREAK-SECONDS OPEN-SECONDS`. It says `sold` to every line;
# who asks for a `tour` waits for it a moment.
# It is open for a while and serves each one at once; then comes a break, in which it looks at nobody.
use strict;
use warnings;
use IO::Socket::INET;

my ($port, $backlog, $break_s, $open_s) = @ARGV;
my $listener = IO::Socket::INET->new(
    LocalAddr => '127.0.0.1', LocalPort => $port, Listen => $backlog, ReuseAddr => 1, Proto => 'tcp',
) or die "cannot listen on $port: $@\n";
vec(my $waiting = '', fileno $listener, 1) = 1;
syswrite STDERR, "ready\n";

sub serve {
    my $client = $listener->accept // return;
    my $line = <$client>;
    select(undef, undef, undef, 0.06) if ($line // '') =~ /^tour/;
    syswrite $client, "sold\n" if defined $line;
    close $client;
}

while (1) {
    select(undef, undef, undef, $break_s) if $break_s > 0;
    my ($found, $left) = (1, $open_s);
    while ($found) {    # Linux says how much of the time is left
        ($found, $left) = select(my $ready = $waiting, undef, undef, $left);
        serve() if $found > 0;
    }
}
