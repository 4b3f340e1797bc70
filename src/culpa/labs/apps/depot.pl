#!/usr/bin/perl
# A depot over HTTP that stores parcels: `perl depot.pl PORT DIRECTORY OTHER-DIRECTORY TRIES PAUSE-SECONDS`.
#
# /here    writes a parcel to DIRECTORY; if there is no room, tries again after a pause, TRIES times in all
# /there   looks at the parcels of DIRECTORY, weighs one, and writes it to OTHER-DIRECTORY in the same way
use strict;
use warnings;
use Fcntl qw(O_WRONLY O_CREAT O_TRUNC);
use IO::Socket::INET;

my ($port, $here, $there, $tries, $pause_s) = @ARGV;
my $parcel = join '', map { "line $_ of a parcel\n" } 1 .. 10_000;

sub stored {
    my ($file) = @_;
    sysopen(my $out, $file, O_WRONLY | O_CREAT | O_TRUNC) or return 0;
    my $done = 0;
    while ($done < length $parcel) {
        $done += syswrite($out, $parcel, length($parcel) - $done, $done) || last;
    }
    close $out;
    return $done == length $parcel;
}

sub kept {
    my ($directory) = @_;
    for my $try (1 .. $tries) {
        return "kept at attempt $try" if stored("$directory/parcel");
        select(undef, undef, undef, $pause_s) if $try < $tries;
    }
    return 'no room';
}

my $listener = IO::Socket::INET->new(
    LocalAddr => '127.0.0.1', LocalPort => $port, Listen => 16, ReuseAddr => 1, Proto => 'tcp',
) or die "cannot listen on $port: $@\n";

while (my $client = $listener->accept) {
    my $question = <$client> // next;
    while (my $line = <$client>) {
        last if $line =~ /^\r?\n$/;
    }
    my ($way) = $question =~ m{^GET /(\w*)};
    my $answer = 'up';
    $answer = kept($here) if $way eq 'here';
    if ($way eq 'there') {
        my @parcels = glob "$here/*";
        select(undef, undef, undef, 0.06);
        $answer = @parcels . ' here, ' . kept($there);
    }
    my $head = "HTTP/1.1 200 OK\r\nContent-Length: " . length($answer) . "\r\nConnection: close\r\n\r\n";
    syswrite $client, $head . $answer;
    close $client;
}
