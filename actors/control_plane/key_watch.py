"""The broker's list of keys while it runs: who is let in, who a key is, and what changes.

Not responsible for the file (`key_files`), nor for what somebody may do.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from logging import Logger
from typing import TypeVar

import trio

from holloway.actors.control_plane.enrolled_agents import EnrolledAgents
from holloway.actors.control_plane.key_files import ServerKeys
from holloway.actors.control_plane.key_text import KeyFile
from holloway.actors.control_plane.roster import Roster
from holloway.protocols.errors import HollowayError

POLL_S = 1.0
Changed = TypeVar("Changed", KeyFile, KeyFile | None)


class KeyWatch:
    """The keys in one file. `tell_gone` hears of each change, with the names whose key counts no more, or may do less than before; `may_come` says whether
    a key that is nobody's, and came from that address, may come so far as to say what it wants. `enrolled`: whom the network lets in besides.
    """

    def __init__(
        self,
        server_keys: ServerKeys,
        roster: Roster,
        log: Logger,
        tell_gone: Callable[[list[str]], None],
        may_come: Callable[[str, str], Awaitable[bool]] | None = None,
        enrolled: EnrolledAgents | None = None,
    ) -> None:
        self.server_keys, self.roster = server_keys, roster
        self._log, self._tell_gone, self._may_come = log, tell_gone, may_come
        self._enrolled = enrolled
        self._look_now = trio.Event()
        self._alone = trio.Lock()
        """Or what was read before a change would be taken after it."""
        self._seen: tuple[int, int, int] | None = (
            None  # so that what has changed since the roster was read is looked at
        )
        self._trouble = ""

    async def judge(self, key: str, address: str) -> bool:
        """Whether a key is let in that came from there."""
        if self.roster.principal(key) is None:
            await self.refresh()  # it may have been created just now
        if self.roster.principal(key) is None and self._may_come is not None and await self._may_come(key, address):
            return True
        return self.roster.principal(key) is not None

    def look(self) -> None:
        """Look at the file at once."""
        self._look_now.set()

    async def run(self) -> None:
        """Heed what others write into the file and what the network says, for ever."""
        with nullcontext() if self._enrolled is None else self._enrolled.heard_by(self._heed_enrolled):
            while True:
                with trio.move_on_after(POLL_S):
                    await self._look_now.wait()
                self._look_now = trio.Event()
                await self.refresh()

    def _heed_enrolled(self) -> None:
        assert self._enrolled is not None, "it is who tells us"
        self._tell_gone(self.roster.take_enrolled(self._enrolled.names))

    async def refresh(self) -> None:
        """Take what the file says, if it has changed. One that cannot be read changes nothing."""
        async with self._alone:
            await self._refresh()

    async def _refresh(self) -> None:
        stamp = self.server_keys.stamp()
        if stamp == self._seen:
            return
        try:
            keys = await trio.to_thread.run_sync(self.server_keys.read)
        except HollowayError as error:
            if str(error) != self._trouble:
                self._log.error("the keys stay as they were: %s", error)
            self._trouble = str(error)
        else:
            self._seen, self._trouble = stamp, ""
            if keys.client_keys != self.roster.keys.client_keys:
                self._log.info("the list of keys has changed")
                self._take(keys)

    async def change(self, work: Callable[[], Changed]) -> Changed:
        """Do what changes the file, in a thread, and take what it says then; None changes nothing. Raises what `work` does."""
        async with self._alone:
            keys = await trio.to_thread.run_sync(work)
            if keys is not None:
                self._take(keys)
            return keys

    def _take(self, keys: KeyFile) -> None:
        gone = self.roster.take(keys)
        self._tell_gone(gone)
