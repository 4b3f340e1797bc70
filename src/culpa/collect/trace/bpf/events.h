/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the probes hand to user space: one fixed-size record per ring, so that a drained stretch of a ring is one
 * strided array. The two frequent records go through lanes (lanes.bpf.c), the others through the kernel's own rings.
 * events.py declares the same records as numpy dtypes; a test compares the two field for field.
 *
 * Times are CLOCK_MONOTONIC nanoseconds; 0 means "not known". Device numbers are the kernel's dev_t.
 */
#ifndef CULPA_EVENTS_H
#define CULPA_EVENTS_H

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef signed int s32;
typedef signed long long s64;

#define COMM_BYTES 16
#define PAYLOAD_BYTES 256
#define SHORT_BYTES 48
#define PATH_BYTES 1024
#define SLICE_BYTES 8192
#define REGISTERS 34
#define UNIX_PATH_BYTES 112
#define NR_MAX 512
#define THREADS_MAX 16384
#define DIRT_SLOTS 512
#define CALL_SUMS 32768
#define STATE_FRAMES 24

enum ring_id {
	RING_OFFCPU, RING_SYSCALLS, RING_MESSAGES, RING_BLOCKS, RING_SOCKETS, RING_TASKS, RING_FILES, RING_PARTS, RING_DIRTIED,
	RING_THROTTLES, RING_USER_STACKS, RING_ASYNC, RING_RETRANSMITS, RING_UNCACHED, RING_FREED, RINGS
};

/* What a system call's number says about its arguments; the table `call_kind` is filled from calls.py. */
enum call_bits {
	CALL_FD = 1 << 0,        /* first argument is an fd */
	CALL_FD_RETURN = 1 << 1, /* returns an fd, whose identity is the one to keep */
	CALL_FD_GONE = 1 << 2,   /* the fd is gone at exit: identify it at entry */
	CALL_IN = 1 << 3,        /* moves bytes from the fd */
	CALL_OUT = 1 << 4,       /* moves bytes to the fd */
	CALL_BUFFER = 1 << 5,    /* second argument: bytes */
	CALL_VECTOR = 1 << 6,    /* second argument: iovecs, third: how many */
	CALL_MSGHDR = 1 << 7,    /* second argument: a msghdr */
	CALL_SOCKET = 1 << 8,   /* worth a look at the socket although it moves no bytes (connect, accept) */
	CALL_WAKES = 1 << 9,    /* can wake another thread, besides those that move bytes */
	CALL_SLEEPS = 1 << 10,  /* ended by a timer, never by a thread */
	CALL_SUBMITS = 1 << 11, /* hands over iocbs: io_submit */
	CALL_TAKES = 1 << 12,   /* takes their events: io_getevents */
	CALL_MANY = 1 << 13,    /* second argument: mmsghdrs; returns how many were sent */
	CALL_TO = 1 << 14,      /* fifth argument: where to, or null */
};

/* trace_counters.paused: nothing is seen any more; or sums are kept in place of records. */
enum pause { PAUSED = 1, SUMMING = 2 };

enum activity { RUNNING, RUNNABLE, BLOCKED, SLEEPING };

/* In the number of a call of a 32-bit program, above all numbers: what it means must be looked up elsewhere. */
#define NARROW_CALL (1 << 29)

enum task_kind { TASK_SEEN = 1, TASK_EXEC = 2, TASK_EXIT = 3 };

/* One CPU's part of a ring of records; `position` of a record is its place in the endless stream, counted from 1. */
struct lane {
	u64 head; /* records begun */
	u64 tail; /* records user space has taken; written by it */
	u64 lost;
	u64 pad[5]; /* a cache line of its own */
};

struct offcpu_event {
	u32 position; /* written last */
	u32 pad;
	u64 off_ns;
	u64 wake_ns;
	u64 on_ns;
	u32 tid;
	u32 pid;
	s32 state;
	s32 stack_id; /* -1: none taken */
	u32 waker_tid;
	u32 waker_pid;
	u32 prev_tid;
	u32 cpu;
};

struct syscall_event {
	u32 position; /* written last */
	s32 nr;
	u64 enter_ns;
	u64 exit_ns;
	s64 ret;
	u64 arg[3];
	u64 ino;
	u32 tid;
	u32 pid;
	u32 dev;
	u16 mode;    /* 0 and dev 0: no fd */
	u8 killed;   /* the thread ended inside the call; ret means nothing */
	u8 captured; /* it moved a message so short that it is here; longer ones have a record of their own */
	u8 payload[SHORT_BYTES];
};

struct message_event {
	u64 enter_ns;
	u64 exit_ns;
	u64 ino;
	s64 bytes;
	u32 tid;
	u32 pid;
	u32 outgoing;
	u32 captured;
	u8 payload[PAYLOAD_BYTES];
};

struct block_event {
	u64 queued_ns;
	u64 issue_ns;
	u64 complete_ns;
	u64 sector;
	u64 ino;
	u32 dev;
	u32 bytes;
	u32 flags; /* struct request.cmd_flags: operation in the low byte */
	u32 tid;
	u32 pid;
	u32 ino_dev; /* with ino 0: pages of the block device itself; both 0: no page, or memory of a process */
	u32 generation;
	u32 pad;
};

/* A stretch of a request that carries pages of several inodes; `issue_ns` and `dev` and `sector` say of which. */
struct part_event {
	u64 issue_ns;
	u64 sector;
	u64 ino;
	u32 dev;
	u32 ino_dev;
	u32 generation;
	u32 bytes;
};

/*
 * What one thread dirtied of one inode within a tenth of a second or less, or took out of the page cache; or the space of
 * a file that it gave back, all at once.
 */
struct dirtied_event {
	u64 from_ns;
	u64 to_ns;
	u64 ino; /* 0: pages of the block device itself */
	u64 bytes;
	u32 generation;
	u32 dev;
	u32 disk; /* the device whose share of the dirty pages is limited */
	u32 tid;
	u32 pid;
	u32 kernel;
	u8 comm[COMM_BYTES];
};

/* A sum of one of the first two that still grows. */
struct dirt {
	u64 inode; /* address; 0: this place is free */
	struct dirtied_event sum;
};

/* One pause of a writer; sizes are in pages. */
struct throttle_event {
	u64 ts_ns;
	u64 pause_ticks;
	u64 dirty; /* of the host, or of the control group that is held to its share */
	u64 limit;
	u64 background_limit;
	u64 disk_dirty;
	u64 disk_limit;
	u32 disk;
	u32 tid;
	u32 pid;
	u32 pad;
};

struct socket_event {
	u64 ino;
	u64 peer_ino;
	u32 netns;
	u32 pid;
	u16 family;
	u16 type;
	u16 local_port;
	u16 peer_port;
	u32 state;
	u32 path_bytes;
	u8 local_addr[16];
	u8 peer_addr[16];
	u8 path[UNIX_PATH_BYTES];
};

struct task_event {
	u64 ts_ns;
	u32 tid;
	u32 pid;
	u32 ppid;
	u16 kind;
	u16 kernel;
	u8 comm[COMM_BYTES];
};

struct file_event {
	u64 ino;
	u32 dev;
	u32 tid;
	u32 pid;
	u32 fd;
	u32 mnt_ns;
	u32 path_bytes; /* names leaf first, each ended by a zero byte */
	u32 whole;      /* the walk reached the root */
	u32 within;     /* the path is one within its file system, found by the inode alone; mnt_ns and fd are not known */
	u8 fs_type[16];
	u8 path[PATH_BYTES];
};

/* Registers and the top of the stack of a user thread: memory of that program, not to be kept. */
struct user_stack_event {
	u64 at_ns;
	u32 tid;
	u32 pid;
	u32 running;  /* taken while it ran; else at the end of a call in which it waited */
	u32 captured; /* bytes of the slice */
	u64 registers[REGISTERS];
	u8 slice[SLICE_BYTES];
};

/* One watched thread between two events; user space reads what is still open from here at the end. */
struct thread_state {
	u64 off_ns; /* 0: on its CPU, or not known */
	u64 wake_ns;
	u64 enter_ns;
	u64 arg[3];
	u64 ino;
	u64 seen_ino; /* last file or socket described, to spare the lookup */
	u32 seen_dev;
	u32 dev;
	u32 mode;
	u32 pid;
	s32 nr; /* -1: in no system call */
	s32 state;
	s32 stack_id;
	u32 waker_tid;
	u32 waker_pid;
	u32 depth;
	u32 tid; /* 0: this place is free */
	u32 slot; /* this place */
	u64 waited_ns; /* off its CPU by its own will since its user stack was taken */
	u64 wait_middle_ns; /* within the last such stretch */
	u64 tick_ns; /* when its user stack was last taken while it ran */
};

/* How one thread spent its time while sums were kept; its place is that of its thread_state. */
struct thread_sum {
	u64 since_ns;  /* of the last switch; 0: none seen */
	u64 off_ns;    /* last stretch off its CPU, not yet in `ns` */
	u64 run_delay; /* sched_info.run_delay when last looked at */
	u64 ns[4];     /* by enum activity */
	u32 count[4];
	u32 tid; /* 0: never used */
	u32 pid;
	u32 activity; /* of that stretch, or of the one it is in */
	u32 on_cpu;
};

/* One thread's calls of one number on one file while sums were kept. */
struct call_sum {
	u64 ino;
	u64 count;
	u64 total_ns;
	u64 longest_ns;
	u32 tid; /* 0: never used */
	u32 pid;
	s32 nr;
	u32 dev;
	u32 mode; /* file type alone */
	u32 pad;
};

/* One request that a thread gave to the kernel, to be done beside it. */
struct async_event {
	u64 submit_ns;
	u64 complete_ns; /* an iocb: when its event was taken */
	u64 ring; /* a number of the ring; of an iocb the context that the program knows */
	u64 ino;
	s64 ret;
	u32 tid; /* who submitted it */
	u32 pid;
	u32 dev;
	u32 ender_tid; /* in whose context its completion was posted or taken */
	u16 mode; /* 0 and dev 0: no file */
	u8 op; /* of io_uring, or of an iocb */
	u8 by_iocb;
	u32 pad;
};

/* One TCP segment that was sent once more. */
struct retransmit_event {
	u64 at_ns;
	u64 ino;
	u32 timeout_ticks; /* 0: not known */
	u32 round_trip_us; /* the shortest one measured; 0 or all ones: none yet */
	u32 by_timer;
	u32 connecting;
};

/* What one thread does at one moment. */
struct state_event {
	u64 now_ns;
	u64 arrival_ns; /* when it last came onto a CPU, by the scheduler's clock */
	u64 ino;
	u64 arg[3];
	u64 frame[STATE_FRAMES]; /* its kernel stack, innermost first; only of uninterruptible threads */
	u32 tid;
	u32 pid;
	s32 state;
	s32 nr; /* -1: in no system call, -2: not known */
	u32 dev;
	u32 mode;
};

/* Why a process is never to be watched. */
enum exclusion { EXCLUDED_BY_USER = 1, EXCLUDED_AS_MESSENGER = 2 };

/* One process: watched, or never to be watched. */
struct watch_state {
	u32 depth; /* steps of "woken by" from a process the user named */
	u16 excluded; /* enum exclusion, or 0 */
	u16 grown; /* the probes added it */
};

/* Written by user space before the load. */
struct trace_settings {
	u32 follow_wakers;
	u32 max_depth;
	u32 max_grown;
	u32 switch_has_state; /* sched_switch has a fourth argument */
	u32 issue_has_queue;  /* block_rq_issue has the queue as its first argument */
	u32 block_start_seen; /* block_io_start exists */
	u32 offcpu_slots; /* records in a lane, a power of two */
	u32 syscall_slots;
	u32 page_bytes;
	u32 throttle_has_control; /* balance_dirty_pages has a dirty_throttle_control in place of five figures */
	u32 submit_has_ring; /* io_uring_submit_sqe has the ring as its first argument */
	u32 complete_has_request; /* io_uring_complete has the request as its second argument */
	u32 complete_has_cqe; /* and what was posted as its third, in place of numbers */
	u32 pad;
	u64 async_on_file; /* a bit for each operation of io_uring whose fd names the file it is on */
	u64 stack_period_ns; /* so much waiting for one user stack; 0: none are taken */
	u16 call_kind[NR_MAX];
};

/* Read by user space at any time; it writes `paused` and `sums_from_ns`. */
struct trace_counters {
	u32 paused; /* enum pause, or 0 */
	u32 slots;  /* places of `threads` that were ever used */
	u64 lost[RINGS];
	u64 grown;   /* processes there are now that woke a watched one, or were forked by it */
	u64 refused; /* processes or threads that should have been added and found no room */
	u64 sums_from_ns;
	u64 unsummed; /* calls that found no room among the sums */
	u64 narrow;   /* calls of 32-bit programs */
	u64 unread_iocbs; /* beyond the first of one call */
};

_Static_assert(sizeof(struct lane) == 64, "lane");
_Static_assert(sizeof(struct offcpu_event) == 64, "offcpu_event");
_Static_assert(sizeof(struct syscall_event) == 128, "syscall_event");
_Static_assert(sizeof(struct message_event) == 304, "message_event");
_Static_assert(sizeof(struct block_event) == 72, "block_event");
_Static_assert(sizeof(struct part_event) == 40, "part_event");
_Static_assert(sizeof(struct dirtied_event) == 72, "dirtied_event");
_Static_assert(sizeof(struct dirt) == 80, "dirt");
_Static_assert(sizeof(struct throttle_event) == 72, "throttle_event");
_Static_assert(sizeof(struct socket_event) == 184, "socket_event");
_Static_assert(sizeof(struct task_event) == 40, "task_event");
_Static_assert(sizeof(struct file_event) == 1080, "file_event");
_Static_assert(sizeof(struct user_stack_event) == 8488, "user_stack_event");
_Static_assert(sizeof(struct async_event) == 64, "async_event");
_Static_assert(sizeof(struct retransmit_event) == 32, "retransmit_event");
_Static_assert(sizeof(struct trace_settings) == 1096, "trace_settings");
_Static_assert(sizeof(struct trace_counters) == 176, "trace_counters");
_Static_assert(sizeof(struct thread_state) == 136, "thread_state");
_Static_assert(sizeof(struct thread_sum) == 88, "thread_sum");
_Static_assert(sizeof(struct call_sum) == 56, "call_sum");
_Static_assert(sizeof(struct state_event) == 264, "state_event");

#endif
