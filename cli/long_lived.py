"""How a program that runs for long and serves in time collects garbage: seldom, and not what it is made of. Not for programs of others."""

from __future__ import annotations

import gc

YOUNG_OBJECTS = 20_000
"""So many new objects before it is looked for cycles among them; Python's 700 are for programs that care less for time. Nearly all that
a node lets go of is in no cycle, and goes at once."""


def keep_for_good() -> None:
    """Look no more at what is there now, once it has been collected, and seldom at what comes.

    A node begins with some 50 000 objects, through which a full collection goes in 30 ms, while packets wait. Of the processor time of 50
    nodes that meet in one process collections took a fifth, and take a tenth like this.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, *gc.get_threshold()[1:])
