// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Rings without a lock: each CPU writes a part of its own of an array that user space has mapped. The kernel's ring
 * buffer takes a lock for each record, which two busy CPUs pass to and fro for longer than the record takes to write.
 *
 * A place is taken by an atomic addition, so a program that interrupts another on the same CPU takes the next one; the
 * record is whole when its position is in it, and user space stops before one that is not. That places are counted after
 * the look at the free room can overrun it by as many programs as are nested, for which SPARE_SLOTS are kept free.
 */

#define SPARE_SLOTS 64

#define PER_CPU_ARRAY(name, type)                                                    \
	struct {                                                                     \
		MAP_KIND(MAP_ARRAY); MAP_SIZE(1); MAP_KEY(u32); MAP_VALUE(type); MAP_FLAGS(MAPPABLE); \
	} name SEC(".maps")

/* The next free record of this CPU, or null; `position` is what must be written into it at last. */
INLINE void *take_slot(void *lanes, void *slots, u32 count, u32 *position)
{
	u32 cpu = cpu_id(), index;
	struct lane *lane = map_lookup(lanes, &cpu);
	u64 taken;

	if (!lane)
		return 0;
	if (lane->head - lane->tail >= count - SPARE_SLOTS) {
		COUNT(&lane->lost, 1);
		return 0;
	}
	taken = FETCH_INCREMENT(&lane->head);
	*position = (u32)taken + 1;
	index = cpu * count + ((u32)taken & (count - 1));
	return map_lookup(slots, &index);
}

/* Whoever sees the position sees the record. */
#define FINISH(record, place) STORE_LAST(&(record)->position, place)
