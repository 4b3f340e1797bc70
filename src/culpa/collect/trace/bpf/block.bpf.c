// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* One record per request to a block device, of whomever: a victim waits for its neighbours' requests too. */

struct { MAP_KIND(MAP_LRU_HASH); MAP_SIZE(16384); MAP_KEY(u64); MAP_VALUE(struct block_event); } requests SEC(".maps");
struct { MAP_KIND(MAP_RINGBUF); MAP_SIZE(1 << 21); } blocks_ring SEC(".maps");

struct submitter {
	u32 tid;
	u32 pid;
};

/* Who last asked for a flush of a device: the flush itself is sent by a kernel worker, for all who wait for one. */
struct { MAP_KIND(MAP_LRU_HASH); MAP_SIZE(1024); MAP_KEY(u32); MAP_VALUE(struct submitter); } flushers SEC(".maps");

/* The inode whose page the request carries first: the true writer's file, also when a kworker submits it. */
INLINE void carried_inode(struct request *rq, struct block_event *start)
{
	struct bio *bio = LOAD(rq, bio);
	struct page *page;
	u64 mapping;
	struct inode *inode;

	if (!bio)
		return;
	page = LOAD(LOAD(bio, bi_io_vec) + LOAD(bio, bi_iter.bi_idx), bv_page);
	if (!page)
		return;
	page = head_of(page);
	/* The low bits mark anonymous memory (direct I/O) and movable pages. */
	mapping = (u64)LOAD(page, mapping);
	if (!mapping || (mapping & 3))
		return;
	inode = LOAD((struct address_space *)mapping, host);
	if (!inode)
		return;
	start->ino = LOAD(inode, i_ino);
	start->ino_dev = LOAD(LOAD(inode, i_sb), s_dev);
}

INLINE void describe_request(struct request *rq, struct block_event *start)
{
	start->queued_ns = LOAD(rq, start_time_ns);
	start->dev = disk_of(rq);
	start->flags = LOAD(rq, cmd_flags);
	start->sector = LOAD(rq, __sector);
	start->bytes = LOAD(rq, __data_len);
	carried_inode(rq, start);
}

/* In the submitter's own context; issuing may happen later, in a worker's. */
NOINLINE int submitted(struct request *rq)
{
	u64 key = (u64)rq, pid_tgid = current_pid_tgid();
	struct submitter who = { .tid = pid_tgid, .pid = pid_tgid >> 32 };
	struct block_event start = { .tid = who.tid, .pid = who.pid };
	u32 dev;

	if (LOAD(rq, cmd_flags) & (REQ_PREFLUSH | REQ_FUA)) {
		dev = disk_of(rq);
		map_update(&flushers, &dev, &who, ANY);
	}
	map_update(&requests, &key, &start, ANY);
	return 0;
}

NOINLINE int issued(struct request *rq)
{
	u64 key = (u64)rq, pid_tgid = current_pid_tgid();
	struct block_event *known = map_lookup(&requests, &key);
	struct block_event start = { .tid = pid_tgid, .pid = pid_tgid >> 32 };
	struct submitter *who;

	describe_request(rq, &start);
	/* An entry that was issued before belongs to an earlier use of this request. */
	if ((start.flags & REQ_OP_MASK) == REQ_OP_FLUSH) {
		who = map_lookup(&flushers, &start.dev);
		if (who) {
			start.tid = who->tid;
			start.pid = who->pid;
		}
	} else if (known && !known->issue_ns) {
		start.tid = known->tid;
		start.pid = known->pid;
	}
	start.issue_ns = ktime_ns();
	map_update(&requests, &key, &start, ANY);
	return 0;
}

NOINLINE int completed(struct request *rq, u32 bytes)
{
	u64 key = (u64)rq;
	struct block_event *known, fresh = {}, *event;

	if (bytes < LOAD(rq, __data_len))
		return 0;
	known = map_lookup(&requests, &key);
	if (!known || !known->issue_ns) {
		describe_request(rq, &fresh);
		known = &fresh;
		/* An fsync's own request without data never goes to the device: a flush request does in its stead. */
		if (!fresh.bytes && (fresh.flags & REQ_OP_MASK) != REQ_OP_FLUSH)
			goto out;
	}
	event = RESERVE(blocks_ring, RING_BLOCKS, struct block_event);
	if (event) {
		*event = *known;
		event->complete_ns = ktime_ns();
		SUBMIT(event);
	}
out:
	map_delete(&requests, &key);
	return 0;
}

/* The queue was the first argument before 5.11 (a54895fa057c, "block: remove the request_queue to argument"). */
INLINE struct request *request_argument(struct raw_args *ctx)
{
	return (void *)(settings.issue_has_queue ? ctx->arg[1] : ctx->arg[0]);
}

SEC("raw_tp/block_io_start")
int on_block_start(struct raw_args *ctx)
{
	return !counters.paused ? submitted((void *)ctx->arg[0]) : 0;
}

SEC("raw_tp/block_rq_insert")
int on_block_insert(struct raw_args *ctx)
{
	/* Merely a second best: an insert can come from a worker that takes up what was put off. */
	return !counters.paused && !settings.block_start_seen ? submitted(request_argument(ctx)) : 0;
}

SEC("raw_tp/block_rq_issue")
int on_block_issue(struct raw_args *ctx)
{
	return !counters.paused ? issued(request_argument(ctx)) : 0;
}

SEC("raw_tp/block_rq_complete")
int on_block_complete(struct raw_args *ctx)
{
	return !counters.paused ? completed((void *)ctx->arg[0], ctx->arg[2]) : 0;
}
