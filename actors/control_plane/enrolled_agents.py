"""The agents that the network lets in, for a broker on one of its nodes: whose key a verified record names is that node, without a token.

The node's daemon says who that is, and again after each change: within a second of a revocation it says one agent fewer. The same conversation announces the
broker: it is in the node's record for as long as this lasts. When the daemon is away what it said last counts for a while, and then nothing.

Not responsible for the keys in the broker's file (`key_watch`), nor for what a node may do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from holloway.actors.bounded_log import BoundedLog
from holloway.actors.control_plane.daemon_line import ask_daemon, follow_daemon
from holloway.protocols.broker_places import BrokerPlace
from holloway.protocols.control_plane.network_view import AgentsView, NetworkKeys, read_agents
from holloway.protocols.errors import HollowayError

if TYPE_CHECKING:
    from logging import Logger

    from holloway.supervisor import Context

STALE_S = 180.0
"""How long what an absent daemon said counts: as long as a node outlives its record."""

LOG_LINES = 60


class EnrolledAgents:
    """Who that is now. `path`: the daemon's control socket; `own`: the addresses of this machine in the network."""

    def __init__(self, path: Path, own: tuple[str, ...]) -> None:
        self.path, self.own = path, frozenset((*own, "127.0.0.1", "::1"))
        self._keys = NetworkKeys()
        self._hearers: list[Callable[[], None]] = []

    @property
    def names(self) -> Mapping[str, str]:
        """By key in Z85, the name of the node."""
        return self._keys.names

    @property
    def disputed(self) -> Mapping[str, tuple[str, ...]]:
        """By key, who names it and has it not."""
        return self._keys.disputed

    @property
    def owners(self) -> Mapping[str, str]:
        """By key that two have named at one time, whose it is. To be remembered for the next life."""
        return self._keys.owners

    def is_of_this_machine(self, address: str) -> bool:
        """Whether whoever comes from there runs here: an overlay address cannot be another machine's."""
        return address in self.own

    @contextmanager
    def heard_by(self, hearer: Callable[[], None]) -> Iterator[None]:
        """Call that now and after each change, for as long as the block lasts."""
        self._hearers.append(hearer)
        try:
            hearer()
            yield
        finally:
            self._hearers.remove(hearer)

    def take(self, agents: Iterable[tuple[str, str]]) -> None:
        """Names of nodes and keys: these are all."""
        with self._told():
            self._keys.take(agents)

    def remember(self, owners: Mapping[str, str]) -> None:
        """`owners`, as it was in an earlier life."""
        with self._told():
            self._keys.remember(owners)

    def said(self, key: str, name: str) -> bool:
        """Whoever holds that key says that it is that node's; whether it was another's until now, and is not any more."""
        with self._told():
            return self._keys.said(key, name)

    @contextmanager
    def _told(self) -> Iterator[None]:
        before = self._keys.names, self._keys.owners
        yield
        if (self._keys.names, self._keys.owners) != before:
            for hearer in list(self._hearers):
                hearer()

    async def refresh(self) -> None:
        """Ask the daemon now. Raises HollowayError when it does not answer."""
        self.take(read_agents(await ask_daemon(self.path, {"op": "agents"})).agents)


async def follow_agents(
    ctx: Context, *, agents: EnrolledAgents, place: BrokerPlace | None, task_status: trio.TaskStatus[EnrolledAgents]
) -> None:
    """Actor: what the daemon says, and that we are here; `place` is None for a broker that nobody reaches through the network. Ready at once: the
    daemon may come later.
    """
    request: dict[str, object] = (
        {"op": "follow-agents"} if place is None else {"op": "be-broker", "broker": place.fields()}
    )
    watch = _Watch(agents, ctx.log, is_announced=place is not None)
    task_status.started(agents)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch.forget_when_stale)
        await follow_daemon(agents.path, request, watch.take, watch.tell_lost)


class _Watch:
    """What is told to people, and how old what is known may be."""

    def __init__(self, agents: EnrolledAgents, log: Logger, *, is_announced: bool) -> None:
        self._agents, self._log = agents, BoundedLog(log, lines=LOG_LINES)
        self._is_announced = is_announced
        self._is_obeyed: bool | None = None
        self._trouble: str | None = None
        self._lost_at: float | None = trio.current_time()
        self._disputed: Mapping[str, tuple[str, ...]] = {}

    def take(self, event: object) -> None:
        view = read_agents(event)
        self._agents.take(view.agents)
        if self._is_announced and view.is_obeyed is not self._is_obeyed:
            self._is_obeyed = view.is_obeyed
            self._tell_obeyed(view)
        for key, others in self._agents.disputed.items():
            if others != self._disputed.get(key):
                owner = self._agents.owners[key]
                self._log.warning(
                    "the records of %s name the key of node %s, and are not heard", ", ".join(others), owner
                )
        self._disputed = self._agents.disputed

    def _tell_obeyed(self, view: AgentsView) -> None:
        if view.is_obeyed:
            self._log.info("agents of the network find this broker, and obey it")
        elif not view.is_signed:
            self._log.warning(
                "the network's records are not signed: agents need --host, and a key that was let in here"
            )
        else:
            self._log.warning(
                "the network does not name this node for a broker, so no agent obeys it; where the authority's key is: holloway network --broker NODE"
            )

    def tell_lost(self, error: HollowayError | None) -> None:
        if error is None:
            self._trouble = self._lost_at = None
            return
        if self._lost_at is None:
            self._lost_at = trio.current_time()
        if str(error) != self._trouble:
            self._trouble = str(error)
            self._log.warning("%s; the agents of the network stay as they were for %d s", error, STALE_S)

    async def forget_when_stale(self) -> None:
        """For ever."""
        while True:
            await trio.sleep(STALE_S / 10)
            if self._lost_at is not None and trio.current_time() - self._lost_at >= STALE_S and self._agents.names:
                self._log.warning("the node's daemon is away for too long: no agent is let in by the network any more")
                self._agents.take([])
