"""Which peers this node should have, which it has, and the actor that makes the second equal to the first.

The wanted set is the configured peers plus those found in the registry. The actor runs last in the data plane, so when
anything before it restarts, all peers are begun again. Not responsible for where found peers come from (`membership`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network
from typing import TYPE_CHECKING

import trio

from holloway.actors.config import PeerConfig
from holloway.actors.peer_session import PeerSession
from holloway.actors.ports import Netlink, TunPort
from holloway.protocols.errors import PortError
from holloway.supervisor import ChildStartError

if TYPE_CHECKING:
    from holloway.supervisor import Context, Pool

MAX_PEERS = 4096


class Roster:
    """Wanted peers by name, and the running ones. Configured peers win over found ones of the same name or key."""

    def __init__(self, configured: Iterable[PeerConfig], own_key: bytes) -> None:
        self._configured = {peer.name: peer for peer in configured}
        self._found: dict[str, PeerConfig] = {}
        self._own_key = own_key
        self._changed = trio.Event()
        self.running: dict[str, PeerSession] = {}
        self._arrived = trio.Event()
        self.problems: Counter[str] = Counter()

    def set_found(self, peers: dict[str, PeerConfig]) -> None:
        """Replace the peers found in the registry."""
        if peers != self._found:
            self._found = dict(peers)
            self._changed.set()

    def wanted(self) -> dict[str, PeerConfig]:
        """One peer a name and a key, never ourselves, at most `MAX_PEERS`."""
        wanted = dict(self._configured)
        keys = {peer.public_key for peer in wanted.values()} | {self._own_key}
        for name, peer in self._found.items():
            if name not in wanted and peer.public_key not in keys and len(wanted) < MAX_PEERS:
                wanted[name] = peer
                keys.add(peer.public_key)
        return wanted

    def arrive(self, peer: PeerSession) -> None:
        """A peer actor is about to run."""
        self.running[peer.peer.name] = peer
        self._arrived.set()
        self._arrived = trio.Event()

    def leave(self, peer: PeerSession) -> None:
        """It has ended."""
        if self.running.get(peer.peer.name) is peer:
            del self.running[peer.peer.name]

    async def find(self, name: str) -> PeerSession:
        """The running peer of that name; waits until there is one."""
        while name not in self.running:
            await self._arrived.wait()
        return self.running[name]

    def changed(self) -> trio.Event:
        """An event that is set by the next change; ask before reading `wanted`."""
        if self._changed.is_set():
            self._changed = trio.Event()
        return self._changed


async def keep_roster(
    ctx: Context,
    roster: Roster,
    connected: tuple[IPv4Network | IPv6Network, ...],
    *,
    task_status: trio.TaskStatus[None],
) -> None:
    """Actor: starts and stops peers, with the kernel routes to their prefixes."""
    pool: Pool[PeerConfig, PeerSession] = ctx.sibling("peers").get()
    netlink: Netlink = ctx.sibling("netlink").get()
    tun: TunPort = ctx.sibling("tun").get()
    interface = tun.name
    running: dict[str, PeerConfig] = {}
    is_started = False

    def needs_route(prefix: IPv4Network | IPv6Network) -> bool:
        # The kernel routes the interface's own networks by itself. A default route would swallow the underlay with it.
        if prefix.prefixlen == 0:
            ctx.log.warning("no kernel route for %s: a default route through the tunnel is yours to make", prefix)
            return False
        return not any(prefix.version == net.version and prefix.subnet_of(net) for net in connected)  # type: ignore[arg-type]

    while True:
        changed = roster.changed()
        wanted = roster.wanted()
        for name, peer in list(running.items()):
            if wanted.get(name) != peer:
                await pool.stop(peer)
                del running[name]
                for prefix in filter(needs_route, peer.allowed):
                    await netlink.remove_route(interface, prefix)
        for name, peer in wanted.items():
            if name in running:
                continue
            try:
                await pool.start(peer)
                for prefix in filter(needs_route, peer.allowed):
                    await netlink.add_route(interface, prefix)
            except (ChildStartError, PortError) as error:
                roster.problems["peer_not_started"] += 1
                ctx.log.error("peer %s cannot be used: %s", name, error)
            running[name] = peer
        if not is_started:
            is_started = True
            task_status.started(None)
        await changed.wait()
