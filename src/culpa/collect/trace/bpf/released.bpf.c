// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Who takes which inode's pages out of the page cache, of all processes, so that they have to be read again; and who
 * gives the space of a large file back, which takes its time.
 *
 * A page that leaves the cache is told in the context of whoever makes it: who asked for it (posix_fadvise, a truncation),
 * who needed the memory, or kswapd. Only files that a watched thread used, or that were read from a device meanwhile,
 * are told: the others would be re-read by nobody here. The sums are gathered as those of dirtied pages are.
 */

#define FREED_LEAST (1 << 20)

struct { MAP_KIND(MAP_ARRAY); MAP_SIZE(DIRT_SLOTS); MAP_KEY(u32); MAP_VALUE(struct dirt); MAP_FLAGS(MAPPABLE); }
	uncached SEC(".maps");
struct { MAP_KIND(MAP_RINGBUF); MAP_SIZE(1 << 18); } freed_ring SEC(".maps");

INLINE int left_cache(void *folio, const int direct)
{
	/* The first members of a folio are those of a page. */
	struct address_space *mapping = LOAD((struct page *)folio, mapping);
	struct inode_key key = {};
	struct inode *inode;

	if (!mapping || (u64)mapping & 3)
		return 0;
	inode = READ(direct, mapping, host);
	/* The pages of a file that is deleted are gone for good. */
	if (!inode || !READ(direct, inode, i_nlink) || (READ(direct, inode, i_mode) & S_IFMT) != S_IFREG)
		return 0;
	key.ino = READ(direct, inode, i_ino);
	key.dev = READ(direct, READ(direct, inode, i_sb), s_dev);
	if (!map_lookup(&seen, &key) && !map_lookup(&fetched, &key))
		return 0;
	return add_up(&uncached, RING_UNCACHED, folio, inode, direct);
}

SEC("raw_tp/mm_filemap_delete_from_page_cache")
int on_uncached(struct raw_args *ctx)
{
	return !counters.paused ? left_cache((void *)ctx->arg[0], 0) : 0;
}

SEC("raw_tp/mm_filemap_delete_from_page_cache")
int on_uncached_direct(struct raw_args *ctx)
{
	return !counters.paused ? left_cache((void *)ctx->arg[0], 1) : 0;
}

/* What the file takes: on the device, or in memory where it was never written out. */
INLINE u64 space_of(struct inode *inode)
{
	u64 blocks = LOAD(inode, i_blocks) << 9, pages = LOAD(LOAD(inode, i_mapping), nrpages) * settings.page_bytes;

	return blocks > pages ? blocks : pages;
}

/* With 0 bytes nothing but its name is told, while it still has one. */
NOINLINE int report_freed(struct inode *inode, u64 bytes)
{
	struct dirt place = {};
	struct dirtied_event *event;
	u64 now = ktime_ns();

	begin_sum(&place, inode, current_pid_tgid(), now);
	if (!bytes)
		return 0;
	event = RESERVE(freed_ring, RING_FREED, struct dirtied_event);
	if (!event)
		return 0;
	*event = place.sum;
	event->to_ns = now;
	event->bytes = bytes;
	SUBMIT(event);
	return 0;
}

/* An inode leaves memory: with its file, if that has no name any more and nobody has it open. */
INLINE int evicted(struct inode *inode)
{
	u64 bytes;

	if (counters.paused || LOAD(inode, i_nlink))
		return 0;
	bytes = space_of(inode);
	return bytes >= FREED_LEAST ? report_freed(inode, bytes) : 0;
}

SEC("raw_tp/ext4_evict_inode")
int on_ext4_evict(struct raw_args *ctx)
{
	return evicted((void *)ctx->arg[0]);
}

SEC("raw_tp/btrfs_inode_evict")
int on_btrfs_evict(struct raw_args *ctx)
{
	return evicted((void *)ctx->arg[0]);
}

SEC("raw_tp/f2fs_evict_inode")
int on_f2fs_evict(struct raw_args *ctx)
{
	return evicted((void *)ctx->arg[0]);
}

/* Its length is the new one by now, its blocks are the old ones. A file without a name is told as it is evicted. */
SEC("raw_tp/ext4_truncate_enter")
int on_ext4_truncate(struct raw_args *ctx)
{
	struct inode *inode = (void *)ctx->arg[0];
	u64 kept, bytes;

	if (counters.paused || !LOAD(inode, i_nlink))
		return 0;
	kept = LOAD(inode, i_size);
	bytes = LOAD(inode, i_blocks) << 9;
	return bytes >= kept + FREED_LEAST ? report_freed(inode, bytes - kept) : 0;
}

/* The last moment at which a large file has its name. */
SEC("raw_tp/ext4_unlink_enter")
int on_ext4_unlink(struct raw_args *ctx)
{
	struct inode *inode = LOAD((struct dentry *)ctx->arg[1], d_inode);

	if (counters.paused || !inode || LOAD(inode, i_nlink) > 1)
		return 0;
	return space_of(inode) >= FREED_LEAST ? report_freed(inode, 0) : 0;
}
