/*
 * Gives 200 requests to the kernel and waits for each: `beside WAY FILE`. WAY: ring, defer, fixed, sqpoll, batch (of
 * four), read: direct I/O through io_uring; sync: fsync of written pages through io_uring; context: direct I/O by
 * io_submit and io_getevents; talk: ten words of a child, each after 60 ms, received through io_uring.
 * FILE.waits then says how often it really had to wait for one: what is done at once needs no waiting for.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/io_uring.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>
#define BLOCK 4096
#define ROUNDS 200
static char *block;
static int ring;
static struct io_uring_params how;
static char *shared;
static struct io_uring_sqe *entries;
static unsigned *at(unsigned offset) { return (unsigned *)(shared + offset); }
static void open_ring(unsigned flags) {
    how.flags = flags;
    how.sq_thread_idle = 2000;
    ring = syscall(__NR_io_uring_setup, 8, &how);
    shared = mmap(0, how.cq_off.cqes + 16 * how.cq_entries + 4096, PROT_READ | PROT_WRITE, MAP_SHARED, ring, 0);
    entries = mmap(0, 8 * sizeof *entries, PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_SQES);
}
static void give(int op, int file, void *data, unsigned bytes, long place, int flags) {
    unsigned tail = *at(how.sq_off.tail), here = tail & *at(how.sq_off.ring_mask);
    memset(&entries[here], 0, sizeof entries[here]);
    entries[here].opcode = op;
    entries[here].fd = file;
    entries[here].addr = (unsigned long)data;
    entries[here].len = bytes;
    entries[here].off = place;
    entries[here].flags = flags;
    if (op == IORING_OP_POLL_ADD) entries[here].poll32_events = POLLIN;
    at(how.sq_off.array)[here] = here;
    __atomic_store_n(at(how.sq_off.tail), tail + 1, __ATOMIC_RELEASE);
}
static int take(unsigned count) {
    int answer = 0;
    unsigned given = how.flags & IORING_SETUP_SQPOLL ? 0 : count;
    unsigned flags = IORING_ENTER_GETEVENTS | (how.flags & IORING_SETUP_SQPOLL ? IORING_ENTER_SQ_WAKEUP : 0);
    if (syscall(__NR_io_uring_enter, ring, given, count, flags, 0, 8) < 0) exit(2);
    for (unsigned i = 0; i < count; i++) {
        unsigned head = *at(how.cq_off.head);
        struct io_uring_cqe *found = (void *)(shared + how.cq_off.cqes);
        answer = found[head & *at(how.cq_off.ring_mask)].res;
        __atomic_store_n(at(how.cq_off.head), head + 1, __ATOMIC_RELEASE);
    }
    return answer;
}
static long waits(void) {
    struct rusage used;
    if (getrusage(RUSAGE_THREAD, &used)) exit(11);
    return used.ru_nvcsw;
}
static long by_context(int file) {
    aio_context_t context = 0;
    struct iocb one = {.aio_lio_opcode = IOCB_CMD_PWRITE, .aio_fildes = file, .aio_buf = (unsigned long)block, .aio_nbytes = BLOCK};
    struct iocb *list = &one;
    struct io_event event;
    long waited = 0;
    if (syscall(__NR_io_setup, 8, &context)) exit(3);
    for (int i = 0; i < ROUNDS; i++) {
        one.aio_offset = i * BLOCK;
        if (syscall(__NR_io_submit, context, 1, &list) != 1) exit(4);
        long before = waits();  // giving it away may have to wait as well, for other things
        if (syscall(__NR_io_getevents, context, 1, 1, &event, 0) != 1 || event.res != BLOCK) exit(5);
        waited += waits() - before;
    }
    return waited;
}
static int note(const char *beside, long count) {
    char name[4096];
    FILE *file;
    if (snprintf(name, sizeof name, "%s.waits", beside) >= (int)sizeof name || !(file = fopen(name, "w"))) return 12;
    fprintf(file, "%ld\n", count);
    return fclose(file);
}
static void talk(void) {
    int ends[2];
    char word[8];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends)) exit(6);
    if (!fork()) {
        for (int i = 0; i < 10; i++) {
            usleep(60000);
            if (write(ends[1], "word", 4) != 4) exit(7);
        }
        exit(0);
    }
    open_ring(0);
    for (int i = 0; i < 10; i++) {
        give(IORING_OP_RECV, ends[0], word, 4, 0, 0);  // one word, though two may have come
        if (take(1) != 4) exit(8);
    }
}
int main(int count, char **words) {
    const char *way = words[1];
    if (!strcmp(way, "talk")) { talk(); return 0; }
    int buffered = !strcmp(way, "sync");
    int file = open(words[2], O_RDWR | O_CREAT | (buffered ? 0 : O_DIRECT), 0600);
    block = mmap(0, ROUNDS * BLOCK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(block, count, ROUNDS * BLOCK);
    if (pwrite(file, block, ROUNDS * BLOCK, 0) != ROUNDS * BLOCK || fsync(file)) return 1;
    if (!strcmp(way, "context")) return note(words[2], by_context(file));
    long before = waits();
    open_ring(!strcmp(way, "sqpoll") ? IORING_SETUP_SQPOLL :
              !strcmp(way, "defer") ? IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN : 0);
    if (!strcmp(way, "fixed")) syscall(__NR_io_uring_register, ring, IORING_REGISTER_FILES, &file, 1);
    for (int i = 0; i < ROUNDS; i++) {
        int fixed = !strcmp(way, "fixed");
        if (buffered) {
            if (pwrite(file, block, BLOCK, i * BLOCK) != BLOCK) return 9;
            give(IORING_OP_FSYNC, file, 0, 0, 0, 0);
        } else if (!strcmp(way, "batch")) {
            for (int k = 0; k < 4; k++) give(IORING_OP_WRITE, file, block, BLOCK, (i * 4 + k) % ROUNDS * BLOCK, 0);
        } else {
            give(!strcmp(way, "read") ? IORING_OP_READ : IORING_OP_WRITE, fixed ? 0 : file, block, BLOCK, i * BLOCK,
                 fixed ? IOSQE_FIXED_FILE : 0);
        }
        if (take(!strcmp(way, "batch") ? 4 : 1) != (buffered ? 0 : BLOCK)) return 10;
    }
    return note(words[2], waits() - before);
}
