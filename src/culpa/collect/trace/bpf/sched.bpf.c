// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* One record per stretch a watched thread was off its CPU, written when it runs again. */

PER_CPU_ARRAY(offcpu_lanes, struct lane);
PER_CPU_ARRAY(offcpu_slots, struct offcpu_event);
struct {
	MAP_KIND(MAP_STACK_TRACE);
	MAP_SIZE(8192);
	MAP_KEY(u32);
	u64 (*value)[127];
} stacks SEC(".maps");

/* 0 preempted, 1 interruptible (also the idle wait of kernel threads), 2 uninterruptible, 4 stopped, 8 traced, 0x8000 frozen. */
INLINE s32 reported_state(u64 preempted, s32 state)
{
	if (preempted)
		return 0;
	if (state & TASK_NOLOAD)
		return TASK_INTERRUPTIBLE;
	return state & TASK_REPORTED;
}

/* A stack whose place in the map another one has gets none. Without its first frames, which are this probe's and its
 * tracepoint's, it has another place: of a hundred stacks one or two would be missing otherwise. */
INLINE s32 kernel_stack(struct raw_args *ctx)
{
	s32 id = stack_id_of(ctx, &stacks, STACK_FAST_COMPARE);

	if (id == -EEXIST)
		id = stack_id_of(ctx, &stacks, STACK_FAST_COMPARE | 1);
	if (id == -EEXIST)
		id = stack_id_of(ctx, &stacks, STACK_FAST_COMPARE | 2);
	return id;
}

INLINE void switched_out(struct raw_args *ctx, struct task_struct *prev, s32 state, u64 now)
{
	u64 pid_tgid = current_pid_tgid();
	u32 tid = pid_tgid, pid = pid_tgid >> 32;
	struct thread_state *thread;

	if (state & TASK_DEAD) {
		ends_on_cpu(prev, tid, pid);
		return;
	}
	thread = running_thread(tid, pid, prev);
	if (!thread)
		return;
	thread->state = reported_state(ctx->arg[0] & 1, state);
	thread->stack_id = -1;
	/* Uninterruptible waits alone: a stack costs as much as ten switches. */
	if (thread->state & TASK_UNINTERRUPTIBLE)
		thread->stack_id = kernel_stack(ctx);
	thread->off_ns = now;
}

INLINE void switched_in(struct task_struct *next, u32 prev_tid, u64 now, const int direct)
{
	u32 tid = READ(direct, next, pid);
	struct thread_state *thread = tid ? running_thread(tid, READ(direct, next, tgid), next) : 0;
	struct offcpu_event *event;
	u32 position;

	if (!thread)
		return;
	event = take_slot(&offcpu_lanes, &offcpu_slots, settings.offcpu_slots, &position);
	if (event) {
		event->off_ns = thread->off_ns;
		event->wake_ns = thread->wake_ns;
		event->on_ns = now;
		event->tid = tid;
		event->pid = thread->pid;
		event->state = thread->state;
		event->stack_id = thread->stack_id;
		event->waker_tid = thread->waker_tid;
		event->waker_pid = thread->waker_pid;
		event->prev_tid = prev_tid;
		event->cpu = cpu_id();
		FINISH(event, position);
	}
	count_wait(thread, now);
	thread->off_ns = 0;
	thread->wake_ns = 0;
	thread->waker_tid = 0;
	thread->waker_pid = 0;
}

INLINE int switches(struct raw_args *ctx, const int direct)
{
	struct task_struct *prev = (void *)ctx->arg[1], *next = (void *)ctx->arg[2];
	u32 prev_tid = current_pid_tgid();
	u64 now;

	if (counters.paused)
		return 0;
	now = ktime_ns();
	/* The state became an argument in 5.18 (fa2c3254d7cf); before it is still in the task at this point. */
	if (prev_tid)
		switched_out(ctx, prev, settings.switch_has_state ? (s32)ctx->arg[3] : state_of(prev), now);
	switched_in(next, prev_tid, now, direct);
	return 0;
}

SEC("raw_tp/sched_switch")
int on_switch(struct raw_args *ctx)
{
	return switches(ctx, 0);
}

SEC("raw_tp/sched_switch")
int on_switch_direct(struct raw_args *ctx)
{
	return switches(ctx, 1);
}

INLINE int woken(struct task_struct *task, const int direct)
{
	struct thread_state *thread;
	u64 waker;

	if (counters.paused)
		return 0;
	thread = thread_of(READ(direct, task, pid), READ(direct, task, tgid), task);
	if (!thread)
		return 0;
	waker = current_pid_tgid();
	/* Also when it has not left its CPU yet: waking can overtake the switch; the decoder clips to the stretch. */
	thread->wake_ns = ktime_ns();
	thread->waker_tid = waker;
	thread->waker_pid = waker >> 32;
	if ((u32)waker && (waker >> 32) != thread->pid && !(kind_of(thread->nr) & CALL_SLEEPS))
		follow_waker(waker >> 32, thread->depth, thread->state);
	return 0;
}

/* In the context of the waker; sched_wakeup may come later and elsewhere. */
SEC("raw_tp/sched_waking")
int on_waking(struct raw_args *ctx)
{
	return woken((void *)ctx->arg[0], 0);
}

SEC("raw_tp/sched_waking")
int on_waking_direct(struct raw_args *ctx)
{
	return woken((void *)ctx->arg[0], 1);
}

SEC("raw_tp/sched_wakeup_new")
int on_wakeup_new(struct raw_args *ctx)
{
	return woken((void *)ctx->arg[0], 0);
}
