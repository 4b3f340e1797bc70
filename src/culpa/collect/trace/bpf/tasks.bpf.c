// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Which threads are watched, and how that set grows: children of a watched process, and whoever wakes a watched thread.
 * Every other part asks thread_of() first and does nothing for threads that are not watched.
 */

const volatile struct trace_settings settings SEC(".rodata.settings");
volatile struct trace_counters counters SEC(".bss.counters");

struct { MAP_KIND(MAP_HASH); MAP_SIZE(8192); MAP_KEY(u32); MAP_VALUE(struct watch_state); } watched SEC(".maps");
/*
 * Nearly every call and switch of a host is of a process that is not watched. An array is asked by single instructions, a
 * hash is not: this one knows for the last 16 bits of a process's number whether one of those was ever to be watched.
 */
struct { MAP_KIND(MAP_ARRAY); MAP_SIZE(1 << 16); MAP_KEY(u32); MAP_VALUE(u32); } hints SEC(".maps");
/*
 * The states of the threads lie in an array, since that is found by single instructions; each CPU has a seat that says
 * where the state of its last thread lies, so that the hash is asked but rarely.
 */
struct { MAP_KIND(MAP_ARRAY); MAP_SIZE(THREADS_MAX); MAP_KEY(u32); MAP_VALUE(struct thread_state); MAP_FLAGS(MAPPABLE); }
	threads SEC(".maps");
struct { MAP_KIND(MAP_HASH); MAP_SIZE(THREADS_MAX); MAP_KEY(u32); MAP_VALUE(u32); } slot_of_tid SEC(".maps");
struct { MAP_KIND(MAP_STACK); MAP_SIZE(THREADS_MAX); MAP_VALUE(u32); } free_slots SEC(".maps");

struct seat {
	u32 tid;
	u32 slot;
	u64 pad[7]; /* a cache line of its own */
};
PER_CPU_ARRAY(seats, struct seat);

struct { MAP_KIND(MAP_LRU_HASH); MAP_SIZE(4096); MAP_KEY(u32); MAP_VALUE(u32); } wakes SEC(".maps");
struct { MAP_KIND(MAP_RINGBUF); MAP_SIZE(1 << 20); } tasks_ring SEC(".maps");

#define RESERVE(ring, id, type)                                             \
	({                                                                  \
		type *record_ = ring_reserve(&ring, sizeof(type), 0);       \
		if (!record_)                                               \
			COUNT(&counters.lost[id], 1);                       \
		record_;                                                    \
	})
/* User space comes round by itself: waking it per record would cost more than the record. */
#define SUBMIT(record) ring_submit(record, RB_NO_WAKEUP)

NOINLINE int report_task(struct task_struct *task, u32 kind)
{
	struct task_event *event = RESERVE(tasks_ring, RING_TASKS, struct task_event);

	if (!event)
		return 0;
	event->ts_ns = ktime_ns();
	event->tid = LOAD(task, pid);
	event->pid = LOAD(task, tgid);
	event->ppid = LOAD(LOAD(task, real_parent), tgid);
	event->kind = kind;
	event->kernel = (LOAD(task, flags) & PF_KTHREAD) != 0;
	read_kernel(event->comm, COMM_BYTES, &task->comm);
	SUBMIT(event);
	return 0;
}

/* The state at a place, if it is that thread's: a thread may have ended and its place been given to another. */
INLINE struct thread_state *thread_at(u32 slot, u32 tid)
{
	struct thread_state *thread = map_lookup(&threads, &slot);

	return thread && thread->tid == tid ? thread : 0;
}

INLINE struct thread_state *thread_begins(u32 tid, u32 pid, u32 depth, struct task_struct *task)
{
	struct thread_state fresh = { .pid = pid, .nr = -1, .stack_id = -1, .depth = depth, .tid = tid }, *thread;
	u32 slot;

	if (map_pop(&free_slots, &slot))
		slot = counters.slots < THREADS_MAX ? FETCH_INCREMENT(&counters.slots) : THREADS_MAX;
	fresh.slot = slot;
	thread = map_lookup(&threads, &slot);
	if (!thread) {
		COUNT(&counters.refused, 1);
		return 0;
	}
	*thread = fresh;
	if (map_update(&slot_of_tid, &tid, &slot, NOEXIST)) {
		/* Another CPU was faster. */
		thread->tid = 0;
		map_push(&free_slots, &slot, ANY);
		return 0;
	}
	report_task(task, TASK_SEEN);
	return thread;
}

INLINE void thread_ends(u32 tid)
{
	u32 *known = map_lookup(&slot_of_tid, &tid), slot;
	struct thread_state *thread;

	if (!known)
		return;
	slot = *known;
	thread = thread_at(slot, tid);
	map_delete(&slot_of_tid, &tid);
	if (!thread)
		return;
	thread->tid = 0;
	/* The sums of a thread that ended stay at its place. */
	if (!counters.paused)
		map_push(&free_slots, &slot, ANY);
}

INLINE u32 *hint_of(u32 pid)
{
	u32 key = pid & 0xffff;

	return map_lookup(&hints, &key);
}

INLINE int may_be_watched(u32 pid)
{
	u32 *hint = hint_of(pid);

	return hint && *hint;
}

/* The state of a watched thread; null for all others. */
INLINE struct thread_state *thread_of(u32 tid, u32 pid, struct task_struct *task)
{
	struct watch_state *watch;
	u32 *slot;

	if (!may_be_watched(pid))
		return 0;
	watch = map_lookup(&watched, &pid);
	if (!watch || watch->excluded)
		return 0;
	slot = map_lookup(&slot_of_tid, &tid);
	return slot ? thread_at(*slot, tid) : thread_begins(tid, pid, watch->depth, task);
}

/* The same for the thread that runs on this CPU, or is about to. */
INLINE struct thread_state *running_thread(u32 tid, u32 pid, struct task_struct *task)
{
	u32 cpu;
	struct seat *seat;
	struct thread_state *thread;

	if (!may_be_watched(pid))
		return 0;
	cpu = cpu_id();
	seat = map_lookup(&seats, &cpu);
	thread = seat && seat->tid == tid ? thread_at(seat->slot, tid) : 0;
	if (thread)
		return thread;
	thread = thread_of(tid, pid, task);
	if (seat && thread) {
		seat->slot = thread->slot;
		seat->tid = tid;
	}
	return thread;
}

INLINE int starts_with(const char *text, const char *prefix, int bytes)
{
	for (int i = 0; i < bytes; i++)
		if (text[i] != prefix[i])
			return 0;
	return 1;
}

INLINE int is_worker(struct task_struct *task)
{
	char comm[COMM_BYTES] = {};

	read_kernel(comm, COMM_BYTES, &task->comm);
	return (LOAD(task, flags) & PF_KTHREAD) && starts_with(comm, "kworker", 7);
}

/* Kernel threads that only pass on what an interrupt brought: what they did before says nothing about a wait. */
INLINE int is_messenger(struct task_struct *task)
{
	char comm[COMM_BYTES] = {};

	if (!(LOAD(task, flags) & PF_KTHREAD))
		return 0;
	read_kernel(comm, COMM_BYTES, &task->comm);
	return starts_with(comm, "ksoftirqd", 9) || starts_with(comm, "migration", 9) || starts_with(comm, "ktimers", 7) ||
	       starts_with(comm, "rcu", 3) || starts_with(comm, "irq/", 4) || starts_with(comm, "kthreadd", 8);
}

NOINLINE int watch_process(u32 pid, u32 depth)
{
	struct watch_state watch = { .depth = depth, .grown = 1 };
	u32 *hint = hint_of(pid);

	if (hint)
		*hint = 1;
	if (counters.grown >= settings.max_grown || map_update(&watched, &pid, &watch, NOEXIST)) {
		COUNT(&counters.refused, 1);
		return 0;
	}
	COUNT(&counters.grown, 1);
	return 0;
}

/* Its number may be another's soon, and its room is free for the next. */
INLINE void process_ends(u32 pid)
{
	struct watch_state *watch = map_lookup(&watched, &pid);
	u32 grown = watch && watch->grown;

	if (!map_delete(&watched, &pid) && grown)
		COUNT(&counters.grown, -1);
}

/*
 * A thread leaves its CPU for good. What it did since its end was reported was to let go of its memory and files: since
 * 6.16 the tracepoint comes before that. The last thread of a process takes it out of the watched ones.
 */
INLINE void ends_on_cpu(struct task_struct *task, u32 tid, u32 pid)
{
	if (map_lookup(&slot_of_tid, &tid))
		report_task(task, TASK_EXIT);
	thread_ends(tid);
	if (LOAD(LOAD(task, signal), live.counter) == 0)
		process_ends(pid);
}

INLINE u32 kind_of(s32 nr)
{
	return (u32)nr < NR_MAX ? settings.call_kind[(u32)nr] : 0;
}

/*
 * Whether the wake-up may be the doing of the current task. An interrupt borrows anybody's context, so a program must be
 * in a call that wakes others, and what ends an uninterruptible wait is an interrupt or a kernel thread. Whether this is
 * an interrupt cannot be asked everywhere: x86 keeps the preemption count where only kernels with all their data symbols
 * in kallsyms let it be read.
 */
INLINE int may_be_own_doing(struct task_struct *task, s32 state)
{
	s32 nr;

	if (LOAD(task, flags) & PF_KTHREAD)
		return 1;
	if (state & TASK_UNINTERRUPTIBLE)
		return 0;
	nr = current_call();
	return nr == -2 || (kind_of(nr) & (CALL_IN | CALL_OUT | CALL_SOCKET | CALL_FD_GONE | CALL_WAKES));
}

/*
 * The current thread wakes one at `depth`. The further from the target, the more often that must happen before it is
 * watched: once, twice, four times ...
 */
INLINE void follow_waker(u32 pid, u32 depth, s32 state)
{
	struct task_struct *task = (void *)current_task();
	u32 one = 1, *count;

	if (!settings.follow_wakers || depth >= settings.max_depth || map_lookup(&watched, &pid) || !may_be_own_doing(task, state))
		return;
	count = map_lookup(&wakes, &pid);
	if (count)
		one = FETCH_INCREMENT(count) + 1;
	else
		map_update(&wakes, &pid, &one, ANY);
	if (one < 1u << (depth & 15))
		return;
	if (is_messenger(task)) {
		struct watch_state never = { .excluded = EXCLUDED_AS_MESSENGER };

		map_update(&watched, &pid, &never, NOEXIST);
		return;
	}
	/* Whoever queues work wakes a worker; that says nothing of this wait, so nobody is followed beyond one. */
	watch_process(pid, is_worker(task) ? settings.max_depth : depth + 1);
}

/* What an excluded process starts is excluded too, unless the user names it: its own tools would look like wakers. */
SEC("raw_tp/sched_process_fork")
int on_fork(struct raw_args *ctx)
{
	struct task_struct *parent = (void *)ctx->arg[0], *child = (void *)ctx->arg[1];
	u32 parent_pid = LOAD(parent, tgid), child_pid = LOAD(child, tgid);
	struct watch_state *watch, never = { .excluded = EXCLUDED_BY_USER };

	if (counters.paused == PAUSED || parent_pid == child_pid)
		return 0;
	watch = map_lookup(&watched, &parent_pid);
	if (!watch)
		return 0;
	if (watch->excluded == EXCLUDED_BY_USER)
		map_update(&watched, &child_pid, &never, NOEXIST);
	else if (!watch->excluded)
		watch_process(child_pid, watch->depth);
	return 0;
}

/* A thread that executes a program takes over its leader's id: what was kept under its old id is void. */
SEC("raw_tp/sched_process_exec")
int on_exec(struct raw_args *ctx)
{
	struct task_struct *task = (void *)ctx->arg[0];
	u32 old = ctx->arg[1], tid = LOAD(task, pid), pid = LOAD(task, tgid);

	if (counters.paused == PAUSED || !thread_of(tid, pid, task))
		return 0;
	if (old != tid)
		thread_ends(old);
	report_task(task, TASK_EXEC);
	return 0;
}
