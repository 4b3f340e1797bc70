#!/usr/bin/perl
# Visitors of a server of lines: `perl visitors.pl PORT COUNT REST-SECONDS`. Each asks, rests after the answer, and asks
# again, over a new connection each time, for a quarter of an hour at most.
use strict;
use warnings;
use IO::Socket::INET;

my ($port, $count, $rest_s) = @ARGV;
alarm 900;
$SIG{TERM} = sub { kill 'KILL', -getpgrp };
my $host = $$;
my @visitors = map {
    my $pid = fork // die "cannot fork: $!\n";
    if (!$pid) {
        while (getppid == $host) {
            my $connection = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port, Proto => 'tcp') // next;
            syswrite $connection, "ticket\n";
            my $answer = <$connection>;
            close $connection;
            select(undef, undef, undef, $rest_s);
        }
        exit;
    }
    $pid;
} 1 .. $count;
waitpid $_, 0 for @visitors;
