/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The one place that knows kernels: helper numbers (include/uapi/linux/bpf.h), the fields of kernel structs that are
 * read (relocated by CO-RE at load, so only the names matter) and what differs between releases.
 */
#ifndef CULPA_COMPAT_H
#define CULPA_COMPAT_H

#define MAPPABLE 1024 /* BPF_F_MMAPABLE, include/uapi/linux/bpf.h */
#define SEC(name) __attribute__((section(name), used))
#define INLINE static inline __attribute__((always_inline))
#define NOINLINE static __attribute__((noinline))
#define GLOBAL __attribute__((noinline))

#define MAP_KIND(value) int (*type)[value]
#define MAP_SIZE(value) int (*max_entries)[value]
#define MAP_KEY(t) typeof(t) *key
#define MAP_VALUE(t) typeof(t) *value
#define MAP_FLAGS(value) int (*map_flags)[value]

enum { MAP_HASH = 1, MAP_ARRAY = 2, MAP_STACK_TRACE = 7, MAP_LRU_HASH = 9, MAP_STACK = 23, MAP_RINGBUF = 27 };
enum { ANY = 0, NOEXIST = 1 };
enum { RB_NO_WAKEUP = 1 };
enum { STACK_FAST_COMPARE = 1 << 9, EEXIST = 17 };

static void *(*map_lookup)(void *map, const void *key) = (void *)1;
static long (*map_update)(void *map, const void *key, const void *value, u64 flags) = (void *)2;
static long (*map_delete)(void *map, const void *key) = (void *)3;
static u64 (*ktime_ns)(void) = (void *)5;
static u32 (*cpu_id)(void) = (void *)8;
static u64 (*current_pid_tgid)(void) = (void *)14;
static long (*stack_id_of)(void *ctx, void *map, u64 flags) = (void *)27;
static u64 (*current_task)(void) = (void *)35;
static long (*map_push)(void *map, const void *value, u64 flags) = (void *)87;
static long (*map_pop)(void *map, void *value) = (void *)88;
static long (*read_user)(void *to, u32 bytes, const void *from) = (void *)112;
static long (*read_kernel)(void *to, u32 bytes, const void *from) = (void *)113;
static long (*read_kernel_str)(void *to, u32 bytes, const void *from) = (void *)115;
static void *(*current_task_btf)(void) = (void *)158;
static void *(*task_registers)(void *task) = (void *)175;
static long (*seq_write)(void *seq, const void *data, u32 bytes) = (void *)127;
static long (*task_stack)(void *task, void *to, u32 bytes, u64 flags) = (void *)141;
static void *(*ring_reserve)(void *ring, u64 bytes, u64 flags) = (void *)131;
static void (*ring_submit)(void *record, u64 flags) = (void *)132;

/*
 * Atomic operations that return what was there came in 5.12 (5ca419f2864a, "bpf: Add BPF_FETCH field / create
 * atomic_fetch_add instruction"). An older kernel refuses a program in which such an instruction stands, reached or not,
 * so the probes are compiled twice. Without them only one CPU at a time may change a value that is fetched, and stores
 * must be seen in their order, as they are on x86.
 */
#define COUNT(place, amount) \
	asm volatile("lock *(u64 *)(%0 + 0) += %1" : : "r"(place), "r"((u64)(amount)) : "memory")
#ifdef WITHOUT_FETCH
#define FETCH_INCREMENT(place)               \
	({                                   \
		typeof(*(place)) was_ = *(place); \
		*(place) = was_ + 1;         \
		was_;                        \
	})
/* Nobody can be sure to be alone. */
#define CLAIM(place, value) ((void)(value), 0)
#define STORE_LAST(place, value)                 \
	({                                       \
		asm volatile("" : : : "memory"); \
		*(volatile typeof(value) *)(place) = (value); \
	})
#else
#define FETCH_INCREMENT(place) __sync_fetch_and_add(place, 1)
/* Whether this program is the one that got a place which all CPUs share, by writing `value` where 0 was. */
#define CLAIM(place, value) (!__sync_val_compare_and_swap(place, 0, value))
#define STORE_LAST(place, value) __sync_lock_test_and_set(place, value) /* a full barrier */
#endif

/* A field of a kernel object, zero where it cannot be read. */
#define LOAD(object, field)                                                 \
	({                                                                  \
		typeof((object)->field) value_;                             \
		read_kernel(&value_, sizeof(value_), &(object)->field);     \
		value_;                                                     \
	})
/*
 * bpf_rdonly_cast (6.2, a35b9af4ec2c) makes an address a typed pointer, of which fields are then read by single
 * instructions. Probes that run often come twice, with and without it; `direct` says which one this is.
 */
extern void *bpf_rdonly_cast(const void *object, u32 type) __attribute__((section(".ksyms"), weak));
#define TYPED(object) ((typeof(object))bpf_rdonly_cast(object, __builtin_btf_type_id(*(object), 1)))
#define READ(direct, object, field) ((direct) ? TYPED(object)->field : LOAD(object, field))
#define FIELD_EXISTS(type, field) __builtin_preserve_field_info(((type *)0)->field, 2)
/* Keeps clang from moving a bound check to another register than the one the verifier will see used. */
#define KEEP(variable) asm volatile("" : "+r"(variable))

struct raw_args {
	u64 arg[4];
};
struct many_raw_args {
	u64 arg[12];
};

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct atomic { int counter; };
struct ns_common { u32 inum; };
struct net { struct ns_common ns; };
struct mnt_namespace { struct ns_common ns; };
struct nsproxy { struct mnt_namespace *mnt_ns; };
struct signal_struct { struct atomic live; };
struct file_system_type { const char *name; };
struct device { u32 devt; };
struct backing_dev_info { struct device *owner; };
struct bdi_writeback { struct backing_dev_info *bdi; };
struct super_block { u32 s_dev; struct file_system_type *s_type; struct backing_dev_info *s_bdi; };
struct hlist_node { struct hlist_node *next; };
struct hlist_head { struct hlist_node *first; };
struct address_space { struct inode *host; u64 nrpages; };
struct inode {
	u16 i_mode;
	struct super_block *i_sb;
	struct address_space *i_mapping;
	u64 i_ino;
	u32 i_nlink;
	u32 i_rdev;
	s64 i_size;
	u64 i_blocks;
	u32 i_generation;
	struct hlist_head i_dentry;
};
struct qstr { const u8 *name; };
struct dentry {
	struct dentry *d_parent;
	struct qstr d_name;
	struct inode *d_inode;
	union { struct hlist_node d_alias; } d_u;
};
/* Seen in 7.3, and not in 6.18: the union around it has no name any more. */
struct dentry___flat { struct hlist_node d_alias; };
struct vfsmount { struct dentry *mnt_root; };
struct mount { struct mount *mnt_parent; struct dentry *mnt_mountpoint; struct vfsmount mnt; };
struct path { struct vfsmount *mnt; struct dentry *dentry; };
struct file { struct path f_path; struct inode *f_inode; void *private_data; };
struct fdtable { u32 max_fds; struct file **fd; };
struct files_struct { struct fdtable *fdt; };

struct thread_info { u64 flags; u32 status; };
struct sched_info { u64 run_delay; u64 last_arrival; };

struct task_struct {
	struct thread_info thread_info;
	int pid;
	int tgid;
	u32 flags;
	struct task_struct *real_parent;
	char comm[COMM_BYTES];
	struct files_struct *files;
	struct nsproxy *nsproxy;
	struct signal_struct *signal;
	struct sched_info sched_info;
};
struct seq_file;
struct bpf_iter_meta { struct seq_file *seq; };
struct bpf_iter__task { struct bpf_iter_meta *meta; struct task_struct *task; };
/* The state word lost its name in 5.14 (2f064a59a11f, "sched: Change task_struct::state"). */
struct task_struct___named { u32 __state; };
struct task_struct___before { long state; };

struct in6_addr { u8 bytes[16]; };
struct possible_net { struct net *net; };
struct sock_common {
	u16 skc_family;
	u8 skc_state;
	u16 skc_dport;
	u16 skc_num;
	u32 skc_daddr;
	u32 skc_rcv_saddr;
	struct possible_net skc_net;
	struct in6_addr skc_v6_daddr;
	struct in6_addr skc_v6_rcv_saddr;
};
struct sock { struct sock_common __sk_common; struct socket *sk_socket; };
struct socket { short type; struct file *file; struct sock *sk; };
struct inet_connection_sock { u32 icsk_rto; u8 icsk_retransmits; };
struct minmax_sample { u32 v; };
struct minmax { struct minmax_sample s[3]; };
struct tcp_sock { u32 sacked_out; struct minmax rtt_min; };
struct unix_address { int len; };
struct unix_sock { struct sock sk; struct unix_address *addr; struct sock *peer; };

struct page { u64 compound_head; struct address_space *mapping; };
/* Renamed and given a second meaning in 7.1 ("mm: rework compound_head() for power-of-2 sizeof(struct page)"). */
struct page___masked { u64 compound_info; };
struct bio_vec { struct page *bv_page; u32 bv_len; };
struct bvec_iter { u32 bi_size; u32 bi_idx; };
/* Gone in 7.3, and there in 6.18. */
struct bvec_iter___counted { u32 bi_bvec_done; };
struct bio { struct bio *bi_next; struct bio_vec *bi_io_vec; struct bvec_iter bi_iter; };
struct gendisk { int major; int first_minor; };
struct request_queue { struct gendisk *disk; };
struct request {
	struct request_queue *q;
	u32 cmd_flags;
	u32 __data_len;
	u64 __sector;
	struct bio *bio;
	u64 start_time_ns;
};
/* How many pages a large folio has; the count lost part of its name in 6.15. */
struct folio { u32 _nr_pages; };
struct folio___before { u32 _folio_nr_pages; };
struct dirty_throttle_control { u64 dirty, thresh, bg_thresh, wb_dirty, wb_thresh; };
/* The disk moved from the request to its queue in 5.16 (f3fa33acca9f, "block: remove the ->rq_disk field"). */
struct request___before { struct gendisk *rq_disk; };

struct io_ring_ctx;
struct io_cqe { int fd; };
struct io_kiocb { struct file *file; u8 opcode; u32 flags; struct io_ring_ctx *ctx; struct io_cqe cqe; };
/* In place of `cqe` in 5.10. */
struct io_kiocb___before { u64 user_data; };

struct pt_regs___x86 { u64 r10, r8, dx, si, di, orig_ax; };
struct pt_regs___arm64 { u64 regs[31]; u64 orig_x0; int syscallno; };

#pragma clang attribute pop

/* A frozen task has a state of its own since 6.1 (f5d39b020809). */
enum { TASK_INTERRUPTIBLE = 1, TASK_UNINTERRUPTIBLE = 2, TASK_REPORTED = 0x800f, TASK_DEAD = 0x80, TASK_NOLOAD = 0x400 };
enum { PF_KTHREAD = 0x00200000 };
enum { TCP_SYN_SENT = 2 }; /* include/net/tcp_states.h */
/* include/linux/blk_types.h, unchanged in all kernels that have BTF. */
enum { REQ_OP_MASK = 0xff, REQ_OP_READ = 0, REQ_OP_WRITE = 1, REQ_OP_FLUSH = 2, REQ_FUA = 1 << 17, REQ_PREFLUSH = 1 << 18 };
enum { S_IFMT = 0170000, S_IFSOCK = 0140000, S_IFREG = 0100000, S_IFDIR = 0040000, S_IFBLK = 0060000 };

INLINE s32 state_of(struct task_struct *task)
{
	if (FIELD_EXISTS(struct task_struct___named, __state))
		return LOAD((struct task_struct___named *)task, __state);
	return LOAD((struct task_struct___before *)task, state);
}

INLINE s32 call_number(void *regs)
{
	if (FIELD_EXISTS(struct pt_regs___x86, orig_ax))
		return LOAD((struct pt_regs___x86 *)regs, orig_ax);
	if (FIELD_EXISTS(struct pt_regs___arm64, syscallno))
		return LOAD((struct pt_regs___arm64 *)regs, syscallno);
	return -1;
}

enum pageflags { PG_head = 6 };

/* The page cache hands out large folios from 5.18 on; before, and where the size cannot be read, it is one page. */
INLINE u32 pages_of(void *folio)
{
	u64 flags = 0;

	if (!__builtin_preserve_enum_value(*(enum pageflags *)PG_head, 0))
		return 1;
	/* The flags are the first word; a struct of their own since 6.18. */
	read_kernel(&flags, sizeof(flags), folio);
	if (!(flags >> __builtin_preserve_enum_value(*(enum pageflags *)PG_head, 1) & 1))
		return 1;
	if (FIELD_EXISTS(struct folio, _nr_pages))
		return LOAD((struct folio *)folio, _nr_pages);
	if (FIELD_EXISTS(struct folio___before, _folio_nr_pages))
		return LOAD((struct folio___before *)folio, _folio_nr_pages);
	return 1;
}

INLINE u32 disk_of_bdi(struct backing_dev_info *bdi)
{
	struct device *disk = LOAD(bdi, owner);

	return disk ? LOAD(disk, devt) : 0;
}

enum bpf_func_id { BPF_FUNC_task_pt_regs = 175 };
enum { TS_COMPAT = 1 << 1, TIF_32BIT = 22 }; /* arch/x86/include/asm/thread_info.h, arch/arm64 likewise */

/*
 * Whether the call that `task` is in is one of a 32-bit program (or of int 0x80): those have numbers of their own, and
 * pass their arguments otherwise.
 */
INLINE int is_narrow(struct task_struct *task, const int direct)
{
	if (FIELD_EXISTS(struct pt_regs___x86, orig_ax)) {
		if (FIELD_EXISTS(struct thread_info, status))
			return READ(direct, task, thread_info.status) & TS_COMPAT;
		return 0;
	}
	return READ(direct, task, thread_info.flags) >> TIF_32BIT & 1;
}

/* The registers a task entered the kernel with; null where that cannot be asked (before 5.15). */
INLINE void *registers_of(void *task)
{
	if (!__builtin_preserve_enum_value(*(enum bpf_func_id *)BPF_FUNC_task_pt_regs, 0))
		return 0;
	return task_registers(task);
}

/* The system call the current task is in; -1: none (an interrupt hit it in user mode), -2: not known (before 5.15). */
INLINE s32 current_call(void)
{
	if (!__builtin_preserve_enum_value(*(enum bpf_func_id *)BPF_FUNC_task_pt_regs, 0))
		return -2;
	if (is_narrow(current_task_btf(), 0))
		return -2;
	return call_number(task_registers(current_task_btf()));
}

/* The user registers of the current task; null before 5.15. */
INLINE void *current_registers(void)
{
	if (!__builtin_preserve_enum_value(*(enum bpf_func_id *)BPF_FUNC_task_pt_regs, 0))
		return 0;
	return task_registers(current_task_btf());
}

/* The registers as the user ABI orders them (struct pt_regs, user_pt_regs); returns the stack pointer. */
INLINE u64 copy_registers(void *regs, u64 *to)
{
	if (FIELD_EXISTS(struct pt_regs___x86, orig_ax)) {
		read_kernel(to, 21 * sizeof(u64), regs);
		return to[19];
	}
	if (FIELD_EXISTS(struct pt_regs___arm64, orig_x0)) {
		read_kernel(to, 34 * sizeof(u64), regs);
		return to[31];
	}
	return 0;
}

/* The first three arguments of a system call, also right at its exit: the return value has a register of its own on
 * x86, and arm64 keeps the first argument in orig_x0. */
INLINE void call_arguments(void *regs, u64 *arg, const int direct)
{
	if (FIELD_EXISTS(struct pt_regs___x86, di)) {
		struct pt_regs___x86 *x86 = regs;
		u64 row[3];

		if (direct) {
			x86 = TYPED(x86);
			arg[0] = x86->di;
			arg[1] = x86->si;
			arg[2] = x86->dx;
			return;
		}
		/* One read: dx, si, di lie in a row in this user ABI struct (arch/x86/include/uapi/asm/ptrace.h). */
		read_kernel(row, sizeof(row), &x86->dx);
		arg[0] = row[2];
		arg[1] = row[1];
		arg[2] = row[0];
	} else if (FIELD_EXISTS(struct pt_regs___arm64, orig_x0)) {
		arg[0] = LOAD((struct pt_regs___arm64 *)regs, orig_x0);
		arg[1] = LOAD((struct pt_regs___arm64 *)regs, regs[1]);
		arg[2] = LOAD((struct pt_regs___arm64 *)regs, regs[2]);
	}
}

INLINE u64 call_argument_3(void *regs)
{
	if (FIELD_EXISTS(struct pt_regs___x86, r10))
		return LOAD((struct pt_regs___x86 *)regs, r10);
	if (FIELD_EXISTS(struct pt_regs___arm64, orig_x0))
		return LOAD((struct pt_regs___arm64 *)regs, regs[3]);
	return 0;
}

INLINE u64 call_argument_4(void *regs)
{
	if (FIELD_EXISTS(struct pt_regs___x86, r8))
		return LOAD((struct pt_regs___x86 *)regs, r8);
	if (FIELD_EXISTS(struct pt_regs___arm64, orig_x0))
		return LOAD((struct pt_regs___arm64 *)regs, regs[4]);
	return 0;
}

/* Tail pages have no mapping of their own; bit 0 marks what leads to the head: its address, or a mask to get it. */
INLINE struct page *head_of(struct page *page)
{
	u64 info = 0;

	if (FIELD_EXISTS(struct page, compound_head))
		info = LOAD(page, compound_head);
	else if (FIELD_EXISTS(struct page___masked, compound_info))
		info = LOAD((struct page___masked *)page, compound_info);
	if (!(info & 1))
		return page;
	/* A mask is ones down to some bit and zeros from there on, which no address of a struct page is. */
	if ((((~info | 1) + 1) & (~info | 1)) == 0)
		return (void *)((u64)page & info);
	return (void *)(info - 1);
}

/* Where an inode's first name begins, of the list node in it; null where that is not known. */
INLINE struct dentry *dentry_of(struct hlist_node *alias)
{
	if (FIELD_EXISTS(struct dentry, d_u.d_alias))
		return (void *)alias - __builtin_preserve_field_info(((struct dentry *)0)->d_u.d_alias, 0);
	if (FIELD_EXISTS(struct dentry___flat, d_alias))
		return (void *)alias - __builtin_preserve_field_info(((struct dentry___flat *)0)->d_alias, 0);
	return 0;
}

/* Bytes of a bio's first vector that are done already; 0, as for a bio that was not split, where that is not known. */
INLINE u32 done_of(struct bio *bio)
{
	struct bvec_iter___counted *iter = (void *)&bio->bi_iter;

	return FIELD_EXISTS(struct bvec_iter___counted, bi_bvec_done) ? LOAD(iter, bi_bvec_done) : 0;
}

INLINE u32 disk_of(struct request *rq)
{
	struct gendisk *disk = 0;

	if (FIELD_EXISTS(struct request_queue, disk)) {
		disk = LOAD(LOAD(rq, q), disk);
	} else if (FIELD_EXISTS(struct request___before, rq_disk)) {
		disk = LOAD((struct request___before *)rq, rq_disk);
	}
	return disk ? (u32)LOAD(disk, major) << 20 | LOAD(disk, first_minor) : 0;
}

#endif
