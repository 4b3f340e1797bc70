// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * fd -> file -> inode, and once per inode its path or its socket addresses: short-lived files are gone from /proc by the
 * time anybody could look.
 */

struct inode_key {
	u64 ino;
	u32 dev;
	u32 pad;
};

struct { MAP_KIND(MAP_LRU_HASH); MAP_SIZE(16384); MAP_KEY(struct inode_key); MAP_VALUE(u64); } seen SEC(".maps");
#define SOCKETS_KNOWN 4096
struct { MAP_KIND(MAP_ARRAY); MAP_SIZE(SOCKETS_KNOWN); MAP_KEY(u32); MAP_VALUE(u64); } known_sockets SEC(".maps");
struct { MAP_KIND(MAP_RINGBUF); MAP_SIZE(1 << 20); } sockets_ring SEC(".maps");
struct { MAP_KIND(MAP_RINGBUF); MAP_SIZE(1 << 22); } files_ring SEC(".maps");

#define PATH_STEPS 48
#define NAME_SERVER_PORT 53
#define NAME_BYTES 256

INLINE struct file *file_of(struct task_struct *task, u32 fd, const int direct)
{
	struct fdtable *fdt = READ(direct, READ(direct, task, files), fdt);
	struct file **slots, *file = 0;

	if (fd >= READ(direct, fdt, max_fds))
		return 0;
	slots = READ(direct, fdt, fd);
	read_kernel(&file, sizeof(file), slots + fd);
	return file;
}

/* Fills dev, ino and mode of `thread`. */
INLINE void identify_file(struct thread_state *thread, struct file *file, const int direct)
{
	struct inode *inode = READ(direct, file, f_inode);

	thread->mode = READ(direct, inode, i_mode);
	thread->ino = READ(direct, inode, i_ino);
	thread->dev = READ(direct, READ(direct, inode, i_sb), s_dev);
}

/* The same; returns the file, or null where the task's fd names none. */
INLINE struct file *identify_of(struct task_struct *task, struct thread_state *thread, u32 fd, const int direct)
{
	struct file *file = file_of(task, fd, direct);

	if (file)
		identify_file(thread, file, direct);
	return file;
}

INLINE struct file *identify(struct thread_state *thread, u32 fd, const int direct)
{
	return identify_of((void *)current_task(), thread, fd, direct);
}

/* True the first time this object is met under that inode number; `object` tells a reused number. */
NOINLINE int is_new(struct thread_state *thread, u64 object)
{
	struct inode_key key = {};
	u64 *known;

	if (!thread)
		return 0;
	key.ino = thread->ino;
	key.dev = thread->dev;
	known = map_lookup(&seen, &key);
	if (known && *known == object)
		return 0;
	map_update(&seen, &key, &object, ANY);
	return 1;
}

/*
 * Writes the names from the file up to the root of its mount namespace, leaf first. How much is used is kept in the
 * record, not in a variable: what is read back from there is unknown to the verifier, which so sees every step alike.
 */
INLINE void walk(struct file *file, struct file_event *event)
{
	struct dentry *dentry = LOAD(file, f_path.dentry), *parent, *root;
	struct vfsmount *vfsmount = LOAD(file, f_path.mnt);
	struct mount *mount = (void *)vfsmount - __builtin_preserve_field_info(((struct mount *)0)->mnt, 0);
	struct mount *above;
	volatile u32 *used = &event->path_bytes;
	u32 at;
	long bytes;

	event->whole = 0;
	*used = 0;
	for (int step = 0; step < PATH_STEPS; step++) {
		root = LOAD(mount, mnt.mnt_root);
		parent = LOAD(dentry, d_parent);
		if (dentry == root || dentry == parent) {
			above = LOAD(mount, mnt_parent);
			if (above == mount || dentry != root) {
				/* A dentry without parent that is no root has no path: memfd, pipe, anonymous inode. */
				event->whole = dentry == root;
				return;
			}
			dentry = LOAD(mount, mnt_mountpoint);
			mount = above;
			continue;
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

/* Takes numbers alone, as a global function must, and is verified once wherever it is called: `at` is a struct file. */
GLOBAL int report_file(u64 ino, u32 dev, u64 at, u64 tgid_pid, u64 mnt_ns_fd)
{
	struct file_event *event = RESERVE(files_ring, RING_FILES, struct file_event);
	struct file *file = (void *)at;

	if (!event)
		return 0;
	event->ino = ino;
	event->dev = dev;
	event->tid = tgid_pid;
	event->pid = tgid_pid >> 32;
	event->fd = mnt_ns_fd;
	event->within = 0;
	event->mnt_ns = mnt_ns_fd >> 32;
	read_kernel_str(event->fs_type, sizeof(event->fs_type), LOAD(LOAD(LOAD(LOAD(file, f_inode), i_sb), s_type), name));
	walk(file, event);
	SUBMIT(event);
	return 0;
}

INLINE u64 socket_inode(struct sock *sk)
{
	struct socket *socket = sk ? LOAD(sk, sk_socket) : 0;
	struct file *file = socket ? LOAD(socket, file) : 0;

	return file ? LOAD(LOAD(file, f_inode), i_ino) : 0;
}

INLINE void unix_ends(struct socket_event *event, struct sock *sk)
{
	struct unix_address *address;
	int bytes;

	if (!FIELD_EXISTS(struct unix_sock, peer))
		return;
	event->peer_ino = socket_inode(LOAD((struct unix_sock *)sk, peer));
	address = LOAD((struct unix_sock *)sk, addr);
	bytes = address ? LOAD(address, len) : 0;
	/* struct sockaddr_un follows refcount and length: two bytes of family, then the name. */
	if (bytes > 2 && bytes - 2 <= UNIX_PATH_BYTES &&
	    !read_kernel(event->path, UNIX_PATH_BYTES - 4, (u8 *)&address->len + sizeof(int) + 2))
		event->path_bytes = bytes - 2;
}

INLINE void inet_ends(struct socket_event *event, struct sock *sk)
{
	event->local_port = LOAD(sk, __sk_common.skc_num);
	event->peer_port = __builtin_bswap16(LOAD(sk, __sk_common.skc_dport));
	if (event->family == 2) {
		*(u32 *)event->local_addr = LOAD(sk, __sk_common.skc_rcv_saddr);
		*(u32 *)event->peer_addr = LOAD(sk, __sk_common.skc_daddr);
	} else if (FIELD_EXISTS(struct sock_common, skc_v6_daddr)) {
		read_kernel(event->local_addr, 16, &sk->__sk_common.skc_v6_rcv_saddr);
		read_kernel(event->peer_addr, 16, &sk->__sk_common.skc_v6_daddr);
	}
}

struct user_address {
	u16 family;
	u16 port;
	u32 v4; /* of IPv6 the flow */
	u8 v6[16];
};

/* The peer of a socket that has none of its own, where it asks a name server: one of its datagrams says where to. */
INLINE void asked_server(struct socket_event *event, u64 to)
{
	struct user_address address = {};

	if (event->peer_port || !to || read_user(&address, event->family == 2 ? 8 : sizeof(address), (void *)to))
		return;
	if (address.port != __builtin_bswap16(NAME_SERVER_PORT) || address.family != event->family)
		return;
	event->peer_port = NAME_SERVER_PORT;
	if (event->family == 2)
		*(u32 *)event->peer_addr = address.v4;
	else
		__builtin_memcpy(event->peer_addr, address.v6, sizeof(address.v6));
}

NOINLINE int report_socket(struct thread_state *thread, struct file *file, u64 to)
{
	struct socket *socket = LOAD(file, private_data);
	struct sock *sk = LOAD(socket, sk);
	struct socket_event *event;

	if (!thread)
		return 0;
	event = RESERVE(sockets_ring, RING_SOCKETS, struct socket_event);
	if (!event)
		return 0;
	event->ino = thread->ino;
	event->pid = thread->pid;
	event->peer_ino = 0;
	event->path_bytes = 0;
	event->netns = FIELD_EXISTS(struct sock_common, skc_net) ? LOAD(LOAD(sk, __sk_common.skc_net.net), ns.inum) : 0;
	event->family = LOAD(sk, __sk_common.skc_family);
	event->state = LOAD(sk, __sk_common.skc_state);
	event->type = LOAD(socket, type);
	if (event->family == 1) {
		unix_ends(event, sk);
	} else {
		inet_ends(event, sk);
		asked_server(event, to);
	}
	SUBMIT(event);
	return 0;
}

/* Called for every fd call of `task`: describes the object behind the fd the first time it is met. */
INLINE void describe(struct thread_state *thread, struct file *file, struct task_struct *task, u32 fd)
{
	u32 format = thread->mode & S_IFMT;
	u64 tgid, mnt_ns;

	if (thread->seen_ino == thread->ino && thread->seen_dev == thread->dev)
		return;
	if (format != S_IFREG && format != S_IFDIR && format != S_IFBLK)
		return;
	thread->seen_ino = thread->ino;
	thread->seen_dev = thread->dev;
	if (!is_new(thread, (u64)LOAD(file, f_path.dentry)))
		return;
	tgid = LOAD(task, tgid);
	mnt_ns = LOAD(LOAD(LOAD(task, nsproxy), mnt_ns), ns.inum);
	report_file(thread->ino, thread->dev, (u64)file, tgid << 32 | (u32)LOAD(task, pid), mnt_ns << 32 | fd);
}

/*
 * A socket is told by its remote port as well: it may have been met before it was connected. `to`: the address that a
 * message was sent to, in user memory, or 0.
 */
INLINE void describe_socket(struct thread_state *thread, struct file *file, u64 to)
{
	struct sock *sk = LOAD((struct socket *)LOAD(file, private_data), sk);

	if (is_new(thread, (u64)sk ^ LOAD(sk, __sk_common.skc_dport) ^ (u64)LOAD(sk, __sk_common.skc_state) << 32))
		report_socket(thread, file, to);
}

/*
 * Whether that socket was looked at before, and since it moved bytes: from then on it is connected. Numbers of sockets
 * count up, so a few bits tell most of them apart.
 */
INLINE int is_known(u64 ino, u32 moved)
{
	u32 index = ino & (SOCKETS_KNOWN - 1);
	u64 *known = map_lookup(&known_sockets, &index), entry = ino << 1 | moved;

	if (!known || *known == entry || *known == (ino << 1 | 1))
		return 1;
	*known = entry;
	return 0;
}
