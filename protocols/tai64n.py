"""TAI64N time stamps, the replay guard of handshake initiations (WireGuard paper, section 5.1).

Not responsible for remembering the greatest stamp of each peer, nor for the clock. Stamps compare as bytes: later is
greater.
"""

from __future__ import annotations

import struct

from holloway.protocols.errors import LocalError

TAI64N_BYTES = 12
# 2^62 stands for 1970 (D. J. Bernstein, "TAI64, TAI64N, and TAI64NA"); 10 is how many seconds TAI was ahead of UTC then.
# wireguard-go tai64n.go: later leap seconds are not counted.
TAI64_EPOCH = 0x4000_0000_0000_000A
# wireguard-go tai64n.go, whitenerMask: the low 24 bits (16.8 ms) are cleared, so that a stamp is no precise clock for
# whoever measures us from outside.
WHITENED_NS = 1 << 24
LAST_WALL_NS = 2**63 - 1  # the year 2262; where the 64-bit nanosecond clocks of kernels end

_NS_PER_S = 1_000_000_000
_STAMP = struct.Struct(">QI")


def tai64n(wall_ns: int) -> bytes:
    """The 12-byte stamp of a wall-clock time in nanoseconds since 1970 UTC, whitened to multiples of 2^24 ns.

    Two times within one such multiple have the same stamp: a stamp that must be newer has to wait for the next.
    Raises LocalError for a time before 1970 or after 2262.
    """
    if not 0 <= wall_ns <= LAST_WALL_NS:
        raise LocalError(
            "no time stamp", "the wall clock is before 1970 or after 2262", "set the clock of this machine"
        )
    seconds, nanoseconds = divmod(wall_ns, _NS_PER_S)
    return _STAMP.pack(TAI64_EPOCH + seconds, nanoseconds & -WHITENED_NS)
