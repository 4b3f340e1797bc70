// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * One record per system call of a watched thread. A short message on a socket is in the record of its call, of a longer
 * one the first bytes are in a record of their own.
 */

PER_CPU_ARRAY(syscall_lanes, struct lane);
PER_CPU_ARRAY(syscall_slots, struct syscall_event);
struct { MAP_KIND(MAP_RINGBUF); MAP_SIZE(1 << 24); } messages_ring SEC(".maps");

struct user_iovec { u64 base; u64 bytes; };
struct user_msghdr { u64 name; u64 name_bytes; u64 iov; u64 iov_count; };

struct user_mmsghdr { struct user_msghdr header; u64 rest[3]; u32 bytes; u32 pad; };

#define SECOND_BYTES (PAYLOAD_BYTES / 2)
#define MSG_PEEK 2

INLINE u32 copy_buffer(struct message_event *event, u64 from, u64 bytes)
{
	u32 wanted = bytes > PAYLOAD_BYTES ? PAYLOAD_BYTES : bytes;

	KEEP(wanted);
	if (wanted > PAYLOAD_BYTES || read_user(event->payload, wanted, (void *)from))
		return 0;
	return wanted;
}

/* The first two pieces: writers such as Redis put a short head before the body. */
INLINE u32 copy_vector(struct message_event *event, u64 from, u64 count, u64 bytes)
{
	struct user_iovec piece[2] = {};
	u32 first, second;

	if (!count || read_user(piece, count > 1 ? 32 : 16, (void *)from))
		return 0;
	first = copy_buffer(event, piece[0].base, piece[0].bytes < bytes ? piece[0].bytes : bytes);
	if (first != piece[0].bytes || first > SECOND_BYTES || first >= bytes)
		return first;
	bytes -= first;
	if (piece[1].bytes < bytes)
		bytes = piece[1].bytes;
	second = bytes > SECOND_BYTES ? SECOND_BYTES : bytes;
	KEEP(first);
	KEEP(second);
	if (first > SECOND_BYTES || second > SECOND_BYTES)
		return first;
	return read_user(event->payload + first, second, (void *)piece[1].base) ? first : first + second;
}

INLINE u32 copy_payload(struct message_event *event, struct thread_state *thread, u32 kind, u64 bytes)
{
	struct user_msghdr header = {};

	if (kind & CALL_BUFFER)
		return copy_buffer(event, thread->arg[1], bytes);
	if (kind & CALL_VECTOR)
		return copy_vector(event, thread->arg[1], thread->arg[2], bytes);
	if (!(kind & CALL_MSGHDR) || read_user(&header, sizeof(header), (void *)thread->arg[1]))
		return 0;
	return copy_vector(event, header.iov, header.iov_count, bytes);
}

NOINLINE int report_message(struct thread_state *thread, u32 kind, s64 bytes, u32 tid, u64 now)
{
	struct message_event *event;

	if (!thread)
		return 0;
	event = RESERVE(messages_ring, RING_MESSAGES, struct message_event);
	if (!event)
		return 0;
	event->enter_ns = thread->enter_ns;
	event->exit_ns = now;
	event->ino = thread->ino;
	event->bytes = bytes;
	event->tid = tid;
	event->pid = thread->pid;
	event->outgoing = (kind & CALL_OUT) != 0;
	event->captured = copy_payload(event, thread, kind, bytes);
	SUBMIT(event);
	return 0;
}

/* What the first two messages of a sendmmsg moved; a resolver asks for two kinds of address at once. */
INLINE s64 bytes_of_many(u64 from, s64 count)
{
	u32 first = 0, second = 0;

	read_user(&first, sizeof(first), &((struct user_mmsghdr *)from)->bytes);
	if (count > 1)
		read_user(&second, sizeof(second), &((struct user_mmsghdr *)from + 1)->bytes);
	return (s64)first + second;
}

/* Bytes that are only looked at will be read again. recvfrom has its flags in the fourth argument, recvmsg in the third. */
INLINE int is_peek(struct thread_state *thread, void *regs, u32 kind)
{
	if (kind & CALL_MSGHDR)
		return thread->arg[2] & MSG_PEEK;
	return (kind & CALL_SOCKET) && (call_argument_3(regs) & MSG_PEEK);
}

/* The socket of a descriptor that carries messages, or has just come to be; null for all else, which is described. */
INLINE struct file *socket_at(struct thread_state *thread, u32 fd, u32 kind, const int direct)
{
	struct file *file = identify(thread, fd, direct);

	if (!file)
		return 0;
	if ((thread->mode & S_IFMT) != S_IFSOCK) {
		describe(thread, file, (void *)current_task(), fd);
		return 0;
	}
	return kind & (CALL_IN | CALL_OUT | CALL_SOCKET) ? file : 0;
}

/* The descriptor that a call returns; such calls carry no message. */
INLINE void look_at_new_fd(struct thread_state *thread, u32 fd, u32 kind, const int direct)
{
	struct file *file = socket_at(thread, fd, kind, direct);

	if (file)
		describe_socket(thread, file, 0);
}

/* Returns how many bytes of a message are to go into the record of the call. */
INLINE u32 look_at_fd(struct thread_state *thread, void *regs, u32 fd, u32 kind, s64 ret, u64 now,
			const int direct)
{
	u64 pid_tgid = current_pid_tgid();
	struct file *file = socket_at(thread, fd, kind, direct);

	if (!file)
		return 0;
	if (!(kind & (CALL_IN | CALL_OUT)) || !is_known(thread->ino, ret > 0))
		describe_socket(thread, file, kind & CALL_TO ? call_argument_4(regs) : 0);
	if (ret <= 0 || !(kind & (CALL_IN | CALL_OUT)) || ((kind & CALL_IN) && is_peek(thread, regs, kind)))
		return 0;
	if ((kind & CALL_BUFFER) && ret <= SHORT_BYTES)
		return ret;
	report_message(thread, kind, kind & CALL_MANY ? bytes_of_many(thread->arg[1], ret) : ret, pid_tgid, now);
	return 0;
}

INLINE void report_call(struct thread_state *thread, u32 tid, s64 ret, u64 now, u32 message_bytes, u32 killed)
{
	u32 position;
	struct syscall_event *event = take_slot(&syscall_lanes, &syscall_slots, settings.syscall_slots, &position);

	if (!event)
		return;
	event->enter_ns = thread->enter_ns;
	event->exit_ns = now;
	event->ret = ret;
	event->arg[0] = thread->arg[0];
	event->arg[1] = thread->arg[1];
	event->arg[2] = thread->arg[2];
	event->ino = thread->ino;
	event->tid = tid;
	event->pid = thread->pid;
	event->nr = thread->nr;
	event->dev = thread->dev;
	event->mode = thread->mode;
	event->killed = killed;
	KEEP(message_bytes);
	if (message_bytes > SHORT_BYTES || !message_bytes ||
	    read_user(event->payload, message_bytes, (void *)thread->arg[1]))
		message_bytes = 0;
	event->captured = message_bytes;
	FINISH(event, position);
}

INLINE void forget_fd(struct thread_state *thread)
{
	thread->ino = 0;
	thread->dev = 0;
	thread->mode = 0;
}

/* Notes the number of the call that the current thread begins or was found in. */
INLINE void enter_call(struct thread_state *thread, s32 nr, const int direct)
{
	thread->nr = nr;
	if (nr >= 0 && is_narrow((void *)current_task(), direct)) {
		thread->nr = nr | NARROW_CALL;
		COUNT(&counters.narrow, 1);
	}
	forget_fd(thread);
}

INLINE int call_begins(struct raw_args *ctx, const int direct)
{
	u64 pid_tgid;
	struct thread_state *thread;
	struct file *file;
	u32 kind;

	if (counters.paused)
		return 0;
	pid_tgid = current_pid_tgid();
	thread = running_thread(pid_tgid, pid_tgid >> 32, (void *)current_task());
	if (!thread)
		return 0;
	enter_call(thread, ctx->arg[1], direct);
	call_arguments((void *)ctx->arg[0], thread->arg, direct);
	kind = kind_of(thread->nr);
	if (kind & CALL_FD_GONE) {
		file = identify(thread, thread->arg[0], direct);
		if (file)
			describe(thread, file, (void *)current_task(), thread->arg[0]);
	}
	thread->enter_ns = ktime_ns();
	if (kind & CALL_SUBMITS)
		note_iocbs(thread->slot);
	return 0;
}

INLINE int call_ends(struct raw_args *ctx, const int direct)
{
	u64 pid_tgid, now;
	void *regs = (void *)ctx->arg[0];
	struct thread_state *thread;
	s64 ret = ctx->arg[1];
	u32 kind, message_bytes = 0;

	if (counters.paused)
		return 0;
	pid_tgid = current_pid_tgid();
	thread = running_thread(pid_tgid, pid_tgid >> 32, (void *)current_task());
	if (!thread)
		return 0;
	now = ktime_ns();
	if (thread->nr < 0) {
		thread->enter_ns = 0;
		enter_call(thread, call_number(regs), direct);
		call_arguments(regs, thread->arg, direct);
	}
	kind = kind_of(thread->nr);
	/* accept: the listening socket first, then the connection, whose identity stays. */
	if ((kind & CALL_FD) && !(kind & CALL_FD_GONE))
		message_bytes = look_at_fd(thread, regs, thread->arg[0], kind, ret, now, direct);
	if ((kind & CALL_FD_RETURN) && ret >= 0)
		look_at_new_fd(thread, ret, kind, direct);
	if (kind & CALL_TAKES)
		note_events(thread->slot, call_argument_3(regs), ret, now);
	report_call(thread, pid_tgid, ret, now, message_bytes, 0);
	sample_wait(thread, regs);
	thread->nr = -1;
	return 0;
}

SEC("raw_tp/sys_enter")
int on_call(struct raw_args *ctx)
{
	return call_begins(ctx, 0);
}

SEC("raw_tp/sys_enter")
int on_call_direct(struct raw_args *ctx)
{
	return call_begins(ctx, 1);
}

SEC("raw_tp/sys_exit")
int on_return(struct raw_args *ctx)
{
	return call_ends(ctx, 0);
}

SEC("raw_tp/sys_exit")
int on_return_direct(struct raw_args *ctx)
{
	return call_ends(ctx, 1);
}

/* A thread that is killed inside a call never returns from it. */
SEC("raw_tp/sched_process_exit")
int on_exit(struct raw_args *ctx)
{
	struct task_struct *task = (void *)ctx->arg[0];
	u32 tid = LOAD(task, pid);
	struct thread_state *thread;

	if (counters.paused == PAUSED)
		return 0;
	thread = running_thread(tid, LOAD(task, tgid), task);
	if (!thread)
		return 0;
	if (thread->nr >= 0 && !counters.paused) {
		report_call(thread, tid, 0, ktime_ns(), 0, 1);
		thread->nr = -1;
	}
	report_task(task, TASK_EXIT);
	return 0;
}
