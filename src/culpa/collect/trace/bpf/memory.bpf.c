// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Who dirties which inode's pages, of all processes: what a kworker or the journal writes out later is theirs. And who
 * is made to wait because too much is dirty.
 *
 * A page is reported once when it becomes dirty, in the context of the writer (for a mapped file: of the page fault). The
 * sums are gathered in a small table of each CPU, one place for a thread and inode, and handed over when the place is
 * needed for another pair or after DIRT_NS; user space takes what is left in it at the end.
 */

#define DIRT_NS 100000000

struct { MAP_KIND(MAP_ARRAY); MAP_SIZE(DIRT_SLOTS); MAP_KEY(u32); MAP_VALUE(struct dirt); MAP_FLAGS(MAPPABLE); }
	dirt SEC(".maps");
struct { MAP_KIND(MAP_LRU_HASH); MAP_SIZE(16384); MAP_KEY(struct inode_key); MAP_VALUE(u64); } dirtied_seen SEC(".maps");
struct { MAP_KIND(MAP_RINGBUF); MAP_SIZE(1 << 20); } dirtied_ring SEC(".maps");
struct { MAP_KIND(MAP_RINGBUF); MAP_SIZE(1 << 20); } uncached_ring SEC(".maps");
struct { MAP_KIND(MAP_RINGBUF); MAP_SIZE(1 << 18); } throttles_ring SEC(".maps");

/* Names from the dentry up to the root of its file system, leaf first. */
INLINE void walk_dentries(struct dentry *dentry, struct file_event *event)
{
	volatile u32 *used = &event->path_bytes;
	struct dentry *parent;
	u32 at;
	long bytes;

	event->whole = 0;
	*used = 0;
	for (int step = 0; step < PATH_STEPS; step++) {
		parent = LOAD(dentry, d_parent);
		if (dentry == parent) {
			/* A dentry that was its own parent from the start is the root, or no part of any tree. */
			event->whole = step > 0;
			return;
		}
		at = *used;
		if (at > PATH_BYTES - NAME_BYTES)
			return;
		bytes = read_kernel_str(event->path + at, NAME_BYTES, LOAD(dentry, d_name.name));
		if (bytes <= 0)
			return;
		*used = at + (u32)bytes;
		dentry = parent;
	}
}

/* The inode's path, the first time its pages become dirty: it may be deleted before they are written out. */
NOINLINE int report_dirtied_file(struct inode *inode, struct dirt *place)
{
	struct inode_key key = {};
	struct dirtied_event *sum;
	u64 object, *known;
	struct hlist_node *alias;
	struct file_event *event;

	if (!place)
		return 0;
	sum = &place->sum;
	object = place->inode ^ (u64)sum->generation << 32;
	key.ino = sum->ino;
	key.dev = sum->dev;
	known = map_lookup(&dirtied_seen, &key);
	if (known && *known == object)
		return 0;
	if (!FIELD_EXISTS(struct inode, i_dentry))
		return 0;
	alias = LOAD(inode, i_dentry.first);
	if (!alias || !dentry_of(alias))
		return 0;
	map_update(&dirtied_seen, &key, &object, ANY);
	event = RESERVE(files_ring, RING_FILES, struct file_event);
	if (!event)
		return 0;
	event->ino = sum->ino;
	event->dev = sum->dev;
	event->tid = sum->tid;
	event->pid = sum->pid;
	event->fd = 0;
	event->mnt_ns = 0;
	event->within = 1;
	read_kernel_str(event->fs_type, sizeof(event->fs_type), LOAD(LOAD(LOAD(inode, i_sb), s_type), name));
	walk_dentries(dentry_of(alias), event);
	SUBMIT(event);
	return 0;
}

NOINLINE int hand_over(struct dirt *place, u32 ring)
{
	struct dirtied_event *event;

	if (!place)
		return 0;
	if (ring == RING_DIRTIED)
		event = RESERVE(dirtied_ring, RING_DIRTIED, struct dirtied_event);
	else
		event = RESERVE(uncached_ring, RING_UNCACHED, struct dirtied_event);
	if (!event)
		return 0;
	*event = place->sum;
	SUBMIT(event);
	return 0;
}

/* Begin a new sum in a place. */
NOINLINE int begin_sum(struct dirt *place, struct inode *inode, u64 pid_tgid, u64 now)
{
	struct task_struct *task = (void *)current_task();
	struct super_block *sb = LOAD(inode, i_sb);
	struct dirtied_event *sum;

	if (!place)
		return 0;
	sum = &place->sum;
	place->inode = (u64)inode;
	sum->from_ns = now;
	sum->bytes = 0;
	sum->tid = pid_tgid;
	sum->pid = pid_tgid >> 32;
	sum->generation = LOAD(inode, i_generation);
	sum->kernel = (LOAD(task, flags) & PF_KTHREAD) != 0;
	read_kernel(sum->comm, COMM_BYTES, &task->comm);
	if ((LOAD(inode, i_mode) & S_IFMT) == S_IFBLK) {
		sum->ino = 0;
		sum->dev = LOAD(inode, i_rdev);
		sum->disk = sum->dev;
		return 0;
	}
	sum->ino = LOAD(inode, i_ino);
	sum->dev = LOAD(sb, s_dev);
	sum->disk = disk_of_bdi(LOAD(sb, s_bdi));
	report_dirtied_file(inode, place);
	return 0;
}

/* Adds a folio of an inode to one of the tables of sums, for the current thread. */
INLINE int add_up(void *sums, const u32 ring, void *folio, struct inode *inode, const int direct)
{
	u64 pid_tgid = current_pid_tgid(), now;
	struct dirt *place;
	u32 index;

	index = ((u64)inode >> 6 ^ (u64)inode >> 15 ^ (u32)pid_tgid * 31) & (DIRT_SLOTS - 1);
	index += cpu_id() * DIRT_SLOTS;
	place = map_lookup(sums, &index);
	if (!place)
		return 0;
	now = ktime_ns();
	/* The same address with another generation or number is another file. */
	if (place->inode != (u64)inode || place->sum.tid != (u32)pid_tgid || now - place->sum.from_ns > DIRT_NS ||
	    place->sum.generation != READ(direct, inode, i_generation) ||
	    (place->sum.ino && place->sum.ino != READ(direct, inode, i_ino))) {
		if (place->inode)
			hand_over(place, ring);
		begin_sum(place, inode, pid_tgid, now);
	}
	place->sum.to_ns = now;
	place->sum.bytes += (u64)pages_of(folio) * settings.page_bytes;
	return 0;
}

INLINE int dirtied(void *folio, struct address_space *mapping, const int direct)
{
	struct inode *inode = mapping ? READ(direct, mapping, host) : 0;

	return inode ? add_up(&dirt, RING_DIRTIED, folio, inode, direct) : 0;
}

SEC("raw_tp/writeback_dirty_folio")
int on_dirty(struct raw_args *ctx)
{
	return !counters.paused ? dirtied((void *)ctx->arg[0], (void *)ctx->arg[1], 0) : 0;
}

SEC("raw_tp/writeback_dirty_folio")
int on_dirty_direct(struct raw_args *ctx)
{
	return !counters.paused ? dirtied((void *)ctx->arg[0], (void *)ctx->arg[1], 1) : 0;
}

/* The tracepoint's name before pages became folios. */
SEC("raw_tp/writeback_dirty_page")
int on_dirty_page(struct raw_args *ctx)
{
	return !counters.paused ? dirtied((void *)ctx->arg[0], (void *)ctx->arg[1], 0) : 0;
}

INLINE void figures(struct many_raw_args *ctx, struct throttle_event *event)
{
	struct dirty_throttle_control *control = (void *)ctx->arg[1];

	if (!FIELD_EXISTS(struct dirty_throttle_control, thresh))
		return;
	event->limit = LOAD(control, thresh);
	event->background_limit = LOAD(control, bg_thresh);
	event->dirty = LOAD(control, dirty);
	event->disk_limit = LOAD(control, wb_thresh);
	event->disk_dirty = LOAD(control, wb_dirty);
}

/* Just before the pause. Newer kernels hand over a struct in place of five figures; kernel.py tells them apart. */
SEC("raw_tp/balance_dirty_pages")
int on_throttle(struct many_raw_args *ctx)
{
	s64 pause;
	struct bdi_writeback *wb = (void *)ctx->arg[0];
	u64 pid_tgid = current_pid_tgid();
	struct throttle_event *event;

	if (counters.paused)
		return 0;
	/* Arguments are to be read at constant places, which the compiler must not make one variable place of. */
	if (settings.throttle_has_control) {
		pause = ctx->arg[6];
		KEEP(pause);
	} else {
		pause = ctx->arg[10];
	}
	if (pause <= 0)
		return 0;
	event = RESERVE(throttles_ring, RING_THROTTLES, struct throttle_event);
	if (!event)
		return 0;
	event->ts_ns = ktime_ns();
	event->pause_ticks = pause;
	event->limit = 0;
	if (settings.throttle_has_control) {
		figures(ctx, event);
	} else {
		event->limit = ctx->arg[1];
		event->background_limit = ctx->arg[2];
		event->dirty = ctx->arg[3];
		event->disk_limit = ctx->arg[4];
		event->disk_dirty = ctx->arg[5];
	}
	event->disk = disk_of_bdi(LOAD(wb, bdi));
	event->tid = pid_tgid;
	event->pid = pid_tgid >> 32;
	SUBMIT(event);
	return 0;
}
