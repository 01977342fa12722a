"""What a program is made of stays until its end, and need not be looked at again and again. Not for programs of others."""

from __future__ import annotations

import gc


def keep_for_good() -> None:
    """The garbage collector looks no more at what is there now, once it has collected what is none.

    A node begins with some 50 000 objects, through which a full collection goes in 30 ms, while packets wait.
    """
    gc.collect()
    gc.freeze()
