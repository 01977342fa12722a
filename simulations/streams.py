"""Random streams: one for each thing that is drawn, named after the seed and that thing.

Nothing is shared between streams, so a fault that is taken out of a plan does not move the dice of the others. Names are
text, which `random.Random` hashes with SHA-512: the same in every process, whatever `PYTHONHASHSEED` is.
"""

from __future__ import annotations

import random

WORD_BITS = 64
WORD = 1 << WORD_BITS


def stream(seed: int, *names: str) -> random.Random:
    """The stream of `seed` and `names`. It is no secret to anybody."""
    return random.Random("/".join((str(seed), *names)))  # noqa: S311 - dice of a simulation, not keys


def below(bits: int, limit: int) -> int:
    """A number of 0 to `limit` - 1 from one 64-bit draw: always one draw, unlike `randrange`."""
    return bits * limit >> WORD_BITS
