"""The data of a peer under keys that come out of a DTLS handshake (RFC 5705), in the records of the `aes-gcm` suite.

The handshake is DTLS's, with its certificates; what it agrees on seals batches and super-packets as sessions do, several times faster than
DTLS records, each of which holds one packet. Both sides tell each other, under the association, by which receiver index they know the
key. Whoever dialled uses it when he has been told; the other side when something has come under it. Until then, and with a side that
offers nothing, packets travel as DTLS records.

Responsible for the keys and for what is due of records (reports, probes of the path, pieces). Not responsible for associations, nor for
whether the peer lives (`dtls_link`). Pure: see `session`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from holloway.protocols.addresses import Address
from holloway.protocols.arrivals import Arrival
from holloway.protocols.dtls_wire import LinkMessage, message
from holloway.protocols.events import DropReason
from holloway.protocols.journal import Journal
from holloway.protocols.keyring import Keyring, Links
from holloway.protocols.noise import DerivedKeys
from holloway.protocols.packets import Packet
from holloway.protocols.runs import Run
from holloway.protocols.session_config import SessionConfig
from holloway.protocols.suites import AES_GCM
from holloway.protocols.timers import Deadline, SessionTimers
from holloway.protocols.transport import TransportKeys
from holloway.protocols.tunnel import KEEPALIVE, Tunnel

EXPORTER_LABEL = b"EXPORTER-holloway-records"
ASK_AGAIN_S = 0.5
MAX_ASKED = 10
"""Whoever has not answered by then offers nothing."""
MAX_INDEX = 0xFFFFFFFF
EXPORTED_BYTES = 64
"""The key of whoever dialled, and that of the other side, 32 bytes each."""


@dataclass(slots=True)
class _Asked:
    """Our receiver index for an association that we dialled, and when we last told it."""

    index: int
    at: float = -math.inf
    times: int = 0
    is_answered: bool = False
    is_used: bool = False
    """Something has come under the key."""


class ExportedSession:
    """One peer. Methods take `now` in monotonic seconds."""

    def __init__(self, config: SessionConfig, links: Links, entropy: Callable[[int], bytes], now: float) -> None:
        """`config`: its keys are not used, its suite has to be `aes-gcm`."""
        assert config.suite is AES_GCM
        self._links = links
        self._journal = Journal()
        self._timers = SessionTimers(config.timers, 0.0, entropy, now)
        self._ring = Keyring(config.suite, config.timers.reject_after_s, links, self._journal, config.memory)
        self._tunnel = Tunnel(config, self._ring, self._timers, self._journal)
        self.endpoint: Address | None = None
        self.received = self._tunnel.received
        self.transmitted = self._tunnel.transmitted
        self.drops = self._journal.drops

        self._asked: dict[int, _Asked] = {}
        self._agreed: dict[int, int] = {}
        self._of: dict[int, int] = {}
        """By our receiver index, the association that a key belongs to."""

    def __repr__(self) -> str:
        return f"<ExportedSession {self._ring}>"

    # Agreeing on keys, which belong to associations, each known by a number. Messages are of the link (`dtls_wire`).

    def propose(self, association: int, now: float) -> bytes | None:
        """What to send under an association that we dialled, when it is up, and then with what is sent or comes as a record of DTLS;
        None when nothing is to be said, or not again so soon.

        Where the other side has agreed and yet sends such records, it has not heard our keepalive: there is another in `runs_to_send`.
        """
        asked = self._asked.get(association)
        if asked is None:
            asked = self._asked[association] = _Asked(self._links.allocate())
        if asked.is_used or asked.times >= MAX_ASKED or now - asked.at < ASK_AGAIN_S:
            return None
        asked.at = now
        asked.times += 1
        if not asked.is_answered:
            return message(LinkMessage.KEYS, asked.index)
        if self.can_send(association, KEEPALIVE, now):
            self._tunnel.seal(self._keys, KEEPALIVE, now)
        return None

    def hear(
        self,
        kind: LinkMessage,
        association: int,
        remote: int,
        export: Callable[[], bytes],
        now: float,
        *,
        is_ours: bool,
    ) -> bytes | None:
        """The peer tells its receiver index. `export` gives `EXPORTED_BYTES` bytes of the association. `is_ours`: we dialled that. What
        to answer.

        Whoever dialled proposes and the other side agrees, nobody else: if the halves were taken the wrong way round, we would seal with
        the key that the peer seals with.
        """
        if remote > MAX_INDEX or is_ours is not (kind is LinkMessage.KEYS_AGREED):
            self._journal.drop(DropReason.MALFORMED, None)
            return None
        if kind is LinkMessage.KEYS:
            local = self._agreed.get(association)
            if local is None:
                local = self._agreed[association] = self._links.allocate()
                self._install(association, export(), local, remote, now, is_ours=False)
            # The index of a key that another one has displaced may be of something else by now.
            is_kept = self._of.get(local) == association and local in self._ring.by_index
            return message(LinkMessage.KEYS_AGREED, local) if is_kept else None
        asked = self._asked.get(association)
        if asked is not None and not asked.is_answered:
            asked.is_answered = True
            asked.at, asked.times = now, 0
            self._install(association, export(), asked.index, remote, now, is_ours=True)
        return None

    def forget(self, association: int) -> None:
        """An association is over. What is in flight under its keys may still come."""
        self._agreed.pop(association, None)
        asked = self._asked.pop(association, None)
        if asked is not None and not asked.is_answered:
            self._links.release(asked.index)

    def _install(
        self, association: int, exported: bytes, local: int, remote: int, now: float, *, is_ours: bool
    ) -> None:
        """`is_ours`: we dialled, and the peer has the keys."""
        half = len(exported) // 2
        ours, theirs = (exported[:half], exported[half:]) if is_ours else (exported[half:], exported[:half])
        derived = DerivedKeys(ours, theirs, local, remote, b"")
        if is_ours:
            self._ring.add_current(derived, now, keep_next=False)
            self._began(now)
            self._tunnel.seal(self._keys, KEEPALIVE, now)  # the other side uses them when it has heard us
        else:
            self._ring.add_next(derived, now)
        self._of = {index: each for index, each in self._of.items() if index in self._ring.by_index}
        self._of[local] = association
        self._watch_expiry()

    def _began(self, now: float) -> None:
        self._tunnel.aim(self.endpoint, now)
        self._tunnel.connected(now)

    def aim(self, endpoint: Address, now: float) -> None:
        """Where the peer is."""
        if endpoint != self.endpoint:
            self.endpoint = endpoint
            self._tunnel.aim(endpoint, now)

    @property
    def _keys(self) -> TransportKeys:
        keys = self._ring.current
        assert keys is not None
        return keys

    def can_send(self, association: int, packets: Sequence[Packet], now: float) -> bool:
        """Whether there is a key of that association for these packets. One of another may be of an earlier life of the peer."""
        keys = self._ring.current
        return (
            keys is not None
            and self._of.get(keys.local_index) == association
            and now < keys.expires_at
            and keys.can_seal(packets)
        )

    def send(self, packets: Sequence[Packet], now: float) -> None:
        """Seal packets for which `can_send`."""
        self._tunnel.send(self._keys, packets, now)

    def receive(self, arrivals: Iterable[Arrival], now: float) -> set[int]:
        """Datagrams whose receiver index is ours. The associations under whose keys something authentic came. Takes any bytes.

        The newest one says where the peer is.
        """
        ring, tunnel = self._ring, self._tunnel
        is_waiting = False
        heard: set[int] = set()
        for arrival in arrivals:
            keys = ring.by_index.get(int.from_bytes(arrival.data[:4], "little"))
            if keys is None or now >= keys.expires_at:
                reason = DropReason.UNKNOWN_INDEX if keys is None else DropReason.KEY_EXPIRED
                self._journal.drop(reason, arrival.source, arrival.datagram_count)
                continue
            is_moved = arrival.source != self.endpoint
            newest = keys.newest if is_moved else 0
            records = keys.open(arrival, self.endpoint, now)
            is_waiting = is_waiting or keys.is_waiting
            if not records:
                continue
            association = self._of[keys.local_index]
            heard.add(association)
            if (asked := self._asked.get(association)) is not None:
                asked.is_used = True
            ring.hear(keys)
            if is_moved and keys.newest > newest and not ring.is_outdated(keys):
                self.aim(arrival.source, now)
            if keys is ring.next:
                ring.confirm_next()
                self._began(now)
            tunnel.hear(records, arrival.source, now)
        if is_waiting:
            tunnel.watch(now, may_report=bool(heard))
        return heard

    def handle_timeout(self, now: float) -> None:
        """Do what is due of records. Whether the peer is silent is not asked here."""
        for deadline in self._timers.take_due(now):
            match deadline:
                case Deadline.KEY_EXPIRY:
                    self._ring.expire(now)
                    self._watch_expiry()
                case Deadline.REPORT:
                    self._tunnel.watch(now)
                case Deadline.PATH:
                    self._tunnel.probe(now)
                case Deadline.PIECES_EXPIRY:
                    self._ring.expire_pieces(now)
                    self._tunnel.watch(now)
                case _:
                    pass

    def next_timeout(self) -> float | None:
        """When to call `handle_timeout`."""
        return self._timers.earliest()

    def runs_to_send(self) -> list[Run]:
        """Datagrams for `endpoint`; see `Session.runs_to_send`."""
        return self._tunnel.take_runs()

    def packets_to_deliver(self) -> list[Packet]:
        """Inner packets that passed every check."""
        return self._tunnel.deliver()

    def clear(self) -> None:
        """Forget every key, and every association."""
        for association in [*self._asked, *self._agreed]:
            self.forget(association)
        self._ring.clear()
        self._tunnel.clear()
        self._timers.disarm_all()

    def _watch_expiry(self) -> None:
        earliest = self._ring.earliest_expiry()
        if earliest is not None:
            self._timers.key_expires(earliest)
