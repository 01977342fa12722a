"""What the programs on the nodes do: pings, requests, bursts, packets with stolen addresses, new keys, and leaving.

Each workload and pair has dice of its own. Not responsible for the sessions that carry the packets.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from holloway.protocols.packets import Packet, whole_packets
from holloway.simulations.ledger import Delivered, Purpose
from holloway.simulations.plan import MIN_INNER_BYTES, Workload
from holloway.simulations.streams import below, stream

if TYPE_CHECKING:
    from holloway.simulations.world import Host, World

ANSWERS_AFTER_NS = 100_000
"""How long a program takes to answer."""
PATIENCE_NS = 5 * 10**9
"""How long a program waits for the rest of an answer before it asks again."""
STAY = 2
"""Nodes that do not leave however many are told to."""
ANYBODY = ""
"""Whom a packet is for that goes to a floating address."""
FOREIGN = bytes((10, 78, 0, 1))
"""An inner address that nobody has."""


@dataclass(slots=True, eq=False)
class _Exchange:
    """A program that asks a peer again and again. `asked` numbers its questions, `missing` packets are to come."""

    workload: Workload
    way: tuple[str, str]
    dice: random.Random
    asked: int = 0
    missing: int = 0


class Programs:
    """The workloads of the world's plan."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._away: dict[str, None] = {}
        self._lanes: dict[str, random.Random] = {}
        self._questions: dict[int, tuple[_Exchange, int]] = {}
        self._answers: dict[int, tuple[_Exchange, int]] = {}
        world.deliveries.append(self._take)
        for number, workload in enumerate(world.plan.workloads):
            if workload.kind == "call":
                for name in world.plan.nodes:
                    dice = stream(world.plan.seed, f"call {number}", name)
                    begin_ns = below(dice.getrandbits(64), workload.every_ns)
                    world.timeline.at(begin_ns, self._call, workload, world.hosts[name], dice)
                continue
            if workload.kind == "churn":
                dice = stream(world.plan.seed, f"churn {number}")
                world.timeline.at(below(dice.getrandbits(64), workload.every_ns), self._churn, workload, dice)
                continue
            for first, second in world.plan.pairs:
                if workload.ends and workload.ends not in ((first, second), (second, first)):
                    continue
                ways = [(first, second)] if workload.kind == "rekey" else [(first, second), (second, first)]
                for way in ways:
                    dice = stream(world.plan.seed, f"{workload.kind} {number}", *way)
                    begin_ns = below(dice.getrandbits(64), workload.every_ns)
                    if workload.kind == "request":
                        world.timeline.at(begin_ns, self._ask, _Exchange(workload, way, dice), 0)
                    else:
                        world.timeline.at(begin_ns, self._tick, workload, way, dice)

    def send_one(self, source: str, destination: str) -> None:
        """One small packet from a node to its peer."""
        self._send(source, destination, Purpose.ONE_WAY, [MIN_INNER_BYTES])

    def calm_down(self) -> None:
        """Nobody leaves any more, and whoever left comes back."""
        for name in list(self._away):
            self._return(self._world.hosts[name])

    def _tick(self, workload: Workload, way: tuple[str, str], dice: random.Random) -> None:
        world = self._world
        world.timeline.at(world.timeline.now_ns + workload.every_ns, self._tick, workload, way, dice)
        match workload.kind:
            case "ping":
                self._send(*way, Purpose.QUESTION, _sizes(workload, 1, dice))
            case "bulk":
                self._send(*way, Purpose.ONE_WAY, _sizes(workload, workload.burst, dice))
            case "spoof":
                self._spoof(*way, is_source=bool(dice.getrandbits(64) & 1))
            case _:  # rekey: the others have their own beginnings
                for own, peer in (way, way[::-1]):
                    world.hosts[own].rekey(peer, world.timeline.now_ns)

    def _take(self, receiver: Host, sender: str, delivered: Delivered) -> None:
        """A program gets a packet."""
        at_ns = self._world.timeline.now_ns + ANSWERS_AFTER_NS
        match delivered.purpose:
            case Purpose.QUESTION:
                question = self._questions.pop(delivered.serial, None)
                if delivered.destination != receiver.inner:
                    self._world.timeline.at(at_ns, self._answer_call, receiver, sender, delivered)
                elif question is None:
                    self._world.timeline.at(at_ns, self._send, receiver.name, sender, Purpose.ANSWER, [delivered.size])
                else:
                    self._world.timeline.at(at_ns, self._serve, *question)
            case Purpose.ANSWER if delivered.serial in self._answers:
                exchange, asked = self._answers.pop(delivered.serial)
                if exchange.asked == asked:
                    exchange.missing -= 1
                    if not exchange.missing:
                        at_ns = self._world.timeline.now_ns + exchange.workload.every_ns
                        self._world.timeline.at(at_ns, self._ask, exchange, asked)
            case _:
                pass

    # Calls: to an address, whoever has it.

    def _call(self, workload: Workload, host: Host, dice: random.Random) -> None:
        world = self._world
        world.timeline.at(world.timeline.now_ns + workload.every_ns, self._call, workload, host, dice)
        for address in world.floating.plans:
            if host.down or host.paused or host.owns(address):
                continue
            ends = host.inner, address.packed
            [size] = _sizes(workload, 1, dice)
            packet = world.ledger.make(Purpose.QUESTION, size, ends, maker=host.name, addressee=ANYBODY)
            self._hand_in(host, ANYBODY, [packet])

    def _answer_call(self, host: Host, caller: str, question: Delivered) -> None:
        """From the address that was called."""
        if host.down or host.paused:
            return
        ends = question.destination, question.source
        packet = self._world.ledger.make(Purpose.ANSWER, question.size, ends, maker=host.name, addressee=caller)
        self._hand_in(host, caller, [packet])

    # Requests: the next one waits for the whole answer to this one.

    def _ask(self, exchange: _Exchange, asked: int) -> None:
        if exchange.asked != asked:  # the answer came while we were about to lose patience
            return
        world = self._world
        exchange.asked += 1
        exchange.missing = exchange.workload.burst
        self._questions[world.ledger.count] = exchange, exchange.asked
        self._send(*exchange.way, Purpose.QUESTION, [MIN_INNER_BYTES])
        world.timeline.at(world.timeline.now_ns + PATIENCE_NS, self._ask, exchange, exchange.asked)

    def _serve(self, exchange: _Exchange, asked: int) -> None:
        workload, count = exchange.workload, self._world.ledger.count
        for serial in range(count, count + workload.burst):
            self._answers[serial] = exchange, asked
        self._send(*exchange.way[::-1], Purpose.ANSWER, _sizes(workload, workload.burst, exchange.dice))

    # Leaving and coming back.

    def _churn(self, workload: Workload, dice: random.Random) -> None:
        world = self._world
        at_ns = world.timeline.now_ns + workload.every_ns
        if world.timeline.now_ns < world.plan.healed_ns:
            world.timeline.at(at_ns, self._churn, workload, dice)
            for _ in range(workload.burst):
                names = world.plan.nodes
                name = names[below(dice.getrandbits(64), len(names))]
                if name in self._away:
                    self._return(world.hosts[name])
                elif len(names) - len(self._away) > STAY:
                    self._leave(world.hosts[name])

    def _leave(self, host: Host) -> None:
        self._away[host.name] = None
        host.down += 1
        if host.down == 1:
            host.leave()

    def _return(self, host: Host) -> None:
        del self._away[host.name]
        host.down -= 1
        if not host.down:
            host.boot(self._world.timeline.now_ns)

    # Packets.

    def _send(self, source: str, destination: str, purpose: Purpose, sizes: list[int]) -> None:
        world = self._world
        host, peer = world.hosts[source], world.hosts[destination]
        if host.down or host.paused or not host.inner or not peer.inner:
            return
        packets: list[Packet]
        if len(sizes) > 1 and world.plan.offloads:
            packets = world.ledger.make_batch(
                purpose, sizes, host.inside, peer.inside, maker=source, addressee=destination
            )
        else:
            make, ends = world.ledger.make, (host.inner, peer.inner)
            packets = [make(purpose, size, ends, maker=source, addressee=destination) for size in sizes]
        self._hand_in(host, destination, packets)

    def _spoof(self, source: str, destination: str, *, is_source: bool) -> None:
        """A packet under somebody else's inner address, or for an inner address that is not the peer's."""
        world = self._world
        host, peer = world.hosts[source], world.hosts[destination]
        if host.down or host.paused or not host.inner or not peer.inner:
            return
        others = [each.inner for name, each in world.hosts.items() if name not in (source, destination)]
        stolen = others[0] if others else FOREIGN
        ends = (stolen, peer.inner) if is_source else (host.inner, stolen)
        packet = world.ledger.make(
            Purpose.ONE_WAY, MIN_INNER_BYTES, ends, maker=source, addressee=destination, is_stolen=True
        )
        self._hand_in(host, destination, [packet], is_rogue=True)

    def _hand_in(self, host: Host, destination: str, packets: list[Packet], *, is_rogue: bool = False) -> None:
        now_ns, capture = self._world.timeline.now_ns, self._world.capture
        if capture is not None:
            for packet in whole_packets(packets):
                capture.inside(now_ns, host.name, packet, is_entering=True)
        is_sparse = len(packets) == 1 and not is_rogue and self._goes_apart(host.name)
        host.send(destination, packets, now_ns, is_rogue=is_rogue, is_sparse=is_sparse)

    def _goes_apart(self, name: str) -> bool:
        """Whether a packet that a program sends alone is of a flow that sends little, or of one that did more before."""
        dice = self._lanes.get(name)
        if dice is None:
            dice = self._lanes[name] = stream(self._world.plan.seed, "lane", name)
        return bool(dice.getrandbits(1))


def _sizes(workload: Workload, count: int, dice: random.Random) -> list[int]:
    span = workload.size_high - workload.size_low + 1
    return [workload.size_low + below(dice.getrandbits(64), span) for _ in range(count)]
