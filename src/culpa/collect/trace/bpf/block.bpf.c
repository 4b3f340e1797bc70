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

struct { MAP_KIND(MAP_RINGBUF); MAP_SIZE(1 << 20); } parts_ring SEC(".maps");

#define VECTORS_MAX 128

/* The mapping a page belongs to; 0: none, or memory of a process (direct I/O). */
INLINE u64 mapping_of(struct page *page)
{
	u64 mapping;

	page = head_of(page);
	/* The low bits mark anonymous memory and movable pages. */
	mapping = (u64)LOAD(page, mapping);
	return mapping & 3 ? 0 : mapping;
}

/* Whose pages these are: a block device's own are told by its number, and by inode 0. */
INLINE void name_inode(u64 mapping, volatile struct part_event *part)
{
	struct inode *inode = mapping ? LOAD((struct address_space *)mapping, host) : 0;

	part->ino = 0;
	part->ino_dev = 0;
	part->generation = 0;
	if (!inode)
		return;
	if ((LOAD(inode, i_mode) & S_IFMT) == S_IFBLK) {
		part->ino_dev = LOAD(inode, i_rdev);
		return;
	}
	part->ino = LOAD(inode, i_ino);
	part->ino_dev = LOAD(LOAD(inode, i_sb), s_dev);
	part->generation = LOAD(inode, i_generation);
}

INLINE void report_part(volatile struct part_event *part)
{
	struct part_event *event = RESERVE(parts_ring, RING_PARTS, struct part_event);

	if (!event)
		return;
	*event = *part;
	SUBMIT(event);
}

/*
 * How far the walk along a request has come. It lies in memory of the CPU, and not in variables: what is read back from
 * there is unknown to the verifier, which so sees every step alike.
 */
struct stroll {
	struct part_event part;
	u64 bio;
	u64 mapping;
	u32 index;
	u32 skip; /* bytes of the next vector that are done already */
	u32 left; /* bytes of this bio */
	u32 rest; /* bytes of the request */
	u64 several;
};
PER_CPU_ARRAY(strolls, struct stroll);

INLINE int enter_bio(volatile struct stroll *at, struct bio *bio)
{
	if (!bio)
		return 0;
	at->bio = (u64)bio;
	at->left = LOAD(bio, bi_iter.bi_size);
	at->index = LOAD(bio, bi_iter.bi_idx);
	at->skip = done_of(bio);
	return 1;
}

/* One vector further on the walk of that CPU; 0 at the end. A global function is verified once, not at each step. */
GLOBAL int step_on(u32 cpu)
{
	volatile struct stroll *at = map_lookup(&strolls, &cpu);
	struct bio_vec *vector;
	struct page *page;
	u32 bytes, limit;
	u64 mapping;

	if (!at)
		return 0;
	if (!at->left && !enter_bio(at, LOAD((struct bio *)at->bio, bi_next)))
		return 0;
	vector = LOAD((struct bio *)at->bio, bi_io_vec) + at->index;
	page = LOAD(vector, bv_page);
	if (!page)
		return 0;
	mapping = mapping_of(page);
	if (mapping != at->mapping) {
		if (at->part.bytes) {
			at->several = 1;
			report_part(&at->part);
		}
		at->part.bytes = 0;
		at->mapping = mapping;
		name_inode(mapping, &at->part);
	}
	bytes = LOAD(vector, bv_len) - at->skip;
	limit = at->left < at->rest ? at->left : at->rest;
	bytes = bytes < limit ? bytes : limit;
	at->part.bytes += bytes;
	at->left -= bytes;
	at->rest -= bytes;
	at->index++;
	at->skip = 0;
	return at->rest != 0;
}

/*
 * A write can carry pages of several inodes, since requests for neighbouring sectors are merged: then each stretch is
 * told on its own. Called from one probe alone, which does not interrupt itself.
 */
NOINLINE int report_parts(struct request *rq, struct block_event *start)
{
	u32 cpu = cpu_id();
	volatile struct stroll *at = map_lookup(&strolls, &cpu);

	if (!start || !at || !enter_bio(at, LOAD(rq, bio)))
		return 0;
	at->several = 0;
	at->mapping = 1;
	at->rest = start->bytes;
	at->part.bytes = 0;
	at->part.issue_ns = start->issue_ns;
	at->part.sector = start->sector;
	at->part.dev = start->dev;
	for (int step = 0; step < VECTORS_MAX; step++) {
		if (!step_on(cpu))
			break;
	}
	/* What lies beyond the last step goes to the inode that was met last. */
	at->part.bytes += at->rest;
	if (at->several)
		report_part(&at->part);
	return 0;
}

/* The inode whose page the request carries first: the true writer's file, also when a kworker submits it. */
INLINE void carried_inode(struct request *rq, struct block_event *start)
{
	struct part_event part;
	struct bio *bio = LOAD(rq, bio);
	struct page *page;

	if (!bio)
		return;
	page = LOAD(LOAD(bio, bi_io_vec) + LOAD(bio, bi_iter.bi_idx), bv_page);
	if (!page)
		return;
	name_inode(mapping_of(page), &part);
	start->ino = part.ino;
	start->ino_dev = part.ino_dev;
	start->generation = part.generation;
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

/* Files of which something was read from a device: what is taken out of the page cache of these is told. */
struct { MAP_KIND(MAP_LRU_HASH); MAP_SIZE(16384); MAP_KEY(struct inode_key); MAP_VALUE(u64); } fetched SEC(".maps");

NOINLINE int note_fetched(struct block_event *start)
{
	struct inode_key key = {};

	if (!start)
		return 0;
	key.ino = start->ino;
	key.dev = start->ino_dev;
	map_update(&fetched, &key, &start->issue_ns, ANY);
	return 0;
}

NOINLINE int issued(struct request *rq)
{
	u64 key = (u64)rq, pid_tgid = current_pid_tgid();
	struct block_event *known = map_lookup(&requests, &key);
	struct block_event start = { .tid = pid_tgid, .pid = pid_tgid >> 32 };
	struct submitter *who;

	start.issue_ns = ktime_ns();
	describe_request(rq, &start);
	if ((start.flags & REQ_OP_MASK) == REQ_OP_WRITE && start.bytes)
		report_parts(rq, &start);
	if ((start.flags & REQ_OP_MASK) == REQ_OP_READ && start.ino)
		note_fetched(&start);
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
