"""The faults of nodes, and the beginning and end of every fault: crashes, pauses, wrong clocks, new ports, floods.

Not responsible for what faults of links do to datagrams: that is `links`.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING

from holloway.protocols.addresses import Address
from holloway.protocols.cookies import MacWriter
from holloway.protocols.noise import initiation_bytes
from holloway.protocols.suites import SUITES
from holloway.simulations.bombers import Bomber
from holloway.simulations.faults import KINDS, Fault, Scope
from holloway.simulations.forgers import Forger
from holloway.simulations.liars import Liar
from holloway.simulations.links import Listener
from holloway.simulations.streams import below, stream

if TYPE_CHECKING:
    from holloway.simulations.world import Host, World

FIRST_NAT_PORT = 20_000
STRANGER: Address = ("203.0.113.66", 666)
_MACS_BYTES = 32


class Mishaps:
    """Plans the beginning and the end of every fault of the world's plan."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._rebound = 0
        self._begun: dict[str, Fault] = {}
        """By name, the faults at work as they befell somebody."""
        for fault in world.plan.faults:
            world.timeline.at(fault.at_ns, self._begin, fault)
            if KINDS[fault.kind].has_end:
                world.timeline.at(fault.until_ns, self._end, fault)
        for listener in world.listeners:
            world.timeline.at(listener.fault.at_ns, self._replay, listener)
        for forger in world.forgers:
            world.timeline.at(forger.fault.at_ns, self._forge, forger)

    def _begin(self, fault: Fault) -> None:
        fault = self._begun[fault.name] = replace(fault, nodes=self._world.floating.resolve(fault))
        self._world.floating.begin(fault, self._world.timeline.now_ns)
        self._record(fault, "fault")
        match KINDS[fault.kind].scope:
            case Scope.LINKS if fault.kind in ("replay", "forge_pieces"):
                pass  # whoever listens has been there from the first
            case Scope.LINKS:
                self._world.faults.begin(fault)
            case Scope.NODES:
                for name in fault.nodes:
                    self._befall(fault, self._world.hosts[name])
            case Scope.STORE:
                self._world.store_fails(fault)

    def _end(self, fault: Fault) -> None:
        fault = self._begun.pop(fault.name)
        self._world.floating.end(fault)
        self._record(fault, "heal")
        match KINDS[fault.kind].scope:
            case Scope.LINKS:
                self._world.faults.end(fault)
            case Scope.NODES:
                for name in fault.nodes:
                    self._relieve(fault, self._world.hosts[name])
            case Scope.STORE:
                self._world.store_recovers(fault)

    def _record(self, fault: Fault, kind: str) -> None:
        if self._world.trace is not None:
            whom = " ".join(fault.nodes + fault.between)
            self._world.trace.add(self._world.timeline.now_ns, fault.name, kind, whom, 0, 0, fault.kind)

    def _befall(self, fault: Fault, host: Host) -> None:
        now_ns = self._world.timeline.now_ns
        match fault.kind:
            case "crash":
                host.down += 1
                if host.down == 1:
                    host.die()
            case "stop":
                host.down += 1
                if host.down == 1:
                    host.leave()
            case "restart":
                if not host.down:
                    host.die()
                    host.boot(now_ns)
            case "pause":
                host.paused += 1
                if host.paused == 1:
                    host.pause()
            case "nat_rebind":
                self._rebind(host)
            case "clock_jump":
                host.clocks.offset_ns += int(fault.values["by"])
            case "clock_skew":
                self._skew(fault, host, 1)
            case "false_reports":
                host.lie(Liar(stream(self._world.plan.seed, fault.name, host.name)))
            case "bombs":
                self._bomb(fault, host, Bomber(stream(self._world.plan.seed, fault.name, host.name)))
            case "revoke":
                self._world.revoke(host)
            case "expired_certificate" | "foreign_certificate":
                self._world.certificate_fails(host, fault.kind)
            case "port_failure":
                host.break_port(stream(self._world.plan.seed, fault.name, host.name).getrandbits(64))
            case "socket_failure":
                host.break_socket(stream(self._world.plan.seed, fault.name, host.name).getrandbits(64))
            case _:  # handshake_flood: there is no other that befalls nodes
                dice = stream(self._world.plan.seed, fault.name, host.name)
                self._flood(fault, host, dice, MacWriter(host.key))

    def _relieve(self, fault: Fault, host: Host) -> None:
        now_ns = self._world.timeline.now_ns
        match fault.kind:
            case "crash" | "stop":
                host.down -= 1
                if not host.down:
                    host.boot(now_ns)
            case "pause":
                host.paused -= 1
                if not host.paused:
                    host.resume(now_ns)
            case "clock_skew":
                self._skew(fault, host, -1)
            case "expired_certificate" | "foreign_certificate":
                self._world.certificate_recovers(host, fault.kind)
            case "false_reports":
                host.lie(None)
            case _:  # a flood looks at its time by itself
                pass

    def _skew(self, fault: Fault, host: Host, sign: int) -> None:
        now_ns = self._world.timeline.now_ns
        host.clocks.offset_ns += sign * int(fault.values["offset"])
        host.clocks.drift(int(fault.values["drift"]) if sign > 0 else 0, now_ns)
        host.clock_changed(now_ns)

    def _rebind(self, host: Host) -> None:
        addresses = self._world.addresses
        del addresses[host.public]
        host.public = (str(host.public[0]), FIRST_NAT_PORT + self._rebound)
        self._rebound += 1
        addresses[host.public] = host

    def _flood(self, fault: Fault, host: Host, dice: random.Random, macs: MacWriter) -> None:
        """One initiation of a stranger: its mac1 is right, for anybody can make it, and nothing else is."""
        world = self._world
        now_ns = world.timeline.now_ns
        if now_ns >= fault.until_ns:
            return
        suite = SUITES[world.plan.suite]
        head = suite.initiation.to_bytes(4, "little")
        message = macs.append(head + dice.randbytes(initiation_bytes(suite) - len(head) - _MACS_BYTES), 0.0)
        number = below(dice.getrandbits(64), int(fault.values["sources"]))
        source = (f"100.{64 + (number >> 16)}.{number >> 8 & 255}.{number & 255}", 1099)
        world.flood(message, source, host.public)
        world.timeline.at(now_ns + int(fault.values["every"]), self._flood, fault, host, dice, macs)

    def _bomb(self, fault: Fault, host: Host, bomber: Bomber) -> None:
        world = self._world
        now_ns = world.timeline.now_ns
        if now_ns >= fault.until_ns:
            return
        for session in () if host.down or host.paused else host.sessions().values():
            for datagram in bomber.bomb(session):
                if session.endpoint is not None:
                    world.transmit(host, datagram, session.endpoint, 0)
        world.timeline.at(now_ns + int(fault.values["every"]), self._bomb, fault, host, bomber)

    def _replay(self, listener: Listener) -> None:
        world, fault = self._world, listener.fault
        now_ns = world.timeline.now_ns
        if now_ns >= fault.until_ns:
            return
        choice = listener.choose()
        if choice is not None:
            old, is_elsewhere = choice
            source = STRANGER if is_elsewhere else old.source
            world.inject(old.data, source, old.destination, is_forged=False)
        world.timeline.at(now_ns + int(fault.values["every"]), self._replay, listener)

    def _forge(self, forger: Forger) -> None:
        world, fault = self._world, forger.fault
        now_ns = world.timeline.now_ns
        if now_ns >= fault.until_ns:
            return
        forged = forger.choose()
        if forged is not None and forged.is_elsewhere:
            world.flood(forged.data, STRANGER, forged.destination)
        elif forged is not None:
            world.inject(forged.data, forged.source, forged.destination, is_forged=True)
        world.timeline.at(now_ns + int(fault.values["every"]), self._forge, forger)
