// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Where in its program a watched thread waits or computes: its user registers and the top of its stack, unwound and
 * forgotten at once in user space (most programs keep no frame pointers, so the kernel's own walk would be wrong).
 *
 * One stack for so much waiting, taken at the end of the call in which that much came together: the user stack is then
 * still as it was, and the thread can read its own memory. One for so much computing, at the tick of a timer.
 */

struct { MAP_KIND(MAP_RINGBUF); MAP_SIZE(1 << 20); } user_stacks_ring SEC(".maps");

#define SLICE_PART 1024

NOINLINE int report_user_stack(struct thread_state *thread, void *regs, u64 at_ns, u32 running)
{
	struct user_stack_event *event;
	u64 stack;

	if (!thread)
		return 0;
	/* One that finds no room is no loss: this is a sample. */
	event = ring_reserve(&user_stacks_ring, sizeof(*event), 0);
	if (!event)
		return 0;
	event->at_ns = at_ns;
	event->tid = thread->tid;
	event->pid = thread->pid;
	event->running = running;
	event->captured = 0;
	stack = copy_registers(regs, event->registers);
	for (u32 at = 0; stack && at < SLICE_BYTES; at += SLICE_PART) {
		if (read_user(event->slice + at, SLICE_PART, (void *)(stack + at)))
			break;
		event->captured = at + SLICE_PART;
	}
	SUBMIT(event);
	return 0;
}

/* The thread was off its CPU until now: whose stack that is shows at the end of the call it is in, if it is in one. */
INLINE void count_wait(struct thread_state *thread, u64 now)
{
	if (!thread->off_ns || !thread->state)
		return;
	thread->waited_ns += now - thread->off_ns;
	thread->wait_middle_ns = thread->off_ns + (now - thread->off_ns) / 2;
}

INLINE void sample_wait(struct thread_state *thread, void *regs)
{
	if (!settings.stack_period_ns || thread->waited_ns < settings.stack_period_ns ||
	    thread->wait_middle_ns < thread->enter_ns)
		return;
	thread->waited_ns = 0;
	report_user_stack(thread, regs, thread->wait_middle_ns, 0);
}

/* Some thirty times a second on each CPU, by a timer interrupt in the context of whoever runs there. */
SEC("perf_event")
int on_tick(void *ctx __attribute__((unused)))
{
	u64 pid_tgid = current_pid_tgid(), now;
	struct task_struct *task = (void *)current_task();
	struct thread_state *thread;
	void *regs;

	if (counters.paused || !(u32)pid_tgid || (LOAD(task, flags) & PF_KTHREAD))
		return 0;
	thread = running_thread(pid_tgid, pid_tgid >> 32, task);
	if (!thread)
		return 0;
	now = ktime_ns();
	regs = current_registers();
	if (!regs || now - thread->tick_ns < settings.stack_period_ns / 2)
		return 0;
	thread->tick_ns = now;
	report_user_stack(thread, regs, now, 1);
	return 0;
}
