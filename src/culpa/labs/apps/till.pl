#!/usr/bin/perl
# A shop's till over HTTP: `perl till.pl PORT FILE RECEIPTS`. It needs nothing beside Perl.
#
# /each   writes RECEIPTS receipts to a file that is open so that every write is synced (O_DSYNC)
# /once   writes them to a file that is not, and leaves the rest to the kernel
use strict;
use warnings;
use Fcntl qw(O_WRONLY O_CREAT O_APPEND);
use IO::Socket::INET;

use constant O_DSYNC => 010000;    # include/uapi/asm-generic/fcntl.h

my ($port, $file, $receipts) = @ARGV;
sysopen(my $synced, $file, O_WRONLY | O_CREAT | O_APPEND | O_DSYNC) or die "cannot open $file: $!\n";
sysopen(my $plain, "$file.plain", O_WRONLY | O_CREAT | O_APPEND) or die "cannot open $file.plain: $!\n";

sub enter {
    my ($book) = @_;
    syswrite($book, "receipt $_\n") // die "cannot write: $!\n" for 1 .. $receipts;
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
    enter($synced) if ($way // '') eq 'each';
    enter($plain) if ($way // '') eq 'once';
    my $answer = "$receipts receipts\n";
    my $head = "HTTP/1.1 200 OK\r\nContent-Length: " . length($answer) . "\r\nConnection: close\r\n\r\n";
    syswrite $client, $head . $answer;
    close $client;
}
