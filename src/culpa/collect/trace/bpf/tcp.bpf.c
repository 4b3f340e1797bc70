// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * TCP segments that are sent once more, on any socket that some process holds: they are rare, and which sockets the
 * watched processes wait for is known only when they do.
 */

struct { MAP_KIND(MAP_RINGBUF); MAP_SIZE(1 << 18); } retransmits_ring SEC(".maps");

/*
 * A timer ran out: it counts how often it did in a row, and the probe that goes before it (TLP) asks without any sign of
 * what came later. Segments that are sent again because acknowledgements of later ones came cost a round trip only.
 */
INLINE u32 is_by_timer(struct sock *sk)
{
	if (FIELD_EXISTS(struct inet_connection_sock, icsk_retransmits) &&
	    LOAD((struct inet_connection_sock *)sk, icsk_retransmits))
		return 1;
	return !FIELD_EXISTS(struct tcp_sock, sacked_out) || !LOAD((struct tcp_sock *)sk, sacked_out);
}

SEC("raw_tp/tcp_retransmit_skb")
int on_retransmit(struct raw_args *ctx)
{
	struct sock *sk = (void *)ctx->arg[0];
	struct retransmit_event *event;
	u64 ino;

	if (counters.paused)
		return 0;
	ino = socket_inode(sk);
	if (!ino)
		return 0;
	event = RESERVE(retransmits_ring, RING_RETRANSMITS, struct retransmit_event);
	if (!event)
		return 0;
	event->at_ns = ktime_ns();
	event->ino = ino;
	event->timeout_ticks = 0;
	if (FIELD_EXISTS(struct inet_connection_sock, icsk_rto))
		event->timeout_ticks = LOAD((struct inet_connection_sock *)sk, icsk_rto);
	event->round_trip_us = 0;
	if (FIELD_EXISTS(struct tcp_sock, rtt_min))
		event->round_trip_us = LOAD((struct tcp_sock *)sk, rtt_min.s[0].v);
	event->by_timer = is_by_timer(sk);
	event->connecting = LOAD(sk, __sk_common.skc_state) == TCP_SYN_SENT;
	SUBMIT(event);
	return 0;
}
