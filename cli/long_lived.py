"""How a program that runs for long and serves in time treats memory: garbage is looked for seldom, and not in what the program is made
of; and what was used for packets is kept for packets. Not for programs of others.
"""

from __future__ import annotations

import ctypes
import gc
import re
from pathlib import Path

YOUNG_OBJECTS = 20_000
"""So many new objects before it is looked for cycles among them; Python's 700 are for programs that care less for time. Nearly all that
a node lets go of is in no cycle, and goes at once."""

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # malloc.h of glibc; mallopt(3)
KEPT_BYTES = 16 << 20
"""Free memory at the end of the heap is given back to the kernel from here on: more than the packets of any turn."""
GROWTH_BYTES = 1 << 20
MAPPED_FROM_BYTES = 4 << 20
MADV_COLLAPSE = 25  # include/uapi/asm-generic/mman-common.h; since Linux 6.1
PAGE_BYTES = 2 << 20
MAPS = Path("/proc/self/smaps")
AREA = re.compile(r"^(\w+)-(\w+) rw-p \w+ 00:00 0 *(?:\[heap\])?\n(?:\w+: .*\n)*?Rss: +(\d+) kB$", re.MULTILINE)
"""Of no file: where it begins and ends, and how much of it is there (proc_pid_smaps(5))."""


def keep_for_good() -> None:
    """Look no more at what is there now, once it has been collected, and seldom at what comes; and keep the memory of packets.

    A node begins with some 50 000 objects, through which a full collection goes in 30 ms, while packets wait. Of the processor time of 50
    nodes that meet in one process collections took a fifth, and take a tenth like this.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, *gc.get_threshold()[1:])
    keep_heap()
    join_pages()


def keep_heap() -> bool:
    """Have the allocator keep what a turn needs for the next. Whether it is one that can: glibc's.

    From 128 KiB of free memory on it would give it back after one super-packet and ask for it, page by page, for the next: as the heap
    happens to lie, 5 page faults for each.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    settings = ((M_TRIM_THRESHOLD, KEPT_BYTES), (M_TOP_PAD, GROWTH_BYTES), (M_MMAP_THRESHOLD, MAPPED_FROM_BYTES))
    taken = [mallopt(name, value) for name, value in settings]
    return all(taken)


def join_pages() -> int:
    """Have the kernel put what Python's memory holds now into pages of 2 MiB where it lies in whole ones; how many. None where the
    kernel has none (before Linux 6.1, or without transparent huge pages).

    A packet that comes alone touches some hundred pages of 4 KiB, none of which the processor remembers after a rest, and on a virtual
    machine each costs two walks through tables: a ping came back 6 % sooner.
    """
    try:
        madvise, areas = ctypes.CDLL(None).madvise, AREA.findall(MAPS.read_text(errors="replace"))
    except (OSError, AttributeError):
        return 0
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    joined = 0
    for first, last, resident_kib in areas:
        begin, end = int(first, 16), int(last, 16)
        if int(resident_kib) * 2048 < end - begin:  # mostly empty, as a stack is
            continue
        for at in range(-(-begin // PAGE_BYTES) * PAGE_BYTES, end - PAGE_BYTES + 1, PAGE_BYTES):
            joined += madvise(at, PAGE_BYTES, MADV_COLLAPSE) == 0
    return joined
