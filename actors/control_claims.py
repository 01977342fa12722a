"""The control plane as a node's daemon knows it: what believed records say of brokers and agents, and what our own is to say.

Only records that are signed count, and only brokers of nodes that the network's settings name: whoever could announce a broker would
command every agent. The key of this machine's agent is kept in the state directory, so that a daemon that is started again says it
at once; a broker is announced for as long as it holds its connection to us.

Not responsible for verifying records (`belief`), nor for the control socket (`control_claims_answers`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import trio

from holloway.actors.enrolled import Enrolled
from holloway.actors.records import Told
from holloway.protocols.broker_places import BrokerPlace, read_curve_key
from holloway.protocols.errors import LocalError
from holloway.protocols.membership import NodeRecord

AGENT_KEY = "agent.curve"
"""The file with the public key of this machine's agent."""


@dataclass(frozen=True, slots=True)
class View:
    """Who is believed. `agents`: names of nodes and the CURVE keys of their agents. `named`: nodes that may have a broker, and are not
    revoked; `ignored`: those that announce one and may not."""

    agents: tuple[tuple[str, str], ...] = ()
    brokers: tuple[tuple[str, BrokerPlace], ...] = ()
    named: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()


class ControlClaims:
    """What the records of one network say, our own included. `enrolled`: who we are there; None where records are not signed."""

    def __init__(self, name: str, enrolled: Enrolled | None) -> None:
        """Raises PortError for a key that was kept and cannot be read."""
        self._name, self._enrolled = name, enrolled
        self._others: tuple[Told, ...] = ()
        self._is_ours_believed = True
        self._broker: BrokerPlace | None = None
        self._agent_key = None if enrolled is None else _kept_key(enrolled)
        self._changed = trio.Event()
        self._own_changed = trio.Event()

    @property
    def is_signed(self) -> bool:
        """Whether anything is believed at all."""
        return self._enrolled is not None

    # Ours.

    @property
    def agent_key(self) -> str | None:
        """The public key of this machine's agent, when it has one."""
        return self._agent_key

    async def enrol(self, key: str | None) -> None:
        """The agent of this machine has that public key from now on; None: it has no agent. Raises LocalError where records are not
        signed and for what is no key, PortError when it cannot be kept.
        """
        if self._enrolled is None:
            raise LocalError(
                "no agent can be enrolled by this node",
                "its network's records are not signed, so whoever writes the registry could let in whom he likes",
                "where an admin is: holloway client create --role node --name NAME",
            )
        try:
            if key is not None:
                read_curve_key(key)
        except ValueError:
            raise LocalError("not a CURVE key", "it has not 40 characters, or everybody knows its secrets") from None
        if key != self._agent_key:
            await self._enrolled.state.apart(partial(_keep_key, self._enrolled, key))
            self._agent_key = key
            self._ours_changed()

    @contextmanager
    def announce(self, broker: BrokerPlace) -> Iterator[None]:
        """There is that broker on this node, for as long as the block lasts. Raises LocalError where there is one already."""
        if self._broker is not None:
            raise LocalError(
                "there is a broker on this node already",
                f"it listens on {self._broker.address} port {self._broker.command_port}",
                "stop it first: a node has one",
            )
        self._broker = broker
        self._ours_changed()
        try:
            yield
        finally:
            self._broker = None
            self._ours_changed()

    def said_of(self, record: NodeRecord) -> NodeRecord:
        """Our record with what it is to say of the control plane. What is not signed says nothing: nobody would believe it."""
        if self._enrolled is None:
            return record
        return replace(record, curve_key=self._agent_key, broker=self._broker)

    def own_changed(self) -> trio.Event:
        """An event that is set by the next change of ours; ask before reading."""
        return self._own_changed

    def _ours_changed(self) -> None:
        self._own_changed.set()
        self._own_changed = trio.Event()
        self._tell()

    # Everybody's.

    def set_others(self, told: tuple[Told, ...], *, is_ours_believed: bool) -> None:
        """What the records of the others say, the older of two claims first; whether the others believe ours."""
        if (told, is_ours_believed) != (self._others, self._is_ours_believed):
            self._others, self._is_ours_believed = told, is_ours_believed
            self._tell()

    def settings_changed(self) -> None:
        """Who may have a broker may have changed."""
        self._tell()

    def changed(self) -> trio.Event:
        """An event that is set by the next change of the view; ask before reading."""
        return self._changed

    def _tell(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def view(self) -> View:
        """Who is believed now."""
        if self._enrolled is None:
            return View()
        told = [*self._others]
        if self._is_ours_believed:
            told.insert(0, Told(self._name, self._agent_key, self._broker))
        may = frozenset(self._enrolled.newest.brokers)
        brokers = [(each.name, each.broker) for each in told if each.broker is not None]
        return View(
            tuple((each.name, each.curve_key) for each in told if each.curve_key is not None),
            tuple(sorted((each for each in brokers if each[0] in may), key=lambda each: each[0])),
            tuple(sorted(each.name for each in told if each.name in may)),
            tuple(sorted(name for name, _ in brokers if name not in may)),
        )


def _keep_key(enrolled: Enrolled, key: str | None) -> None:
    if key is None:
        enrolled.state.remove(AGENT_KEY)
    else:
        enrolled.state.write(AGENT_KEY, key + "\n")


def _kept_key(enrolled: Enrolled) -> str | None:
    kept = enrolled.state.read(AGENT_KEY)
    if kept is None:
        return None
    try:
        return read_curve_key(kept.decode("ascii", "replace").strip())
    except (ValueError, LocalError):
        return None  # its agent says it again
