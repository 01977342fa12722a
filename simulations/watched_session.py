"""Sessions of whole nodes under watch: they do what the real ones do, and tell the world what happens to them.

Each promise about them is asked about on the way, at the places where `machine` asks at heap speed. Not responsible for what
the promises are: that is `oracles`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import trio

import holloway.actors.peers as making
from holloway.protocols.addresses import Address
from holloway.protocols.arrivals import Arrival
from holloway.protocols.events import EndpointMoved, Event
from holloway.protocols.keyring import Links
from holloway.protocols.noise import OpenedInitiation
from holloway.protocols.offers import SEALED
from holloway.protocols.packets import Packet, SuperPacket
from holloway.protocols.record_turns import OpeningTurn, SealingTurn
from holloway.protocols.runs import Run, flatten
from holloway.protocols.session import Session, SessionConfig, State
from holloway.simulations.determinism import PROCESS
from holloway.simulations.oracles import (
    expired_keys_are_forgotten,
    forgery_changes_nothing,
    initiation_answered_once,
    keys_are_few,
    queues_are_bounded,
    transitions_are_legal,
    unconfirmed_key_is_not_used,
    waiting_ends,
)
from holloway.simulations.record_oracles import old_pieces_are_forgotten
from holloway.simulations.record_watch import RecordWatch, Sight
from holloway.simulations.snapshots import answered_at, has_just_been_answered, is_dialling, snapshot
from holloway.simulations.terms import allowed
from holloway.simulations.terms_oracles import terms_are_what_both_ask_for

if TYPE_CHECKING:
    from holloway.simulations.actor_host import Life


@contextmanager
def watched_sessions() -> Iterator[None]:
    """Sessions that nodes make meanwhile are watched."""
    before = vars(making)["Session"]
    vars(making)["Session"] = WatchedSession
    try:
        yield
    finally:
        vars(making)["Session"] = before


class WatchedSession(Session):
    """A session of a simulated node."""

    def __init__(
        self,
        config: SessionConfig,
        *,
        links: Links,
        entropy: Callable[[int], bytes],
        wall_ns: Callable[[], int],
        now: float,
        endpoint: Address | None = None,
    ) -> None:
        """See `Session`. Made by a task of the node that it belongs to."""
        self._life: Life = PROCESS.get()  # type: ignore[assignment]  # what `determinism` knows only as an object
        self._world = self._life.host.world
        self._key = config.peer_public
        named = [host.name for host in self._world.hosts.values() if host.key == self._key]
        self._allowed = allowed(self._world.plan, self._life.name, named[0]) if named else SEALED
        self._seen = State.IDLE, 0
        self._answered: dict[bytes, None] = {}
        config = replace(config, suite=self._world.watch(config.suite))
        super().__init__(config, links=links, entropy=entropy, wall_ns=wall_ns, now=now, endpoint=endpoint)
        self._watch = RecordWatch(self, self._world.reached.reach, self._world.check, now)

    def receive(self, arrivals: Iterable[Arrival], now: float) -> None:
        """See `Session`. A forged datagram is handed in alone, and must change nothing."""
        check, forged = self._world.check, self._world.forged
        genuine = []
        for each in arrivals:
            if each.data not in forged:
                genuine.append(each)
                continue
            self._receive(genuine, now)
            genuine = []
            before = snapshot(self)
            self._receive([each], now)
            check(forgery_changes_nothing, [before], [snapshot(self)], self._life.name)
        self._receive(genuine, now)

    def receive_lone(
        self, arrival: Arrival, now: float, deliver: Callable[[bytes], object] | None = None
    ) -> bytes | None:
        """See `Session`. Likewise."""
        if arrival.data in self._world.forged:
            before = snapshot(self)
            packet = super().receive_lone(arrival, now, deliver)
            self._world.check(forgery_changes_nothing, [before], [snapshot(self)], self._life.name)
            return packet
        sight = self._watch.look([arrival])
        packet = super().receive_lone(arrival, now, deliver)
        if packet is not None:
            self._watch.received(sight, [arrival], now)
            if packet:  # its owner asks for no events
                self._look()
        return packet

    def send_lone(
        self,
        packet: Packet,
        now: float,
        send: Callable[[bytes], object] | None = None,
        *,
        is_sparse: bool = False,
        count: int = 1,
    ) -> bytes | None:
        """See `Session`."""
        datagram = super().send_lone(packet, now, send, is_sparse=is_sparse, count=count)
        if datagram is not None:
            self._watch.sent([datagram], now)
            self._look()
        return datagram

    def begin_receiving(self, now: float) -> OpeningTurn | None:
        """See `Session`."""
        turn = super().begin_receiving(now)
        return None if turn is None else cast(OpeningTurn, _WatchedOpening(turn, self._watch.sight()))

    def end_receiving(self, turn: OpeningTurn, now: float) -> bool:
        """See `Session`. Nothing that was forged takes this way."""
        assert isinstance(turn, _WatchedOpening)
        has_outputs = super().end_receiving(turn.watched, now)
        if turn.arrivals:
            forged = [arrival.data in self._world.forged for arrival in turn.arrivals]
            self._world.check(forgery_changes_nothing, forged, [False] * len(forged), self._life.name)
            self._watch.received(turn.sight, turn.arrivals, now)
            self._world.reached.reach("run_went_straight")
            self._look()
        return has_outputs

    def begin_sending(self, now: float) -> SealingTurn | None:
        """See `Session`."""
        turn = super().begin_sending(now)
        return None if turn is None else cast(SealingTurn, _WatchedSealing(turn))

    def end_sending(self, turn: SealingTurn, now: float) -> bool:
        """See `Session`."""
        assert isinstance(turn, _WatchedSealing)
        has_outputs = super().end_sending(turn.watched, now)
        for datagrams in turn.sent:
            self._watch.sent(datagrams, now)
            self._world.reached.reach("super_packet_went_straight")
        if turn.sent:
            self._look()
        return has_outputs

    def _receive(self, arrivals: list[Arrival], now: float) -> None:
        sight = self._watch.look(arrivals)
        super().receive(arrivals, now)
        self._watch.received(sight, arrivals, now)

    def runs_to_send(self) -> list[Run]:
        """See `Session`. Its owner asks when something has happened."""
        runs = super().runs_to_send()
        if runs:
            self._watch.sent(flatten(runs), trio.current_time())
        return runs

    def receive_initiation(self, opened: OpenedInitiation, source: Address, now: float) -> None:
        """See `Session`."""
        before, was_dialling = answered_at(self), is_dialling(self)
        super().receive_initiation(opened, source, now)
        if answered_at(self) != before:
            told = opened.remote_ephemeral + bytes(16)
            self._world.check(initiation_answered_once, self._answered, told, self._life.name)
            if was_dialling:
                self._world.reached.reach("both_dialled_at_once")

    def send(self, packets: Sequence[Packet], now: float) -> None:
        """See `Session`."""
        was_waiting = not self.is_ready
        super().send(packets, now)
        if was_waiting and self.staged:
            self._world.reached.reach("packet_waited")
            self._world.check(queues_are_bounded, self)

    def handle_timeout(self, now: float) -> None:
        """See `Session`."""
        super().handle_timeout(now)
        self._world.check(expired_keys_are_forgotten, self, now)
        self._world.check(old_pieces_are_forgotten, self, now)

    def next_event(self) -> Event | None:
        """See `Session`. Its owner asks until there is none, at the end of every turn."""
        event = super().next_event()
        if event is not None:
            self._world.reached.note_event(event)
            if isinstance(event, EndpointMoved) and not has_just_been_answered(self):
                self._world.moved(self._life.host, self._key, event)
        else:
            self._look()
        return event

    def close(self) -> None:
        """See `Session`."""
        if self.state is not State.CLOSED and not self._life.is_counted:
            self._world.note_transitions(self)
        super().close()

    def _look(self) -> None:
        """A turn is over."""
        check, now = self._world.check, (self.state, self.epoch)
        if now != self._seen:
            self._seen = now
            check(transitions_are_legal, self)
            check(unconfirmed_key_is_not_used, self)
            check(keys_are_few, self)
            check(terms_are_what_both_ask_for, self.terms, self._allowed, self)
            self._life.host.state_of(self, self._key)
        if self.next_timeout() is None:
            check(waiting_ends, self)


class _WatchedOpening:
    """A turn, and what it has taken in."""

    def __init__(self, turn: OpeningTurn, sight: Sight) -> None:
        self.watched, self.sight = turn, sight
        self.arrivals: list[Arrival] = []

    def open(self, arrival: Arrival) -> Packet | None:
        """See `OpeningTurn`."""
        packet = self.watched.open(arrival)
        if packet is not None:
            self.arrivals.append(arrival.kept())
        return packet


class _WatchedSealing:
    """A turn, and what it has let go."""

    def __init__(self, turn: SealingTurn) -> None:
        self.watched = turn
        self.sent: list[list[bytes]] = []

    def seal(self, packet: SuperPacket) -> Run | None:
        """See `SealingTurn`."""
        run = self.watched.seal(packet)
        if run is not None:
            self.sent.append(run.datagrams())
        return run
