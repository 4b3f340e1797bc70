// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * One record per request that a watched thread gave to the kernel to be done beside it: by io_uring, whose tracepoints
 * tell of its begin and its end, or by io_submit (libaio), whose iocbs and events are read from the program's memory.
 */

struct async_key {
	u64 ring;
	u64 request; /* address of the request; where its end does not tell it, the number that the program gave it */
	u32 pid;     /* 0: `ring` is the same for nobody else */
	u32 pad;
};

struct { MAP_KIND(MAP_LRU_HASH); MAP_SIZE(16384); MAP_KEY(struct async_key); MAP_VALUE(struct async_event); }
	async_requests SEC(".maps");
struct { MAP_KIND(MAP_RINGBUF); MAP_SIZE(1 << 21); } async_ring SEC(".maps");

/* include/uapi/linux/aio_abi.h, for little-endian machines */
struct user_iocb { u64 data; u32 key; u32 rw_flags; u16 op; u16 priority; u32 fd; u64 buffer; u64 bytes; };
struct user_io_event { u64 data; u64 iocb; s64 ret; s64 ret2; };

#define IOCBS_MAX 64
#define MORE_COMPLETIONS (1 << 1) /* IORING_CQE_F_MORE */
#define FIXED_FILE (1 << 0)       /* REQ_F_FIXED_FILE: the fd is a place in the ring's own table */
#define NO_FD (~0u)
#define MODE_OF_RING 1 /* no file type: an anonymous inode */

/* A number that stands for a ring, and does not tell where in the kernel it lies. */
INLINE u64 ring_number(u64 ring)
{
	return ring * 0x9e3779b97f4a7c15ull >> 32;
}

INLINE void report_async(struct async_event *known, s64 ret, u64 now)
{
	struct async_event *event = RESERVE(async_ring, RING_ASYNC, struct async_event);

	if (!event)
		return;
	*event = *known;
	event->complete_ns = now;
	event->ret = ret;
	event->ender_tid = current_pid_tgid();
	SUBMIT(event);
}

/* Puts the file into the record. */
INLINE void name_file(struct async_event *event, struct file *file)
{
	struct inode *inode = LOAD(file, f_inode);

	event->mode = LOAD(inode, i_mode);
	event->ino = LOAD(inode, i_ino);
	event->dev = LOAD(LOAD(inode, i_sb), s_dev);
}

/* Describes a file the first time it is met; of the thread all stays as it was. */
NOINLINE int describe_beside(struct thread_state *thread, struct file *file, u32 fd)
{
	u64 ino;
	u32 dev, mode;

	if (!thread || !file)
		return 0;
	ino = thread->ino;
	dev = thread->dev;
	mode = thread->mode;
	identify_file(thread, file, 0);
	if ((thread->mode & S_IFMT) == S_IFSOCK)
		describe_socket(thread, file, 0);
	else
		describe(thread, file, (void *)current_task(), fd);
	thread->ino = ino;
	thread->dev = dev;
	thread->mode = mode;
	return 0;
}

INLINE int is_on_file(u32 op)
{
	return op < 64 && (settings.async_on_file >> (op & 63) & 1);
}

/* In 5.10 a request knows its file when it begins; in 6.1 its fd, and its file when it ends. */
INLINE void file_at_begin(struct thread_state *thread, struct io_kiocb *req, struct async_event *event)
{
	struct file *file = LOAD(req, file);
	u32 fd = NO_FD;

	if (FIELD_EXISTS(struct io_kiocb, cqe.fd) && !(LOAD(req, flags) & FIXED_FILE)) {
		fd = LOAD(req, cqe.fd);
		file = file_of((void *)current_task(), fd, 0);
	}
	if (!file)
		return;
	name_file(event, file);
	if (!settings.complete_has_request)
		describe_beside(thread, file, fd);
}

NOINLINE int ring_submits(struct io_kiocb *req)
{
	u64 pid_tgid = current_pid_tgid(), ring = (u64)LOAD(req, ctx);
	struct thread_state *thread = running_thread(pid_tgid, pid_tgid >> 32, (void *)current_task());
	struct async_event event = { .tid = pid_tgid, .pid = pid_tgid >> 32 };
	struct async_key key = { .ring = ring, .request = (u64)req };

	if (!thread)
		return 0;
	if (!settings.complete_has_request && FIELD_EXISTS(struct io_kiocb___before, user_data))
		key.request = LOAD((struct io_kiocb___before *)req, user_data);
	event.submit_ns = ktime_ns();
	event.ring = ring_number(ring);
	event.op = LOAD(req, opcode);
	if (is_on_file(event.op))
		file_at_begin(thread, req, &event);
	map_update(&async_requests, &key, &event, ANY);
	return 0;
}

NOINLINE int ring_completes(u64 ring, struct io_kiocb *req, u64 user_data, s64 ret, u32 flags)
{
	struct async_key key = { .ring = ring, .request = settings.complete_has_request ? (u64)req : user_data };
	struct async_event *event = map_lookup(&async_requests, &key);
	u64 pid_tgid = current_pid_tgid();
	struct file *file;

	if (!event)
		return 0;
	/* Now it has its file, whether that was named by an fd or by a place in the ring's own table. */
	file = settings.complete_has_request && is_on_file(event->op) ? LOAD(req, file) : 0;
	if (file) {
		name_file(event, file);
		describe_beside(running_thread(pid_tgid, pid_tgid >> 32, (void *)current_task()), file, NO_FD);
	}
	report_async(event, ret, ktime_ns());
	if (!(flags & MORE_COMPLETIONS))
		map_delete(&async_requests, &key);
	return 0;
}

SEC("raw_tp/io_uring_submit_req")
int on_ring_submit(struct raw_args *ctx)
{
	return !counters.paused ? ring_submits((void *)ctx->arg[0]) : 0;
}

/* The former name. The ring was the first argument in 5.10, and is not in 6.1. */
SEC("raw_tp/io_uring_submit_sqe")
int on_ring_submit_before(struct raw_args *ctx)
{
	u64 first = ctx->arg[0], second = ctx->arg[1];

	/* Else clang would choose between the places and then read one, which the verifier refuses. */
	KEEP(first);
	KEEP(second);
	return !counters.paused ? ring_submits((void *)(settings.submit_has_ring ? second : first)) : 0;
}

/* 5.10 names no request, 6.16 hands over what was posted: struct io_uring_cqe, which programs know, so it is fixed. */
SEC("raw_tp/io_uring_complete")
int on_ring_complete(struct many_raw_args *ctx)
{
	struct { u64 user_data; s32 ret; u32 flags; } cqe = {};

	if (counters.paused)
		return 0;
	if (!settings.complete_has_request)
		return ring_completes(ctx->arg[0], 0, ctx->arg[1], (s32)ctx->arg[2], ctx->arg[3]);
	if (!settings.complete_has_cqe)
		return ring_completes(ctx->arg[0], (void *)ctx->arg[1], ctx->arg[2], (s32)ctx->arg[3], ctx->arg[4]);
	read_kernel(&cqe, sizeof(cqe), (void *)ctx->arg[2]);
	return ring_completes(ctx->arg[0], (void *)ctx->arg[1], cqe.user_data, cqe.ret, cqe.flags);
}

/* In which ring a thread is about to wait: the fd in its call may be a place in a table of its own. */
SEC("raw_tp/io_uring_cqring_wait")
int on_ring_wait(struct raw_args *ctx)
{
	u64 pid_tgid = current_pid_tgid();
	struct thread_state *thread;

	if (counters.paused)
		return 0;
	thread = running_thread(pid_tgid, pid_tgid >> 32, (void *)current_task());
	if (!thread)
		return 0;
	thread->ino = ring_number(ctx->arg[0]);
	thread->dev = 0;
	thread->mode = MODE_OF_RING;
	return 0;
}

/* One iocb that the thread in that place is submitting. A global function is verified once, not for each. */
GLOBAL int note_iocb(u32 slot, u64 address)
{
	struct thread_state *thread = map_lookup(&threads, &slot);
	struct async_event event = {};
	struct async_key key = {};
	struct user_iocb iocb;
	struct file *file;

	if (!thread || read_user(&iocb, sizeof(iocb), (void *)address))
		return 1;
	key.ring = thread->arg[0];
	key.request = address;
	key.pid = thread->pid;
	event.submit_ns = thread->enter_ns;
	event.ring = thread->arg[0];
	event.tid = thread->tid;
	event.pid = thread->pid;
	event.op = iocb.op;
	event.by_iocb = 1;
	file = file_of((void *)current_task(), iocb.fd, 0);
	if (file) {
		name_file(&event, file);
		describe_beside(thread, file, iocb.fd);
	}
	map_update(&async_requests, &key, &event, ANY);
	return 0;
}

/* One event that the thread in that place has taken. */
GLOBAL int note_taken(u32 slot, u64 address, u64 now)
{
	struct thread_state *thread = map_lookup(&threads, &slot);
	struct user_io_event taken;
	struct async_event *event;
	struct async_key key = {};

	if (!thread || read_user(&taken, sizeof(taken), (void *)address))
		return 1;
	key.ring = thread->arg[0];
	key.request = taken.iocb;
	key.pid = thread->pid;
	event = map_lookup(&async_requests, &key);
	if (!event)
		return 0;
	report_async(event, taken.ret, now);
	map_delete(&async_requests, &key);
	return 0;
}

/* io_submit(context, count, iocbs) of the thread in that place begins. */
GLOBAL int note_iocbs(u32 slot)
{
	struct thread_state *thread = map_lookup(&threads, &slot);
	u64 iocb, count, at;

	if (!thread)
		return 0;
	count = thread->arg[1];
	at = thread->arg[2];
	for (u32 i = 0; i < IOCBS_MAX && i < count; i++)
		if (read_user(&iocb, sizeof(iocb), (void *)(at + i * sizeof(iocb))) || note_iocb(slot, iocb))
			break;
	if (count > IOCBS_MAX && count < 1 << 20)
		COUNT(&counters.unread_iocbs, count - IOCBS_MAX);
	return 0;
}

/* io_getevents(context, least, most, events, timeout) of the thread in that place ends with so many. */
GLOBAL int note_events(u32 slot, u64 at, s64 count, u64 now)
{
	for (u32 i = 0; i < IOCBS_MAX && i < count; i++)
		if (note_taken(slot, at + i * sizeof(struct user_io_event), now))
			break;
	return 0;
}
