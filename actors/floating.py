"""The actor of one floating address: runs the pure machine, between the registry, the clock and this node's device.

It translates and decides nothing. What the proof in `holloway.protocols.floating` rests on: actions are carried out in
their order, the address is off the device before anything later is sent, a new operation takes the place of the one before,
and time is that of a clock which goes on while the host sleeps. Whoever stops is done within `STOP_S`.

Not responsible for who holds the address elsewhere (`floating_follower`).
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any, assert_never

import trio

from holloway.actors.bounded_log import BoundedLog
from holloway.actors.config.model import FloatingConfig
from holloway.actors.floating_belief import FloatingBelief
from holloway.actors.floating_doubt import Doubt
from holloway.actors.floating_reach import Reach
from holloway.actors.floating_store import Done, Failure, Looked, Place
from holloway.actors.local_addresses import LocalAddresses
from holloway.actors.ports import Netlink, Ports
from holloway.actors.registry import Delete, Entry, Put, RegistryPort
from holloway.actors.roster import Roster
from holloway.actors.router import Router
from holloway.actors.store_visits import OpenStore, keep_visiting
from holloway.actors.tun_reader import TunReader
from holloway.protocols.errors import HollowayError, PortError
from holloway.protocols.floating import FloatingAddress
from holloway.protocols.floating_claims import challenges_prefix, floating_prefix
from holloway.protocols.floating_operations import (
    FloatingTimers,
    GiveUpLocally,
    Key,
    LookAround,
    Operation,
    TakeLocally,
)
from holloway.protocols.floating_states import Phase
from holloway.protocols.floating_table import FloatingTable
from holloway.supervisor import ActorDown

if TYPE_CHECKING:
    from holloway.supervisor import Context

RUN_BYTES = 8
HEALTH_S = 0.2
BROKEN_S = 30.0
"""How long a device that would not take the address is let alone."""
STOP_S = 1.5
RETRY_S = 0.1
RETRY_MAX_S = 1.0
LOG_LINES = 20
DATA_PLANE = ("netlink", "udp", "tun", "roster")
PLACES = {Key.CLAIM: "floating", Key.CHALLENGE: "challenges"}


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all floating addresses of one node share."""

    network: str
    belief: FloatingBelief
    table: FloatingTable
    roster: Roster
    addresses: LocalAddresses
    router: Router
    ports: Ports
    problems: Counter[str]
    open_store: OpenStore
    timers: FloatingTimers


async def floating(
    ctx: Context, wanted: FloatingConfig, around: Surroundings, *, task_status: trio.TaskStatus[Candidate]
) -> None:
    """Actor: one address that this node has when it is its turn. Ready at once."""
    candidate = Candidate(ctx, wanted, around)
    await candidate.run(task_status)


class Candidate:
    """Handle of the running actor."""

    def __init__(self, ctx: Context, wanted: FloatingConfig, around: Surroundings) -> None:
        self._ctx, self._around = ctx, around
        self.address, self.priority = wanted.address, wanted.priority
        self._log = BoundedLog(ctx.log, lines=LOG_LINES)
        belief = around.belief
        run = around.ports.entropy(RUN_BYTES).hex()
        self._machine = FloatingAddress(belief.name, belief.key, run, priority=wanted.priority, timers=around.timers)
        self._opener = belief.opener(wanted.address)
        text = str(wanted.address).encode()
        keys = {
            Key.CLAIM: floating_prefix(around.network) + text,
            Key.CHALLENGE: challenges_prefix(around.network) + text,
        }
        self._place = Place(keys, self._seal, self._believed)
        self._registry: RegistryPort | None = None
        self._asking, self._looking = trio.CancelScope(), trio.CancelScope()
        ours = (address.ip for address in around.addresses.lasting)
        source = next((address for address in ours if isinstance(address, IPv4Address)), None)
        self._reach = Reach(source, around.table, around.roster)
        self._changed = trio.Event()
        self._standing = belief.standing()
        self._broken_until = -math.inf

    @property
    def phase(self) -> Phase:
        """Where we stand with the address."""
        return self._machine.phase

    def owns(self) -> bool:
        """Whether the address is ours at this moment."""
        return self._machine.owns(self._around.ports.steady_s())

    # The actor.

    async def run(self, task_status: trio.TaskStatus[Candidate]) -> None:
        """Be a candidate until stopped, and leave nothing behind."""
        stopping = self._ctx.stopping
        in_touch = trio.CancelScope(shield=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._stay_in_touch, in_touch)
            nursery.start_soon(self._watch_health)
            nursery.start_soon(self._doubt)
            nursery.start_soon(self._wake_when, stopping)
            task_status.started(self)
            try:
                while not stopping.is_set():
                    await self._turn(nursery)
            finally:
                await self._hand_over()
                in_touch.cancel()
            nursery.cancel_scope.cancel()

    async def _hand_over(self) -> None:
        with trio.move_on_after(STOP_S, shield=True):
            async with trio.open_nursery() as nursery:
                self._machine.stop(self._around.ports.steady_s())
                while not self._machine.is_finished:
                    await self._turn(nursery)
                nursery.cancel_scope.cancel()

    async def _turn(self, nursery: trio.Nursery) -> None:
        """Do what is to be done, and wait until something happens."""
        self._changed = trio.Event()
        for action in self._machine.actions():
            match action:
                case TakeLocally():
                    await self._take()
                case GiveUpLocally():
                    await self._give_up()
                case LookAround():
                    self._looking.cancel()
                    self._looking = trio.CancelScope()
                    nursery.start_soon(self._look_around, action, self._looking)
                case Operation():
                    self._asking.cancel()
                    self._asking = trio.CancelScope()
                    nursery.start_soon(self._ask, action, self._asking)
                case _:
                    assert_never(action)
        at, now = self._machine.next_timeout(), self._around.ports.steady_s()
        with trio.move_on_after(math.inf if at is None else max(0.0, at - now)):
            await self._changed.wait()
        self._machine.handle_timeout(self._around.ports.steady_s())

    async def _wake_when(self, event: trio.Event) -> None:
        await event.wait()
        self._changed.set()

    # The registry.

    async def _ask(self, operation: Operation, scope: trio.CancelScope) -> None:
        with scope:
            if self._registry is None:
                await trio.lowlevel.checkpoint()
                answer: Looked | Done | Failure = Failure.UNANSWERED
            else:
                answer = await self._place.carry_out(self._registry, operation)
            machine, now, number = self._machine, self._around.ports.steady_s(), operation.number
            match answer:
                case Looked(revision, claim, challenge):
                    machine.looked(now, number, revision, claim, challenge)
                case Done(revision, lease):
                    machine.done(now, number, revision, lease)
                case Failure.REFUSED:
                    machine.refused(now, number)
                case Failure.UNANSWERED:
                    machine.unanswered(now, number)
                case _:
                    assert_never(answer)
            self._changed.set()

    async def _stay_in_touch(self, scope: trio.CancelScope) -> None:
        """Keep a handle on the store, and hear of changes. Only `scope` ends this: the address is handed over through it."""
        with scope:
            await keep_visiting(
                self._around.open_store, self._be_there, self._tell, retry_s=RETRY_S, retry_max_s=RETRY_MAX_S
            )

    async def _be_there(self, registry: RegistryPort) -> None:
        """Raises `RegistryError` in the end, alone or in a group."""
        self._registry = registry
        try:
            async with trio.open_nursery() as nursery:
                for key in Key:
                    nursery.start_soon(self._watch, registry, key)
        finally:
            self._registry = None

    def _tell(self, failure: HollowayError) -> None:
        self._log.warning("floating address %s: %s; trying again until it works", self.address, failure)

    async def _watch(self, registry: RegistryPort, key: Key) -> None:
        """Raises `RegistryError` in the end."""
        name = self._place.keys[key]
        snapshot = await registry.snapshot(name)
        self._hear(key, snapshot.revision, snapshot.entries.get(name))
        async with registry.watch(name, snapshot.revision) as watch:
            async for changes in watch:
                for change in changes:
                    if change.key == name:
                        match change:
                            case Put(entry=entry):
                                self._hear(key, entry.mod_revision, entry)
                            case Delete(revision=revision):
                                self._hear(key, revision, None)

    def _hear(self, key: Key, revision: int, entry: Entry | None) -> None:
        self._machine.saw(self._around.ports.steady_s(), key, revision, self._place.seen(key, entry))
        self._changed.set()

    def _seal(self, key: Key, lease: int, claim: bytes) -> bytes:
        return self._around.belief.seal(f"{PLACES[key]}/{self.address}", lease, claim)

    def _believed(self, key: Key, entry: Entry) -> bytes | None:
        value = self._opener(f"{PLACES[key]}/{self.address}", entry)
        return value if isinstance(value, bytes) else None

    # The device.

    async def _take(self) -> None:
        netlink, tun = self._devices()
        try:
            if netlink is None or tun is None:
                raise PortError(f"{self.address} cannot be taken", "there is no device at this moment")
            await self._around.addresses.take(self.address, self.owns, netlink, tun.port)
        except (PortError, trio.ClosedResourceError) as error:
            self._around.problems["floating_not_taken"] += 1
            self._log.warning("floating address %s: %s", self.address, error)
            self._broken_until = self._around.ports.steady_s() + BROKEN_S
            self._look_after_health()
        else:
            self._log.info("floating address %s is ours", self.address)

    async def _give_up(self) -> None:
        netlink, tun = self._devices()
        try:
            await self._around.addresses.give_up(self.address, netlink, None if tun is None else tun.port)
        except (PortError, trio.ClosedResourceError) as error:
            self._around.problems["floating_not_given_up"] += 1
            self._log.warning("floating address %s stays on the device: %s", self.address, error)
        else:
            self._log.info("floating address %s is not ours any more", self.address)

    def _devices(self) -> tuple[Netlink | None, TunReader | None]:
        return self._running("netlink"), self._running("tun")

    def _running(self, name: str) -> Any:
        try:
            return self._ctx.ref(f"dataplane.{name}").get()
        except ActorDown:
            return None

    # Health, and doubt.

    async def _watch_health(self) -> None:
        while True:
            self._look_after_health()
            await trio.sleep(HEALTH_S)

    def _look_after_health(self) -> None:
        now, standing = self._around.ports.steady_s(), self._around.belief.standing()
        is_same, self._standing = standing == self._standing, standing
        is_healthy = standing is not None and is_same and now >= self._broken_until and self._has_data_plane()
        self._machine.set_health(now, is_healthy)
        self._changed.set()

    def _has_data_plane(self) -> bool:
        try:
            for name in DATA_PLANE:
                self._ctx.ref(f"dataplane.{name}").get()
        except ActorDown:
            return False
        return True

    async def _doubt(self) -> None:
        around = self._around
        doubt = Doubt(self.address, self._reach, around.table, around.router, around.timers.look_around_s)
        await doubt.run(lambda: self.phase is Phase.WAITING, self._tell_doubt)

    def _tell_doubt(self, fence: int | None, is_in_touch: bool) -> None:
        if fence is not None:
            who = "others do" if is_in_touch else "no others that could be asked do"
            self._log.info("floating address %s: its holder does not answer; %s", self.address, who)
        self._machine.set_doubt(self._around.ports.steady_s(), fence, is_in_touch=is_in_touch)
        self._changed.set()

    async def _look_around(self, question: LookAround, scope: trio.CancelScope) -> None:
        """Somebody says that nobody hears us: ask the others."""
        claimant = self._around.belief.claimant(question.name, question.key)
        with scope:
            is_in_touch = await self._reach.is_in_touch(
                lambda peer: claimant.is_of(peer.peer), self._around.timers.look_around_s
            )
            if is_in_touch is False:
                self._log.warning("floating address %s: nobody hears us, so it goes to %s", self.address, question.name)
            self._machine.looked_around(self._around.ports.steady_s(), question.number, is_in_touch)
            self._changed.set()
