"""The actor of the node that holds the authority's key: lets in machines that were invited, renews certificates, and says to
everybody what the authority has to say.

What the authority publishes is put back when somebody changes it. Everything it reads may be anybody's: what proves nothing is
counted and never answered. Not responsible for decisions (`authority_files`); files are written in a thread, so that packets
do not wait.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import trio

from holloway.actors.authority_files import Asked, AuthorityFiles, asked_under
from holloway.actors.bounded_log import BoundedLog
from holloway.actors.registry import Changes, Entry, Put, RegistryPort
from holloway.actors.store_visits import OpenStore, keep_visiting
from holloway.protocols.errors import HollowayError, RegistryError
from holloway.protocols.membership import network_prefix

if TYPE_CHECKING:
    from holloway.actors.authority_files import Settled
    from holloway.supervisor import Context

ANSWER_S = 3600.0
"""How long an answer stays in the store."""
CHECK_S = 60.0
"""How often we look whether what we say is getting old."""
PUT_BACK_S = 1.0
"""How often what we say is put back, at most, when somebody goes on changing it."""
AT_ONCE = 12
"""Requests that are decided about with the ledger written once. Their answers have to fit into one transaction."""
FOREIGN_PAUSE_S = 0.005
"""For each request that proves nothing: whoever fills the store with them gets a small part of our time."""
MAX_DONE = 4096
LOG_LINES = 50
Publish = Mapping[bytes, bytes]


async def issuer(
    ctx: Context,
    authority: AuthorityFiles,
    open_store: OpenStore,
    wall_ns: Callable[[], int],
    problems: Counter[str],
    *,
    task_status: trio.TaskStatus[None],
) -> None:
    """Actor: the authority at work. Ready at once; with the registry away it waits for it, as those do who want to join."""
    log = BoundedLog(ctx.log, lines=LOG_LINES)
    desk = _Desk(authority, wall_ns, problems, log)
    task_status.started(None)
    await keep_visiting(
        open_store,
        desk.work,
        lambda failure: log.warning("authority: %s; trying again until it works", failure),
        survives=HollowayError,  # a file of ours may be the reason: somebody has to mend it, and then we go on
    )


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A request that was not answered yet. `digest`: SHA-256 of what stands under `key`."""

    key: bytes
    digest: bytes
    asked: Asked


class _Desk:
    """Where requests come in."""

    def __init__(
        self, authority: AuthorityFiles, wall_ns: Callable[[], int], problems: Counter[str], log: BoundedLog
    ) -> None:
        self._authority, self._wall_ns, self._problems, self._log = authority, wall_ns, problems, log
        self._prefix = prefix = network_prefix(authority.network)
        self._answers = prefix + b"grants/", prefix + b"renewed/"
        self._statements: Publish = {}
        self._spoken_at = -math.inf
        self._speak_at = math.inf
        self._done: OrderedDict[bytes, bytes] = OrderedDict()

    @property
    def _now(self) -> int:
        return self._wall_ns() // 10**9

    async def work(self, registry: RegistryPort) -> None:
        """Answer until cancelled, or the store or a file refuses."""
        self._done.clear()  # answers may have gone with the store
        while True:
            await self._speak(registry)
            snapshot = await registry.snapshot(self._prefix)
            await self._take(registry, list(snapshot.entries.items()))
            try:
                async with registry.watch(self._prefix, snapshot.revision) as watch:
                    while True:
                        changes: Changes = ()
                        with trio.move_on_at(self._speak_at):
                            changes = await watch.receive()
                        await self._take(
                            registry,
                            [(each.key, each.entry if isinstance(each, Put) else None) for each in changes],
                        )
                        if trio.current_time() >= self._speak_at:
                            await self._speak(registry)
            except RegistryError as error:
                if error.kind != "compacted":
                    raise
                await trio.sleep(PUT_BACK_S)  # a store that forgets at once must not keep us reading

    async def _speak(self, registry: RegistryPort) -> None:
        """Say what the authority has to say, if the store says anything else."""
        self._spoken_at = trio.current_time()
        self._speak_at = self._spoken_at + CHECK_S
        self._statements = await self._authority.state.apart(partial(self._authority.statements, self._now))
        for key, value in self._statements.items():
            entry = (await registry.snapshot(key)).entries.get(key)
            if entry is None or entry.value != value:
                await registry.put(key, value)

    async def _take(self, registry: RegistryPort, found: Sequence[tuple[bytes, Entry | None]]) -> None:
        """What stands under these keys now."""
        for first in range(0, len(found), AT_ONCE):
            waiting = [asked for each in found[first : first + AT_ONCE] if (asked := self._asked(*each)) is not None]
            while waiting:
                waiting = waiting[await self._answer(registry, waiting) :]
            await trio.lowlevel.checkpoint()  # somebody may have filled the store, and packets are waiting

    def _asked(self, key: bytes, entry: Entry | None) -> _Waiting | None:
        """The request under a key, if there is one that was not answered yet."""
        if key in self._statements:
            if entry is None or entry.value != self._statements[key]:
                self._speak_at = min(self._speak_at, self._spoken_at + PUT_BACK_S)
            return None
        if entry is None:
            self._done.pop(key, None)
            return None
        asked = asked_under(self._authority.network, key, entry.value)
        if asked is None:
            return None
        digest = hashlib.sha256(entry.value).digest()
        return None if self._done.get(key) == digest else _Waiting(key, digest, asked)

    async def _answer(self, registry: RegistryPort, waiting: Sequence[_Waiting]) -> int:
        """Decide about these, and answer those that prove something. How many were decided about: one at least."""
        requests = [each.asked for each in waiting]
        settled = await self._authority.state.apart(partial(self._authority.settle, requests, self._now))
        answers: dict[bytes, bytes] = {}
        for each, one in zip(waiting, settled, strict=False):
            self._note(each, one)
            answers |= one.publish
        statements = {place: text for place, text in answers.items() if not place.startswith(self._answers)}
        if len(statements) < len(answers):
            lease = await registry.grant(ANSWER_S)
            kept = {place: text for place, text in answers.items() if place not in statements}
            await registry.transact((), kept, lease=lease.id)
        for place, text in statements.items():
            self._statements = {**self._statements, place: text}
            await registry.put(place, text)
        foreign = sum(one.decision.answer is None for one in settled)
        await trio.sleep(foreign * FOREIGN_PAUSE_S)
        return len(settled)

    def _note(self, each: _Waiting, settled: Settled) -> None:
        decision, admitted = settled.decision, settled.admitted
        self._done[each.key] = each.digest
        if len(self._done) > MAX_DONE:
            self._done.popitem(last=False)
        if decision.reason is not None:
            self._problems[decision.reason.value] += 1
            self._log.warning("authority: %s is refused: %s", each.asked.who, decision.reason.value)
        elif admitted is not None:
            addresses = ", ".join(sorted(map(str, admitted.addresses)))
            self._log.info("authority: node %s was let in, with %s", admitted.name, addresses)
        elif decision.has_changed:
            self._log.info("authority: the certificate of %s was renewed", each.asked.who)
