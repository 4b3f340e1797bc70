// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * One record for every thread of the watched processes, and for the reader itself, read like a file: what it does at
 * this moment, and since when. A thread that waits from before the window to after it makes no event: this is all that
 * tells of it.
 */

struct { MAP_KIND(MAP_ARRAY); MAP_SIZE(1); MAP_KEY(u32); MAP_VALUE(struct state_event); } state_slot SEC(".maps");

/* The call it sleeps in, and the file of that call's fd. */
INLINE void sleeps_in(struct state_event *event, struct task_struct *task)
{
	struct thread_state thread = {};
	void *regs = registers_of(task);
	struct file *file;

	event->nr = -2;
	if (!regs)
		return;
	event->nr = call_number(regs);
	if (event->nr < 0)
		return;
	if (is_narrow(task, 0)) {
		event->nr |= NARROW_CALL;
		return;
	}
	call_arguments(regs, event->arg, 0);
	if (!(kind_of(event->nr) & CALL_FD))
		return;
	file = identify_of(task, &thread, event->arg[0], 0);
	event->dev = thread.dev;
	event->ino = thread.ino;
	event->mode = thread.mode;
	if (file)
		describe(&thread, file, task, event->arg[0]);
}

SEC("iter/task")
int on_state(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;
	struct seq_file *seq = ctx->meta->seq;
	struct state_event fresh = { .nr = -1 }, *event;
	struct watch_state *watch;
	u32 zero = 0, pid, tid;

	if (!task)
		return 0;
	pid = LOAD(task, tgid);
	tid = LOAD(task, pid);
	watch = map_lookup(&watched, &pid);
	if ((!watch || watch->excluded) && tid != (u32)current_pid_tgid())
		return 0;
	event = map_lookup(&state_slot, &zero);
	if (!event)
		return 0;
	*event = fresh;
	event->now_ns = ktime_ns();
	event->tid = tid;
	event->pid = pid;
	event->state = state_of(task);
	if (FIELD_EXISTS(struct task_struct, sched_info))
		event->arrival_ns = LOAD(task, sched_info.last_arrival);
	if (event->state && !(LOAD(task, flags) & PF_KTHREAD))
		sleeps_in(event, task);
	if ((event->state & TASK_UNINTERRUPTIBLE) && !(event->state & TASK_NOLOAD))
		task_stack(task, event->frame, sizeof(event->frame), 0);
	seq_write(seq, event, sizeof(*event));
	return 0;
}
