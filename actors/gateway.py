"""The gateway: which peer the default route of this host leads to, and the actor that keeps the host's rules for it.

The rules stand for as long as the node runs, whether the peer is there or not: what is sent meanwhile is dropped and counted by the
router (`no_route`) or waits for a key, and nothing goes around. While the data plane restarts, which takes the device away, the way is
closed. The end of the node, and the next start after a kill, take the rules away. The actor also sets up masquerading
(`masquerade`).

Not responsible for what the rules are (`holloway.protocols.gateway`), nor for who may offer a default route (`wanted`, and
the certificates).
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from typing import TYPE_CHECKING

import trio

from holloway.actors.bounded_log import BoundedLog
from holloway.actors.calling import numeric
from holloway.actors.config import Config
from holloway.actors.ports import Netlink, Ports
from holloway.actors.registry.etcd_url import parse_etcd_url
from holloway.actors.roster import Roster
from holloway.actors.tun_reader import TunReader
from holloway.protocols.errors import PortError
from holloway.protocols.gateway import GatewayPlan, Pin, closed, gateway_table, plan_gateway

if TYPE_CHECKING:
    from holloway.supervisor import Context

RECHECK_S = 30.0
"""How often what others may have changed, as a firewall that is loaded anew, is put right again."""
NAMES_S = 10.0
"""How long the start waits for what can be found only by a name, while the way to a name server is still open."""
PATIENT_S = 1.0
"""Waiting for longer is told."""
CLEANUP_S = 5.0
LOG_LINES = 20

log = logging.getLogger("holloway.node")


class Gateway:
    """What this node does with default routes. Outlives the actor that carries it out."""

    def __init__(self, config: Config, roster: Roster) -> None:
        self.through = config.gateway.through
        self.masquerades = config.gateway.masquerade
        self.problem: str | None = None
        """Why the host does not do all that was asked of it."""
        self.plan: GatewayPlan | None = None
        """What the host was told last."""
        self.has_begun = False
        """Whether the host has done all that was asked of it once: from then on what it refuses is a problem, and no end."""
        self.is_told = False
        """Whether the host may have been told something that has to be taken back."""
        self.is_leaving = False
        """Set when the node is asked to end: then the way need not be closed while others stop."""
        self._config = config
        self._roster = roster

    @property
    def mark(self) -> int:
        """What our datagrams carry; 0 without a gateway."""
        return gateway_table(self._config.interface.name) if self.through else 0

    @property
    def behind(self) -> frozenset[int]:
        """The IP versions of the networks behind us."""
        return frozenset(prefix.version for prefix in self._config.node.prefixes)

    @property
    def state(self) -> str | None:
        """How the peer is: a peer's state, or `absent` (no peer has the name), or `unwilling` (it offers no default route)."""
        if self.through is None:
            return None
        offered = self._offered()
        if offered is None:
            return "absent"
        running = self._roster.running.get(self.through)
        return "unwilling" if not offered else "down" if running is None else running.health()

    def wanted(self, pins: Iterable[Pin]) -> GatewayPlan:
        """What the host is to be told now."""
        config = self._config
        return plan_gateway(
            config.interface.name,
            own={address.version for address in config.interface.addresses},
            offered=self._offered() or None,
            pins=pins,
            is_strict=config.gateway.strict,
        )

    def must_look_up(self) -> bool:
        """Whether the peer can be called by a name alone."""
        peer = self._roster.plan.peers.get(self.through or "")
        return peer is not None and bool(peer.endpoints) and all(numeric(each) is None for each in peer.endpoints)

    async def give_back(self, ports: Ports) -> None:
        """The end of the node, whatever it was: nothing of ours stays with the host. Needs none of the actors."""
        if self.is_told:
            await take_back(ports, self._config.interface.name)

    def _offered(self) -> set[int] | None:
        peer = self._roster.plan.peers.get(self.through or "")
        return None if peer is None else {prefix.version for prefix in peer.allowed if not prefix.prefixlen}


async def take_back(ports: Ports, interface: str) -> None:
    """Take back what the host was told for `interface`, in this life or an earlier one. What it refuses is logged."""
    with _although_cancelled():
        await _ask_anew(ports, lambda netlink: netlink.set_gateway(interface, None))
    with _although_cancelled():
        await _ask_anew(ports, lambda netlink: netlink.set_masquerade(interface, ()))


@contextmanager
def _although_cancelled() -> Iterator[None]:
    """For what must not be left out, and not hold up the end for long either."""
    with trio.move_on_after(CLEANUP_S, shield=True) as patience:
        yield
    if patience.cancelled_caught:
        log.warning("the host has not done within %g s what the gateway asked of it at its end", CLEANUP_S)


async def _ask_anew(ports: Ports, request: Callable[[Netlink], Awaitable[None]]) -> None:
    """By a netlink that is opened for this, whatever has become of the actor's."""
    try:
        async with ports.open_netlink() as netlink:
            await request(netlink)
    except PortError as error:
        log.warning("%s", error)


async def keep_gateway(
    ctx: Context, ports: Ports, gateway: Gateway, roster: Roster, config: Config, *, task_status: trio.TaskStatus[None]
) -> None:
    """Actor: keeps rules and masquerading as they are wanted. Raises `PortError` when the host refuses them at the start.

    Without either, it only removes what a node that was killed has left.
    """
    netlink: Netlink = ctx.sibling("netlink").get()
    tun: TunReader = ctx.sibling("tun").get()
    keeper = _Keeper(gateway, roster, config, netlink, tun.port.name, BoundedLog(ctx.log, lines=LOG_LINES))
    changed = roster.changed()
    try:
        await keeper.begin()
        gateway.has_begun = True
        task_status.started(None)
        if not gateway.masquerades:
            await keeper.unmask()
        if gateway.through is None and not gateway.masquerades:
            await trio.sleep_forever()
        while True:
            with trio.move_on_after(RECHECK_S) as calm:
                await changed.wait()
            changed = roster.changed()
            if calm.cancelled_caught:
                await keeper.look_up()
            await keeper.put_right()
    finally:
        if gateway.has_begun and not gateway.is_leaving:
            with _although_cancelled():
                await keeper.close(ports)


class _Keeper:
    """Tells the host."""

    def __init__(
        self, gateway: Gateway, roster: Roster, config: Config, netlink: Netlink, interface: str, log: BoundedLog
    ) -> None:
        self._gateway, self._roster, self._netlink, self._interface, self._log = (
            gateway,
            roster,
            netlink,
            interface,
            log,
        )
        self._store = store_endpoints(config)
        self._pins: dict[tuple[str, int], tuple[Pin, ...]] = {}

    async def begin(self) -> None:
        """Begin, or go on after a restart of the data plane. Raises `PortError` when the host refuses the first time."""
        gateway = self._gateway
        if gateway.has_begun:
            await self.put_right()
            return
        if gateway.through is None:  # what a killed node left
            try:
                await self._netlink.set_gateway(self._interface, None)
            except PortError as error:
                self._log.warning("%s", error)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tell_of_waiting)
            if gateway.through is not None and gateway.must_look_up():
                await self._find(gateway.through)
            await self.look_up()
            nursery.cancel_scope.cancel()
        await self._tell()

    async def _tell_of_waiting(self) -> None:
        await trio.sleep(PATIENT_S)
        self._log.info("gateway: waiting for a name server, %g s at most; until then the way out is as it was", NAMES_S)

    async def _find(self, through: str) -> None:
        """Where the peer can be called. It need not answer for that: its datagrams find the way when it is closed for all others."""
        with trio.move_on_after(NAMES_S) as patience:
            await (await self._roster.find(through)).callbook.wait_found()
        if patience.cancelled_caught:
            self._log.warning("gateway: no name server knows where %s is; there is no way out before one does", through)

    async def unmask(self) -> None:
        """What a killed node left of masquerading goes. It takes another program, so the start does not wait for it."""
        try:
            await self._netlink.set_masquerade(self._interface, ())
        except PortError as error:  # as nodes that may not masquerade meet at every start
            self._log.debug("%s", error)

    async def put_right(self) -> None:
        """The host is told what is wanted now, whatever it knows."""
        try:
            await self._tell()
        except PortError as error:
            self._roster.problems["gateway_refused"] += 1
            if self._gateway.problem != str(error):
                self._log.error("%s", error)
            self._gateway.problem = str(error)
        else:
            self._gateway.problem = None

    async def close(self, ports: Ports) -> None:
        """There is no way out until this is told what is wanted again. Netlink may be what has ended: then the device, and the
        route into it, are about to go all the same.
        """
        if self._gateway.plan is None:
            return
        plan = closed(self._gateway.plan)
        try:
            await self._netlink.set_gateway(self._interface, plan)
        except (PortError, trio.ClosedResourceError, trio.BrokenResourceError):
            await _ask_anew(ports, lambda netlink: netlink.set_gateway(self._interface, plan))

    async def _tell(self) -> None:
        """Raises `PortError`; the default route first, since who masquerades in vain is a nuisance, and no danger."""
        gateway = self._gateway
        gateway.is_told = gateway.through is not None or gateway.masquerades
        if gateway.through is not None:
            gateway.plan = gateway.wanted(pin for pins in self._pins.values() for pin in pins)
            await self._netlink.set_gateway(self._interface, gateway.plan)
        if gateway.masquerades:
            await self._netlink.set_masquerade(self._interface, gateway.behind)

    async def look_up(self) -> None:
        """Where the store is. What a name came to last counts while nobody answers."""
        with trio.move_on_after(NAMES_S) as patience:
            for host, port in self._store:
                if (host, port) in self._pins and is_numeric(host):
                    continue
                try:
                    answers = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
                except (OSError, UnicodeError) as error:
                    self._log.warning("the store at %s may be out of reach while there is a gateway: %s", host, error)
                else:
                    found = (ip_address(str(address[0]).partition("%")[0]) for *_, address in answers)
                    self._pins[host, port] = tuple(Pin(address, port) for address in dict.fromkeys(found))
        if patience.cancelled_caught:
            self._log.warning("the store may be out of reach while there is a gateway: no name server answers")


def depends_on_names(config: Config) -> bool:
    """Whether a name server is asked before this node can be in touch with anybody."""
    hosts = [host for host, _ in store_endpoints(config)]
    hosts += [peer.endpoint.host for peer in config.peers if peer.endpoint is not None]
    return not all(map(is_numeric, hosts))


def store_endpoints(config: Config) -> tuple[tuple[str, int], ...]:
    """The servers of the registry, each with its port."""
    url = "" if config.registry is None else config.registry.url
    return parse_etcd_url(url).endpoints if url.startswith("etcd:") else ()


def is_numeric(host: str) -> bool:
    """Whether it is an address, not a name."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
