"""What a session is told once, when it is made. Not responsible for configuration files: that is the actors' room."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from holloway.protocols.compression import Codec
from holloway.protocols.errors import LocalError
from holloway.protocols.events import DropReason
from holloway.protocols.keys import StaticKey
from holloway.protocols.memory import MemoryBudget
from holloway.protocols.offers import SEALED, Terms
from holloway.protocols.suites import Suite
from holloway.protocols.timers import Timers

DEFAULT_MTU = 1420
"""Inner bytes a datagram: 1500 less IPv6 (40), UDP (8), transport header (16) and tag (16)."""
MIN_KEEPALIVE_S = 0.1
MAX_KEEPALIVE_S = 65535.0  # wg(8), persistent-keepalive


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionConfig:
    """One peer. Keys are 32 raw bytes; `preshared` is zeros where there is none.

    `keepalive_s`: the interval of unasked keepalives, 0 for none. `mtu`: inner bytes a datagram. `inspect` judges an
    inner packet from the peer: `None` to deliver it, or the reason to drop it. `memory`: what everything that waits takes
    from; the sessions of one node share one budget, by default each configuration has its own. `terms`: what we are willing
    to agree on in handshakes, of which compression needs a `codec`. Raises `LocalError` for what cannot be used.
    """

    suite: Suite
    static: StaticKey
    peer_public: bytes
    preshared: bytes = field(default=bytes(32), repr=False)
    timers: Timers = field(default_factory=Timers)
    keepalive_s: float = 0.0
    mtu: int = DEFAULT_MTU
    inspect: Callable[[bytes], DropReason | None] = lambda packet: None
    memory: MemoryBudget = field(default_factory=MemoryBudget, repr=False, compare=False)
    terms: Terms = SEALED
    codec: Codec | None = None

    def __post_init__(self) -> None:
        if not (self.keepalive_s == 0 or MIN_KEEPALIVE_S <= self.keepalive_s <= MAX_KEEPALIVE_S):
            raise LocalError(
                f"keepalive_s is {self.keepalive_s!r}",
                f"it must be 0 for none, or {MIN_KEEPALIVE_S:g} to {MAX_KEEPALIVE_S:g} seconds",
            )
        if self.mtu < 1:
            raise LocalError(f"mtu is {self.mtu!r}", "a datagram must carry something")
        self.refuse_terms(self.terms)

    def refuse_terms(self, terms: Terms) -> None:
        """Raises `LocalError` for terms that a session with this configuration cannot keep."""
        if terms and not self.suite.terms_bytes:
            raise LocalError("these terms cannot be used", f"the suite {self.suite.name} agrees on none")
        if Terms.LZ4 in terms and self.codec is None:
            raise LocalError("nothing can be compressed", "there is no codec")
