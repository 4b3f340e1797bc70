// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * In place of the records when those cost more than the budget: per thread how long it ran and was off its CPU, and per
 * thread, call and file how often and how long. User space reads the sums from mapped memory when it wants them.
 *
 * A cell belongs to one thread, and a thread runs on one CPU at a time: nothing is counted atomically but the taking of
 * a cell. Wake-ups are not traced: the kernel itself counts what a thread was runnable (sched_info, CONFIG_SCHED_INFO).
 */

struct { MAP_KIND(MAP_ARRAY); MAP_SIZE(THREADS_MAX); MAP_KEY(u32); MAP_VALUE(struct thread_sum); MAP_FLAGS(MAPPABLE); }
	thread_sums SEC(".maps");
struct { MAP_KIND(MAP_ARRAY); MAP_SIZE(CALL_SUMS); MAP_KEY(u32); MAP_VALUE(struct call_sum); MAP_FLAGS(MAPPABLE); }
	call_sums SEC(".maps");

#define CELL_STEPS 8

INLINE struct thread_sum *sum_of(struct thread_state *thread)
{
	u32 slot = thread->slot;
	struct thread_sum *sum = map_lookup(&thread_sums, &slot);

	if (sum && sum->tid != thread->tid) {
		struct thread_sum fresh = { .tid = thread->tid, .pid = thread->pid };

		*sum = fresh;
	}
	return sum;
}

INLINE enum activity activity_of(s32 state)
{
	if (!state)
		return RUNNABLE;
	return state & TASK_UNINTERRUPTIBLE ? BLOCKED : SLEEPING;
}

/* Of the stretch off its CPU that ended last, the part that the thread was already runnable again. */
INLINE void settle(struct thread_sum *sum, struct task_struct *task, const int direct)
{
	u64 delay = 0, total;

	if (FIELD_EXISTS(struct task_struct, sched_info)) {
		total = READ(direct, task, sched_info.run_delay);
		delay = sum->run_delay ? total - sum->run_delay : 0;
		sum->run_delay = total;
	}
	if (delay > sum->off_ns)
		delay = sum->off_ns;
	sum->ns[RUNNABLE] += delay;
	sum->ns[sum->activity & 3] += sum->off_ns - delay;
	sum->off_ns = 0;
}

INLINE void sum_out(struct raw_args *ctx, struct task_struct *prev, s32 state, u64 now, const int direct)
{
	u64 pid_tgid = current_pid_tgid();
	u32 tid = pid_tgid, pid = pid_tgid >> 32;
	struct thread_state *thread = running_thread(tid, pid, prev);
	struct thread_sum *sum = thread ? sum_of(thread) : 0;

	if (sum) {
		settle(sum, prev, direct);
		if (sum->since_ns)
			sum->ns[RUNNING] += now - sum->since_ns;
		sum->activity = activity_of(reported_state(ctx->arg[0] & 1, state));
		sum->count[sum->activity & 3] += 1;
		sum->on_cpu = 0;
		sum->since_ns = now;
	}
	if (state & TASK_DEAD)
		ends_on_cpu(prev, tid, pid);
}

INLINE void sum_in(struct task_struct *next, u64 now, const int direct)
{
	u32 tid = READ(direct, next, pid);
	struct thread_state *thread = tid ? running_thread(tid, READ(direct, next, tgid), next) : 0;
	struct thread_sum *sum = thread ? sum_of(thread) : 0;

	if (!sum)
		return;
	sum->off_ns = sum->since_ns ? now - sum->since_ns : 0;
	/* The delay of this very stretch is added only after the switch. */
	if (FIELD_EXISTS(struct task_struct, sched_info) && !sum->run_delay)
		sum->run_delay = READ(direct, next, sched_info.run_delay);
	sum->on_cpu = 1;
	sum->since_ns = now;
}

INLINE int sum_switches(struct raw_args *ctx, const int direct)
{
	struct task_struct *prev = (void *)ctx->arg[1], *next = (void *)ctx->arg[2];
	u64 now;

	if (counters.paused == PAUSED)
		return 0;
	now = ktime_ns();
	if ((u32)current_pid_tgid())
		sum_out(ctx, prev, settings.switch_has_state ? (s32)ctx->arg[3] : state_of(prev), now, direct);
	sum_in(next, now, direct);
	return 0;
}

/* The cell of this thread, call and file; taken if there is none. Null: all the places it might be at are taken. */
INLINE struct call_sum *cell_of(struct thread_state *thread, u32 mode)
{
	u32 index, tid = thread->tid;
	u32 start = (tid * 2654435761u) ^ ((u32)thread->nr * 40503u << 8) ^ ((u32)thread->ino * 2246822519u) ^ thread->dev;
	struct call_sum *cell;

	start ^= start >> 15;
	for (u32 step = 0; step < CELL_STEPS; step++) {
		index = (start + step) & (CALL_SUMS - 1);
		cell = map_lookup(&call_sums, &index);
		if (!cell)
			return 0;
		if (cell->tid == tid && cell->nr == thread->nr && cell->ino == thread->ino && cell->dev == thread->dev &&
		    cell->mode == mode)
			return cell;
		if (!cell->tid && CLAIM(&cell->tid, tid)) {
			cell->pid = thread->pid;
			cell->nr = thread->nr;
			cell->dev = thread->dev;
			cell->ino = thread->ino;
			cell->mode = mode;
			return cell;
		}
	}
	COUNT(&counters.unsummed, 1);
	return 0;
}

INLINE void count_call(struct thread_state *thread, u64 now)
{
	u64 began = thread->enter_ns > counters.sums_from_ns ? thread->enter_ns : counters.sums_from_ns;
	struct call_sum *cell;

	/* Of sockets there may be as many as clients, and which one it was explains little: they are summed as one. */
	if ((thread->mode & S_IFMT) == S_IFSOCK) {
		thread->ino = 0;
		thread->dev = 0;
	}
	cell = cell_of(thread, thread->mode & S_IFMT);
	if (!cell)
		return;
	cell->count += 1;
	cell->total_ns += now - began;
	if (now - thread->enter_ns > cell->longest_ns && thread->enter_ns)
		cell->longest_ns = now - thread->enter_ns;
}

INLINE void sum_fd(struct thread_state *thread, u32 fd, const int direct)
{
	struct file *file = identify(thread, fd, direct);

	if (file && (thread->mode & S_IFMT) != S_IFSOCK)
		describe(thread, file, (void *)current_task(), fd);
}

INLINE int sum_begins(struct raw_args *ctx, const int direct)
{
	u64 pid_tgid;
	struct thread_state *thread;

	if (counters.paused == PAUSED)
		return 0;
	pid_tgid = current_pid_tgid();
	thread = running_thread(pid_tgid, pid_tgid >> 32, (void *)current_task());
	if (!thread)
		return 0;
	enter_call(thread, ctx->arg[1], direct);
	if (kind_of(thread->nr) & (CALL_FD | CALL_FD_RETURN)) {
		call_arguments((void *)ctx->arg[0], thread->arg, direct);
		if (kind_of(thread->nr) & CALL_FD_GONE)
			sum_fd(thread, thread->arg[0], direct);
	}
	thread->enter_ns = ktime_ns();
	return 0;
}

INLINE int sum_ends(struct raw_args *ctx, const int direct)
{
	u64 pid_tgid;
	struct thread_state *thread;
	s64 ret = ctx->arg[1];
	u32 kind;

	if (counters.paused == PAUSED)
		return 0;
	pid_tgid = current_pid_tgid();
	thread = running_thread(pid_tgid, pid_tgid >> 32, (void *)current_task());
	if (!thread)
		return 0;
	if (thread->nr < 0) {
		thread->enter_ns = 0;
		enter_call(thread, call_number((void *)ctx->arg[0]), direct);
		call_arguments((void *)ctx->arg[0], thread->arg, direct);
	}
	kind = kind_of(thread->nr);
	if ((kind & CALL_FD_RETURN) && ret >= 0)
		sum_fd(thread, ret, direct);
	else if ((kind & CALL_FD) && !(kind & CALL_FD_GONE))
		sum_fd(thread, thread->arg[0], direct);
	count_call(thread, ktime_ns());
	thread->nr = -1;
	return 0;
}

SEC("raw_tp/sched_switch")
int sum_switch(struct raw_args *ctx)
{
	return sum_switches(ctx, 0);
}

SEC("raw_tp/sched_switch")
int sum_switch_direct(struct raw_args *ctx)
{
	return sum_switches(ctx, 1);
}

SEC("raw_tp/sys_enter")
int sum_call(struct raw_args *ctx)
{
	return sum_begins(ctx, 0);
}

SEC("raw_tp/sys_enter")
int sum_call_direct(struct raw_args *ctx)
{
	return sum_begins(ctx, 1);
}

SEC("raw_tp/sys_exit")
int sum_return(struct raw_args *ctx)
{
	return sum_ends(ctx, 0);
}

SEC("raw_tp/sys_exit")
int sum_return_direct(struct raw_args *ctx)
{
	return sum_ends(ctx, 1);
}
