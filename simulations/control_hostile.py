"""A node whose key somebody else has: he sends the broker whatever might do him good, and none of it may.

What the key is for he can do as well as the node: tell lies about its own jobs. Not responsible for that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from holloway.protocols.control_plane import messages as m
from holloway.protocols.control_plane.effects import Principal
from holloway.protocols.control_plane.file_messages import Offer, Want
from holloway.protocols.control_plane.wire import MAGIC, MAX_BODY_BYTES, encode
from holloway.simulations.control_oracles import hostile_nodes_gain_nothing
from holloway.simulations.faults import Fault
from holloway.simulations.oracles import hold
from holloway.simulations.streams import below, stream

if TYPE_CHECKING:
    from holloway.simulations.control_hosts import AgentHost
    from holloway.simulations.control_world import ControlWorld


class HostileNode:
    """Whoever has one node, as long as a fault lasts: its key, and its record, in which he names the key of another one."""

    def __init__(self, world: ControlWorld, fault: Fault, host: AgentHost) -> None:
        self._world, self._fault, self._host = world, fault, host
        self._dice = stream(world.plan.seed, fault.name, host.name)

    def steal(self) -> None:
        """Name the key of another node, whose own record has not come; until the fault is over."""
        world = self._world
        others = [
            name for name, each in world.hosts.items() if isinstance(each, type(self._host)) and each is not self._host
        ]
        if not others:
            return
        victim = others[below(self._dice.getrandbits(64), len(others))]
        world.thieves[victim] = self._host.name
        world.broker.renamed(victim, self._host.name)

        def give_back() -> None:
            if world.thieves.pop(victim, None) is not None:
                world.broker.renamed(self._host.name)

        world.timeline.at(self._fault.until_ns, give_back)

    def act(self) -> None:
        """Send something, and again later."""
        world, now_ns = self._world, self._world.timeline.now_ns
        if now_ns >= self._fault.until_ns:
            return
        world.timeline.at(now_ns + int(self._fault.values["every"]), self.act)
        self._reach_for_files()
        frames, who = self._draw()
        if world.broker.is_up() and not world.broker.paused:
            refused = world.broker.refused
            route = f"{self._host.name}/hostile".encode()
            effects = world.broker.receive(who, route, frames)
            if world.broker.is_up():
                hold(hostile_nodes_gain_nothing, effects, route, world.broker.refused - refused)

    def _reach_for_files(self) -> None:
        """He wants files and lists, and offers some. What of that may be is for the shelf to hold against the truth."""
        dice, shelf = self._dice, self._world.broker.shelf
        bits, token = dice.getrandbits(64), dice.randbytes(16).hex()
        name = ("shared/f0", "ann/f0", "bob/f1", "shared/", "ann/", "../ann/f0")[below(bits, 6)]
        message = Offer(token, name, 1, "0" * 64, 0o600) if bits % 4 == 3 else Want(token, name)
        if self._world.broker.is_up() and not self._world.broker.paused:
            shelf.receive(self._host.principal, f"{self._host.name}/hostile".encode(), encode(message))

    def _draw(self) -> tuple[list[bytes], Principal | None]:
        """What he sends, and with which key: sometimes with one that nobody knows."""
        dice, node = self._dice, self._host.principal
        token = dice.randbytes(16).hex()
        exec_step = m.Step("exec", ("id",))
        wall = self._host.moment.wall
        forged: list[m.Message] = [
            m.Ask(token, (exec_step,), "all", 5.0),
            m.Admin(token, "client-create", ("mallory",), {"role": "admin"}),
            m.Query(token, "clients"),
            m.Run(token, (exec_step,), "ann", m.Role.ADMIN, "all", wall, wall + 60, 5.0),
            m.Noted(token),
            m.Registered("n1", 1.0),
        ]
        foreign = [
            name for name, job in self._world.broker.broker.jobs.running.items() if self._host.name not in job.parts
        ]
        if foreign:
            job = foreign[below(dice.getrandbits(64), len(foreign))]
            forged += [
                m.CancelJob(token, job),
                m.Attach(token, job),
                m.Seen(job, 9),
                m.Taken(job),
                m.Output(job, 0, m.Stream.STDOUT, 1, b"forged"),
                m.Done(job, m.State.OK, 0, 0.0, "", (), 0, False, ""),
            ]
        malformed = [
            [],
            [MAGIC, dice.randbytes(40), b""],
            [b"HW0", b"{}", b""],
            [MAGIC, b'{"kind":"done"}', bytes(MAX_BODY_BYTES + 1)],
            [MAGIC, b"[" * 1000, b""],
        ]
        choice = below(dice.getrandbits(64), len(forged) + len(malformed) + 1)
        if choice < len(forged):
            return encode(forged[choice]), node
        if choice < len(forged) + len(malformed):
            return malformed[choice - len(forged)], node
        return encode(m.Ask(token, (exec_step,), "all", 5.0)), None
