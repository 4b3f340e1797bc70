#!/usr/bin/perl
# A name server over UDP: `perl registry.pl ADDRESS PAUSE-SECONDS HABIT`. It knows every name to be at 192.0.2.1.
#   names that begin with "far"   HABIT late: answered after PAUSE-SECONDS; lost: only when the question is repeated
#   all others                    answered at once
use strict;
use warnings;
use IO::Socket::INET;

use constant { A => 1, NO_ERROR => 0x8180, HERE => pack('C4', 192, 0, 2, 1) };

my ($address, $pause_s, $habit) = @ARGV;
my $socket = IO::Socket::INET->new(LocalAddr => $address, LocalPort => 53, Proto => 'udp')
    or die "cannot take questions at $address: $@\n";
my %heard;
syswrite STDERR, "ready\n";

while (my $asker = recv $socket, my $question, 512, 0) {
    next if length $question < 17;
    my $end = index($question, "\0", 12) + 5;
    my ($id, $name, $type) = (unpack('n', $question), substr($question, 13), unpack('n', substr($question, $end - 4)));
    if ($name =~ /^far/i) {
        next if $habit eq 'lost' && !$heard{$question}++;
        select(undef, undef, undef, $pause_s) if $habit eq 'late' && $type == A;
    }
    my @found = $type == A ? (pack('nnnNn', 0xc00c, A, 1, 0, 4) . HERE) : ();
    my $head = pack('n6', $id, NO_ERROR, 1, scalar @found, 0, 0);
    send $socket, $head . substr($question, 12, $end - 12) . join('', @found), 0, $asker;
}
