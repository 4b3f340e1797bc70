// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* All probes as one object, since they share the table of watched threads. */
#include "events.h"
#include "compat.bpf.h"
#include "lanes.bpf.c"
#include "tasks.bpf.c"
#include "files.bpf.c"
#include "async.bpf.c"
#include "stacks.bpf.c"
#include "tcp.bpf.c"
#include "sched.bpf.c"
#include "syscall.bpf.c"
#include "block.bpf.c"
#include "memory.bpf.c"
#include "released.bpf.c"
#include "sums.bpf.c"
#include "states.bpf.c"

/* Never used: it makes the compiler describe the records in the object, where the layout test looks them up. */
const union {
	struct offcpu_event offcpu;
	struct syscall_event syscall;
	struct message_event message;
	struct block_event block;
	struct part_event part;
	struct dirt dirt;
	struct throttle_event throttle;
	struct socket_event socket;
	struct task_event task;
	struct async_event async;
	struct retransmit_event retransmit;
	struct file_event file;
	struct state_event state;
	struct user_stack_event user_stack;
} *record_types SEC(".bss.types");

char culpa_license[] SEC("license") = "Dual BSD/GPL";
