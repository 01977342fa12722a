"""Calling one peer over DTLS: whose turn of its addresses it is, what its names come to, and what is said of a call that failed.

Not responsible for when to call (`holloway.protocols.dtls_link`), nor for the handshake (`dtls_handshaker`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from holloway.actors.dtls_channel import HandshakeRefused
from holloway.protocols.dtls_link import Ended
from holloway.protocols.dtls_names import DtlsProblem

if TYPE_CHECKING:
    from holloway.actors.bounded_log import BoundedLog
    from holloway.actors.calling import Callbook
    from holloway.actors.config import Endpoint
    from holloway.protocols.addresses import Address

LOOK_UP_S = 2.0
"""Names that nobody answers to keep a peer whose address is known from being dialled no longer than this."""
LOOK_UP_AGAIN_S = 5.0
LOOK_UP_AGAIN_MAX_S = 300.0
"""How often names are asked for when nobody is called any more; each time after twice as long."""
TRY_AGAIN = frozenset({DtlsProblem.UNANSWERED, DtlsProblem.NOT_COMPLETED, DtlsProblem.NOT_AUTHENTIC})
"""Reasons for a handshake to fail that another one may not meet."""


class DtlsCalls:
    """The calls of one peer. `problem`: why the last handshake was refused, until one is not."""

    def __init__(self, peer: str, callbook: Callbook, log: BoundedLog) -> None:
        self.problem: str | None = None
        self._peer, self._callbook, self._log = peer, callbook, log
        self._failed: dict[Endpoint, str] = {}

    async def place(self, attempt: int) -> Address:
        """Where to call in attempt number `attempt`. Raises `HandshakeRefused` if there is no address to call at."""
        if attempt > 1 or self._callbook.at(attempt) is None:
            with trio.move_on_after(LOOK_UP_S):
                await self._look_up()
        address = self._callbook.at(attempt)
        if address is None:
            raise HandshakeRefused(DtlsProblem.UNANSWERED, "it has no endpoint that can be called")
        return address

    async def new_address(self) -> bool:
        """Wait until the peer's names come to something else than before. False: it has none that a look-up can help."""
        before, pause_s = self._callbook.addresses, LOOK_UP_AGAIN_S
        while self._callbook.names and self._callbook.addresses == before:
            await trio.sleep(pause_s)
            pause_s = min(2 * pause_s, LOOK_UP_AGAIN_MAX_S)
            await self._look_up()
        return bool(self._callbook.names)

    async def _look_up(self) -> None:
        for name in self._callbook.names:
            why = await self._callbook.look_up(name)
            if why is None:
                self._failed.pop(name, None)
            elif self._failed.get(name) != why:
                self._failed[name] = why
                self._log.warning("peer %s: cannot look up %s: %s", self._peer, name.host, why)

    def note(self, refused: HandshakeRefused, attempt: int) -> Ended:
        """A call came to nothing; what that is to the link."""
        may_try = refused.problem in TRY_AGAIN
        if refused.problem is DtlsProblem.UNANSWERED:
            self._log.debug("peer %s: attempt %d was not answered", self._peer, attempt)
        elif self.problem != str(refused):
            self._log.warning("peer %s: the handshake failed: %s", self._peer, refused)
        if not may_try:
            self.problem = str(refused)
        return Ended.UNANSWERED if may_try else Ended.REFUSED
