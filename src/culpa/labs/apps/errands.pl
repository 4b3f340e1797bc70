#!/usr/bin/perl
# An office over HTTP that runs errands, one after the other: `perl errands.pl PORT NAME=VALUE...`.
#
# /ERRAND-ERRAND-...   does each of them; ERRAND_well does it as it should be done
#   sync     adds ROWS rows to BOOK and syncs each; well: syncs once
#   keep     writes ROWS rows to BOOK, open with O_DSYNC; well: open without
#   ask      asks the server of lines at HOST:PEER for what it says later; well: for what it says at once
#   churn    writes FILES files of BYTES bytes in FOLDER, reads them back and deletes them; well: stays in memory
#   rest     sleeps for REST seconds; well: does not
#   name     looks up far.DOMAIN; well: near.DOMAIN
#   cold     reads EACH files of SHELVES that it has not read yet; well: reads the first ones again
#   again    reads TABLE from the disk's cache TIMES times; well: once
#   drop     deletes the next file of SPOOL; well: leaves it to somebody else
#   count    computes for ROUNDS rounds; well: for a hundredth of them
#   fetch    gets KEYS keys from the Redis at port STORE, one after the other; well: all at once
use strict;
use warnings;
use Fcntl qw(O_WRONLY O_CREAT O_APPEND);
use IO::Handle;
use IO::Socket::INET;
use Socket qw(getaddrinfo SOCK_STREAM TCP_NODELAY IPPROTO_TCP);

use constant O_DSYNC => 010000;    # include/uapi/asm-generic/fcntl.h

my ($port, @settings) = @ARGV;
my %set = map { split /=/, $_, 2 } @settings;
my (@unread, @known, @spool, $store);

sub opened {
    my ($file, $flags) = @_;
    sysopen(my $out, $file, O_WRONLY | O_CREAT | O_APPEND | $flags) or die "cannot open $file: $!\n";
    return $out;
}

sub content {
    my ($file) = @_;
    open(my $in, '<:raw', $file) or die "cannot open $file: $!\n";
    my $read = 0;
    while (my $got = sysread $in, my $part, 1 << 18) { $read += $got }
    return $read;
}

sub sync {
    my ($well) = @_;
    my $book = opened($set{book}, 0);
    for (1 .. $set{rows}) {
        syswrite $book, "row $_\n";
        $book->sync or die "cannot sync: $!\n" if !$well || $_ == $set{rows};
    }
}

sub keep {
    my ($well) = @_;
    my $book = opened($well ? "$set{book}.plain" : $set{book}, $well ? 0 : O_DSYNC);
    syswrite $book, "row $_\n" for 1 .. $set{rows};
}

sub ask {
    my ($well) = @_;
    my $peer = IO::Socket::INET->new(PeerAddr => $set{host}, PeerPort => $set{peer}, Proto => 'tcp') or die "$@\n";
    syswrite $peer, $well ? "now\n" : "later\n";
    my $answer = <$peer>;
}

sub churn {
    my ($well) = @_;
    my $data = 'word ' x ($set{bytes} / 5);
    my $visit = "$set{folder}/" . sprintf '%08x', rand 0xffffffff;
    return length($data) * $set{files} if $well;
    mkdir $visit;
    my @pages = map { "$visit/page-$_.tmp" } 1 .. $set{files};
    for my $page (@pages) {
        open(my $out, '>:raw', $page) or die "cannot open $page: $!\n";
        syswrite $out, $data;
        close $out;
    }
    content($_) for @pages;
    unlink @pages;
    rmdir $visit;
}

sub rest {
    my ($well) = @_;
    select(undef, undef, undef, $set{rest}) if !$well;
}

sub name {
    my ($well) = @_;
    getaddrinfo(($well ? 'near' : 'far') . ".$set{domain}", '', {socktype => SOCK_STREAM});
}

sub cold {
    my ($well) = @_;
    content($_) for $well ? @known : splice @unread, 0, $set{each};
}

sub again {
    my ($well) = @_;
    content($set{table}) for 1 .. ($well ? 1 : $set{times});
}

sub drop {
    my ($well) = @_;
    unlink shift @spool if !$well && @spool;
}

sub count {
    my ($well) = @_;
    my $sum = 1;
    $sum = ($sum * 31 + $_) % 65521 for 1 .. ($well ? $set{rounds} / 100 : $set{rounds});
}

sub fetch {
    my ($well) = @_;
    if (!$store) {
        $store = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $set{store}, Proto => 'tcp') or die "$@\n";
        setsockopt $store, IPPROTO_TCP, TCP_NODELAY, 1;
    }
    my @get = map { sprintf "*2\r\n\$3\r\nGET\r\n\$11\r\nitem:%06d\r\n", $_ } 1 .. $set{keys};
    for my $question ($well ? join('', @get) : @get) {
        syswrite $store, $question;
        my $answer = '';
        my $lines = $well ? 2 * @get : 2;
        while (($answer =~ tr/\n//) < $lines) { sysread($store, $answer, 1 << 16, length $answer) or die "no answer\n" }
    }
}

if ($set{shelves}) {
    my @files = sort glob "$set{shelves}/*";
    @known = splice @files, 0, $set{each};
    @unread = @files;
}
@spool = sort glob "$set{spool}/*" if $set{spool};
my %errands = (
    sync => \&sync, keep => \&keep, ask => \&ask, churn => \&churn, rest => \&rest, name => \&name, cold => \&cold,
    again => \&again, drop => \&drop, count => \&count, fetch => \&fetch,
);

my $listener = IO::Socket::INET->new(
    LocalAddr => '127.0.0.1', LocalPort => $port, Listen => 16, ReuseAddr => 1, Proto => 'tcp',
) or die "cannot listen on $port: $@\n";

while (my $client = $listener->accept) {
    my $question = <$client> // next;
    while (my $line = <$client>) {
        last if $line =~ /^\r?\n$/;
    }
    my ($list) = $question =~ m{^GET /([\w-]*)};
    my $done = 0;
    for my $errand (split /-/, $list // '') {
        my $well = $errand =~ s/_well$//;
        next if !$errands{$errand};
        $errands{$errand}->($well);
        $done++;
    }
    my $answer = "$done errands\n";
    my $head = "HTTP/1.1 200 OK\r\nContent-Length: " . length($answer) . "\r\nConnection: close\r\n\r\n";
    syswrite $client, $head . $answer;
    close $client;
}
