"""What the programs on the nodes do: pings, bursts, packets with stolen addresses, and rekeys asked for at once.

Each workload and pair has dice of its own. Not responsible for the sessions that carry the packets.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from holloway.simulations.ledger import Delivered, Purpose
from holloway.simulations.machine import Machine
from holloway.simulations.plan import MIN_INNER_BYTES, Workload
from holloway.simulations.streams import below, stream

if TYPE_CHECKING:
    from holloway.simulations.world import World

ANSWERS_AFTER_NS = 100_000
"""How long a program takes to answer."""
FOREIGN = bytes((10, 78, 0, 1))
"""An inner address that nobody has."""


class Programs:
    """The workloads of the world's plan."""

    def __init__(self, world: World) -> None:
        self._world = world
        world.deliveries.append(self._answer)
        for number, workload in enumerate(world.plan.workloads):
            for first, second in world.plan.pairs:
                if workload.ends and workload.ends not in ((first, second), (second, first)):
                    continue
                ways = [(first, second)] if workload.kind == "rekey" else [(first, second), (second, first)]
                for way in ways:
                    dice = stream(world.plan.seed, f"{workload.kind} {number}", *way)
                    begin_ns = below(dice.getrandbits(64), workload.every_ns)
                    world.timeline.at(begin_ns, self._tick, workload, way, dice)

    def send_one(self, source: str, destination: str) -> None:
        """One small packet from a node to its peer."""
        self._send(source, destination, Purpose.ONE_WAY, [MIN_INNER_BYTES])

    def _tick(self, workload: Workload, way: tuple[str, str], dice: random.Random) -> None:
        world = self._world
        world.timeline.at(world.timeline.now_ns + workload.every_ns, self._tick, workload, way, dice)
        span = workload.size_high - workload.size_low + 1
        match workload.kind:
            case "ping":
                sizes = [workload.size_low + below(dice.getrandbits(64), span)]
                self._send(*way, Purpose.QUESTION, sizes)
            case "bulk":
                sizes = [workload.size_low + below(dice.getrandbits(64), span) for _ in range(workload.burst)]
                self._send(*way, Purpose.ONE_WAY, sizes)
            case "spoof":
                self._spoof(*way, is_source=bool(dice.getrandbits(64) & 1))
            case _:  # rekey: a plan has no other
                for own, peer in (way, way[::-1]):
                    world.machines[own].rekey(peer, world.timeline.now_ns)

    def _answer(self, receiver: Machine, sender: str, delivered: Delivered) -> None:
        if delivered.purpose is Purpose.QUESTION:
            world = self._world
            at_ns = world.timeline.now_ns + ANSWERS_AFTER_NS
            world.timeline.at(at_ns, self._send, receiver.name, sender, Purpose.ANSWER, [delivered.size])

    def _send(self, source: str, destination: str, purpose: Purpose, sizes: list[int]) -> None:
        world = self._world
        machine, peer = world.machines[source], world.machines[destination]
        if machine.down or machine.paused:
            return
        packets = [world.ledger.make(purpose, size, machine.inner, peer.inner, destination) for size in sizes]
        machine.send(destination, packets, world.timeline.now_ns)

    def _spoof(self, source: str, destination: str, *, is_source: bool) -> None:
        """A packet under somebody else's inner address, or for an inner address that is not the peer's."""
        world = self._world
        machine, peer = world.machines[source], world.machines[destination]
        if machine.down or machine.paused:
            return
        others = [each.inner for name, each in world.machines.items() if name not in (source, destination)]
        stolen = others[0] if others else FOREIGN
        ends = (stolen, peer.inner) if is_source else (machine.inner, stolen)
        packet = world.ledger.make(Purpose.ONE_WAY, MIN_INNER_BYTES, *ends, destination)
        machine.send(destination, [packet], world.timeline.now_ns)
