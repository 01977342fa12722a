"""What two nodes agree on beside their keys: how their data is protected, and whether it is compressed. Pure decisions.

Every node *offers*, in its record, all that it can do and its policy allows. A pair uses the strongest that both offer, so both
sides come to the same, and neither ever goes below its own policy. What a record does not say is not offered; one that says
nothing of this offers a session.

The order is `none` < `session` < `dtls`. The last two are both encrypted, with fresh keys for every association; DTLS counts
as more because each association proves the certificate of the authority, which runs out and can be revoked, where a
session proves a key that a record vouches for. So who requires a session is content with DTLS, and not the other way round.

Plain text is the exception: nobody is left with it, it is asked for. A node whose policy is `none` asks for it by offering it, beside
all that is stronger. Two that both ask have it; one alone has whatever is strongest.

What follows from a record is only what a side is *willing* to do (`Terms`). That goes into the handshake, where no third
party can alter it, and a key is used on the terms that both sides are willing to: whoever strips or alters records, or
shows an old one to one side, can thereby only take terms away, and without terms a session is sealed and not compressed.

Not responsible for reading records (`membership`), for saying it in a handshake (`noise`), nor for what terms mean (`record_keys`).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import IntEnum, IntFlag


class Security(IntEnum):
    """How the data of a pair is protected, the weakest first."""

    NONE = 0
    """In clear. It cannot be altered or forged, but everybody on the way can read it."""
    SESSION = 1
    DTLS = 2

    @property
    def word(self) -> str:
        """As records and configurations have it."""
        return self.name.lower()


WORDS = {security.word: security for security in Security}
LZ4 = "lz4"
NOT_COMPRESSED = "none"
SESSION_BACKEND = (Security.SESSION, Security.NONE)
"""What a node can do that speaks the session protocol."""


class Terms(IntFlag):
    """What one side is willing to do with the other, and what both are. One byte in the handshake; bits that are unknown
    here are not agreed on.
    """

    CLEAR = 1
    """Records are authenticated and not encrypted."""
    LZ4 = 2
    """Records may be compressed."""


SEALED = Terms(0)
ALL_TERMS = Terms.CLEAR | Terms.LZ4


@dataclass(frozen=True, slots=True)
class Offers:
    """The words of a record."""

    security: tuple[str, ...] = ()
    compression: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Policy:
    """What one node requires of all its pairs, what it supports, and how it compresses where the other one does, too."""

    require: Security = Security.SESSION
    supported: tuple[Security, ...] = SESSION_BACKEND
    compression: str = NOT_COMPRESSED

    @property
    def allowed(self) -> tuple[Security, ...]:
        """What it supports and its policy allows, the strongest first."""
        return tuple(sorted((each for each in set(self.supported) if each >= self.require), reverse=True))

    @property
    def offers(self) -> Offers:
        """What its record says."""
        compression = () if self.compression == NOT_COMPRESSED else (self.compression,)
        return Offers(tuple(each.word for each in self.allowed), compression)


def agreed_security(policy: Policy, security: Collection[str]) -> Security | None:
    """What a node with that policy uses with one whose record offers `security`: plain text if both ask for it, otherwise the
    strongest that both offer; None if there is nothing, and then they have no session.
    """
    theirs = {WORDS[word] for word in security if word in WORDS} if security else {Security.SESSION}
    common = theirs.intersection(policy.allowed)
    return Security.NONE if Security.NONE in common else max(common, default=None)


def willing(policy: Policy, offers: Offers | None) -> Terms:
    """The terms that a node with that policy offers a peer in the handshake. `offers`: what the peer's record says; None for a
    peer that needs no record, because its key is configured: it speaks for itself in the handshake.
    """
    terms = SEALED
    is_clear = Security.NONE in policy.allowed
    if offers is not None:
        is_clear = is_clear and agreed_security(policy, offers.security) is Security.NONE
    if is_clear:
        terms |= Terms.CLEAR
    if policy.compression == LZ4 and (offers is None or LZ4 in offers.compression):
        terms |= Terms.LZ4
    return terms
