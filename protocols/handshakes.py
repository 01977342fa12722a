"""The handshake messages of one peer: makes ours, judges theirs, and remembers what that takes.

That is the initiation under way and its ephemeral key, the cookie, the newest timestamp that the peer has used and the
last one that we have used. Not responsible for when to begin, repeat or give up, nor for the keys that come of it: that
is `session`. Source: WireGuard paper, sections 5.1 and 5.4.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from holloway.protocols.cookies import MacWriter
from holloway.protocols.errors import HandshakeFailed, LocalError
from holloway.protocols.events import DropReason
from holloway.protocols.keyring import Links
from holloway.protocols.keys import StaticKey
from holloway.protocols.noise import DerivedKeys, Initiator, OpenedInitiation, response_bytes
from holloway.protocols.offers import SEALED, Terms
from holloway.protocols.suites import Suite
from holloway.protocols.tai64n import LAST_WALL_NS, WHITENED_NS, tai64n
from holloway.protocols.timers import INITIATION_INTERVAL_S

Message: TypeAlias = bytes


class Handshakes:
    """At most one initiation of ours under way; answering the peer's needs no state between messages."""

    def __init__(
        self,
        suite: Suite,
        static: StaticKey,
        peer_public: bytes,
        preshared: bytes,
        *,
        links: Links,
        entropy: Callable[[int], bytes],
        wall_ns: Callable[[], int],
    ) -> None:
        """Raises `LocalError` when `peer_public` or `preshared` is not 32 bytes, or the former of low order."""
        if len(preshared) != 32:
            raise LocalError("no session", f"the preshared key has {len(preshared)} bytes, 32 are needed")
        try:
            self._shared = static.exchange(peer_public)
        except HandshakeFailed as error:
            raise LocalError("no session", "the peer's public key is a point of low order") from error
        self._suite, self._static, self._peer_public, self._preshared = suite, static, peer_public, preshared
        self._links, self._entropy, self._wall_ns = links, entropy, wall_ns
        self._macs = MacWriter(peer_public)
        self._initiator: Initiator | None = None
        self.terms: Terms = SEALED
        """What we are willing to; a message that was made stays as it is."""
        self._initiated_terms = self._answered_terms = SEALED
        self._newest_timestamp = b""
        self._stamped_ns = -WHITENED_NS
        self.initiated_at = float("-inf")
        """When the last initiation was made, in monotonic seconds."""
        self.answered_at = float("-inf")
        """When the last authentic initiation of the peer came, in monotonic seconds."""

    def __repr__(self) -> str:
        return f"<Handshakes {self._suite.name} {self._initiator}>"

    @property
    def is_under_way(self) -> bool:
        """Whether an initiation of ours may still be answered."""
        return self._initiator is not None

    def is_outdated(self, *, is_initiator: bool) -> bool:
        """Whether our last initiation, or our last answer, said other terms than those that we are willing to now."""
        return self.terms != (self._initiated_terms if is_initiator else self._answered_terms)

    def initiate(self, now: float) -> Message | None:
        """A new initiation, which replaces the one under way; `None` when there is no index for it."""
        self.abandon()
        index = self._allocate()
        if index is None:
            return None
        self._initiator = Initiator(
            self._suite,
            self._static,
            self._peer_public,
            self._preshared,
            shared=self._shared,
            ephemeral=StaticKey(self._entropy(32)),
            local_index=index,
            timestamp=self._timestamp(),
            token=self._token(index),
            terms=self.terms,
        )
        self.initiated_at, self._initiated_terms = now, self.terms
        return self._macs.append(self._initiator.message, now)

    def repeat(self, now: float) -> Message | None:
        """The initiation under way once more, as a message of its own; `None` when there is none."""
        return None if self._initiator is None else self._macs.append(self._initiator.message, now)

    def abandon(self) -> None:
        """Whatever answers the initiation under way comes too late."""
        if self._initiator is not None:
            self._links.release(self._initiator.local_index)
            self._initiator = None

    def complete(self, message: Message) -> DerivedKeys | DropReason:
        """The keys that a response gives, whose index is then the caller's; or why it is refused.

        A refused response leaves the initiation under way, for the true one may still come.
        """
        if len(message) != response_bytes(self._suite):
            return DropReason.BAD_LENGTH
        initiator = self._initiator
        if initiator is None or int.from_bytes(message[8:12], "little") != initiator.local_index:
            return DropReason.UNEXPECTED_RESPONSE
        try:
            derived = initiator.read_response(message)
        except HandshakeFailed:
            return DropReason.HANDSHAKE_NOT_AUTHENTIC
        if Terms.CLEAR in derived.terms and Terms.CLEAR not in self.terms:
            return DropReason.PLAINTEXT_REFUSED  # we have taken that back since; the next initiation says so
        self._initiator = None
        return derived

    def answer(self, opened: OpenedInitiation, now: float) -> tuple[Message, DerivedKeys] | DropReason:
        """The response to an initiation and the keys that it gives, or why it is refused."""
        if opened.suite.name != self._suite.name:
            return DropReason.WRONG_SUITE
        if now - self.answered_at < INITIATION_INTERVAL_S:
            return DropReason.INITIATION_FLOOD
        try:
            timestamp, remote_token = opened.authenticate(self._shared)
        except HandshakeFailed:
            return DropReason.HANDSHAKE_NOT_AUTHENTIC
        if timestamp <= self._newest_timestamp:
            return DropReason.REPLAYED_INITIATION
        index = self._allocate()
        if index is None:
            return DropReason.NO_INDEX
        self._newest_timestamp, self.answered_at, self._answered_terms = timestamp, now, self.terms
        message, derived = opened.respond(
            self._preshared,
            ephemeral=StaticKey(self._entropy(32)),
            local_index=index,
            remote_token=remote_token,
            token=self._token(index),
            terms=self.terms,
        )
        return self._macs.append(message, now), derived

    def read_cookie_reply(self, message: Message, now: float) -> bool:
        """Keep the cookie for the next message. False when the reply is not an authentic one to the last message."""
        return self._macs.read_cookie_reply(message, now)

    def _allocate(self) -> int | None:
        try:
            return self._links.allocate()
        except LocalError:
            return None

    def _token(self, index: int) -> bytes:
        return self._links.token(index) if self._suite.token_bytes else b""

    def _timestamp(self) -> bytes:
        """Later than every one before, or the peer would take us for a replay when our wall clock goes back."""
        self._stamped_ns = min(max(self._wall_ns(), self._stamped_ns + WHITENED_NS), LAST_WALL_NS)
        return tai64n(self._stamped_ns)
