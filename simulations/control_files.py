"""Files in a simulated control plane: the disk of the broker, and operators who put and get.

What is put is known to everybody here, so that whatever gets a name can be compared with it. A file may change while it is sent.
Not responsible for the way of messages (`control_world`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from holloway.protocols.control_plane.access import DEFAULT_ACCESS
from holloway.protocols.control_plane.effects import Audit, Principal, Send
from holloway.protocols.control_plane.file_getter import Found, Getter, GetterEffect
from holloway.protocols.control_plane.file_messages import (
    CHUNK_BYTES,
    Abort,
    Chunk,
    Fetch,
    Finish,
    Offer,
    Reading,
    Want,
)
from holloway.protocols.control_plane.file_receiver import Discard, Leave, Outcome, Receiver, Store, Write
from holloway.protocols.control_plane.file_sender import Read, Sender, SenderEffect
from holloway.protocols.control_plane.file_service import (
    Close,
    FileLimits,
    FileService,
    Measure,
    Prepare,
    ServiceEffect,
)
from holloway.protocols.control_plane.wire import decode
from holloway.simulations.control_file_oracles import (
    files_are_what_was_offered,
    files_are_written_in_order,
    finished_files_are_safe,
    nodes_put_nothing,
    nodes_read_what_they_sync,
    transfers_are_bounded,
)
from holloway.simulations.oracles import hold
from holloway.simulations.streams import below, stream

if TYPE_CHECKING:
    from holloway.simulations.control_hosts import AgentHost, BrokerHost
    from holloway.simulations.control_operators import OperatorHost

LIMITS = FileLimits(max_bytes=8 * CHUNK_BYTES, max_transfers=6, max_each=4, deadline_s=50.0)
_STORED_WITHIN_NS = 200 * 10**6
_DEADLINE_S = 50.0
_CONTENTS = 5
"""Different files that an operator has; so some are put again, and go on where they were."""


class FileShelf:
    """The files of the broker: `files` by their parts, `begun` what is there of others. Both outlive it."""

    def __init__(self, host: BrokerHost) -> None:
        self._host = host
        self.files: dict[tuple[str, ...], bytes] = {}
        self.stored: dict[tuple[str, str], None] = {}
        """Every content that ever had a name: name and SHA-256."""
        self._begun: dict[str, bytes] = {}
        self._preparing: dict[str, Prepare] = {}
        self._reading: dict[str, bytes] = {}
        self.service = self._new()

    def _new(self) -> FileService:
        return FileService(DEFAULT_ACCESS, LIMITS, self._host.broker.may_read)

    def begin(self) -> None:
        """Another life of the broker."""
        self.service = self._new()
        self._preparing.clear()
        self._reading.clear()

    def receive(self, who: Principal | None, route: bytes, frames: list[bytes]) -> None:
        """A message comes on the connection for files."""
        self.carry_out(self.service.receive(self._host.moment, who, route, frames))

    def wake(self) -> None:
        """A deadline may have come."""
        self.carry_out(self.service.tick(self._host.moment))

    def carry_out(self, effects: Sequence[ServiceEffect]) -> None:
        """Do what the service wants, in order; what it wants then, at once."""
        host, moment = self._host, self._host.moment
        for effect in effects:
            if host.dies_now():
                return
            match effect:
                case Send(route, frames):
                    host.world.to_route(route, frames, is_file=True)
                case Prepare(key):
                    operators = host.world.operators
                    hold(nodes_put_nothing, effect.owner, operators, "/".join(effect.parts))
                    self._preparing[key] = effect
                    there = self._begun.setdefault(self._name(key), b"")
                    self.service.primed(key, there)
                    if there:
                        host.world.reached.reach("file_resumed")
                    self.carry_out(self.service.prepared(moment, key))
                case Write(key, offset, data):
                    name = self._name(key)
                    hold(files_are_written_in_order, len(self._begun[name]), offset, name)
                    self._begun[name] += data
                case Store(key):
                    at_ns = host.world.timeline.now_ns + _STORED_WITHIN_NS
                    host.world.timeline.at(at_ns, self._store, key, host.life)
                case Discard(key):
                    del self._begun[self._name(key)]
                    host.world.reached.reach("file_changed")
                case Leave():
                    pass
                case Measure(key, parts):
                    name = key.partition("/")[0]
                    if name not in host.world.operators:
                        hold(nodes_read_what_they_sync, host.world.truth.may_read(name, parts), name, "/".join(parts))
                    self._measure(key, parts)
                case Read(key, offset, size):
                    self.carry_out(self.service.read(key, offset, self._reading[key][offset : offset + size]))
                case Close(key):
                    self._reading.pop(key, None)
                case Audit():
                    host.write(effect)
        receivers = [each.work for each in self.service._transfers.values() if isinstance(each.work, Receiver)]
        hold(transfers_are_bounded, self.service, LIMITS, receivers)
        host.plan_wake(self.service.next_tick())

    def _name(self, key: str) -> str:
        prepare = self._preparing[key]
        return f"{prepare.owner} {'/'.join(prepare.parts)} {prepare.offer.sha256}"

    def _store(self, key: str, life: int) -> None:
        """The disk has written it out; unless the broker has died meanwhile."""
        if self._host.life != life or not self._host.is_up():
            return
        prepare, name = self._preparing[key], self._name(key)
        data = self._begun.pop(name, None)
        if data is not None:  # else another transfer of the same has stored it
            hold(files_are_what_was_offered, hashlib.sha256(data).hexdigest() == prepare.offer.sha256, name)
            self.files[prepare.parts] = data
            self.stored["/".join(prepare.parts), prepare.offer.sha256] = None
        self._host.do(lambda: self.carry_out(self.service.stored(key)))

    def _measure(self, key: str, parts: tuple[str, ...]) -> None:
        data = self.files.get(parts)
        if data is None:
            self.carry_out(self.service.failed(key, "there is no such file"))
        else:
            self._reading[key] = data
            digest = hashlib.sha256(data).hexdigest()
            self.carry_out(self.service.measured(self._host.moment, key, len(data), digest, 0o600))


class FileClient:
    """The files of one machine: what an operator puts and gets, or a node syncs. It dies with the machine."""

    def __init__(self, host: OperatorHost | AgentHost) -> None:
        self._host = host
        self._begun = 0
        self._work: dict[str, Sender | Getter] = {}
        self._data: dict[str, bytes] = {}

    def lose(self) -> None:
        """The machine has died."""
        self._work.clear()

    def unfinished(self) -> list[str]:
        """Transfers that have not ended."""
        return [key for key, work in self._work.items() if work.outcome is None]

    def begin(self) -> None:
        """Put or get something or other."""
        host = self._host
        if not host.is_up() or host.paused:
            return
        self._begun += 1
        dice = stream(host.world.plan.seed, "files", host.name, str(self._begun))
        transfer = dice.randbytes(16).hex()
        bits = [dice.getrandbits(64) for _ in range(4)]
        name = f"{host.name if bits[0] % 3 else 'shared'}/f{bits[0] % 4}"
        if bits[1] % 3 == 0:
            self.get(transfer, name)
            return
        number = below(bits[2], _CONTENTS)
        size = (0, 1, CHUNK_BYTES, 5 * CHUNK_BYTES + 7, 8 * CHUNK_BYTES)[number]
        data = stream(host.world.plan.seed, "contents", host.name, str(number)).randbytes(64) * (size // 64 + 1)
        offer = Offer(transfer, name, size, hashlib.sha256(data[:size]).hexdigest(), 0o640)
        has_changed = size and bits[3] % 8 == 0
        self._data[transfer] = data[: size - 1] + b"!" if has_changed else data[:size]
        self._work[transfer] = sender = Sender(transfer, host.route, offer, _DEADLINE_S)
        self._carry_out(sender.begin(host.moment))

    def get(self, transfer: str, name: str) -> None:
        """Get the file of that name."""
        getter = Getter(transfer, self._host.route, Want(transfer, name), _DEADLINE_S)
        self._work[transfer], self._data[transfer] = getter, b""
        self._carry_out(getter.begin(self._host.moment))

    def receive(self, frames: list[bytes]) -> None:
        """A message of the broker comes."""
        message = decode(frames)
        match message:
            case Fetch() | Reading() | Finish() | Abort() | Offer() | Chunk():
                work = self._work.get(message.transfer)
            case _:
                return
        moment = self._host.moment
        if isinstance(work, Sender) and isinstance(message, Fetch | Reading | Finish | Abort):
            self._carry_out(work.receive(moment, message))
            if work.outcome is Outcome.DONE and isinstance(message, Finish):
                offer = work.offer
                is_stored = (offer.name, offer.sha256) in self._host.world.broker.shelf.stored
                hold(finished_files_are_safe, is_stored, offer.name)
                self._host.world.reached.reach("file_put")
        elif isinstance(work, Getter) and isinstance(message, Offer | Chunk | Reading | Abort):
            self._carry_out(work.receive(moment, message))

    def wake(self) -> None:
        """A deadline may have come."""
        for work in list(self._work.values()):
            self._carry_out(work.tick(self._host.moment))

    def _carry_out(self, effects: Sequence[GetterEffect | SenderEffect]) -> None:
        host = self._host
        for effect in effects:
            match effect:
                case Send(_, frames):
                    host.world.to_broker(host, host.principal, frames, is_file=True)
                case Read(key, offset, size):
                    work = self._work[key]
                    assert isinstance(work, Sender)
                    self._carry_out(work.read(offset, self._data[key][offset : offset + size]))
                case Found(key):
                    self._carry_out(self._getter(key).opened(host.moment))
                case Write(key, offset, data):
                    hold(files_are_written_in_order, len(self._data[key]), offset, key)
                    self._data[key] += data
                case Store(key):
                    self._got(key)
                case Discard(key):
                    self._data[key] = b""
                case Leave():
                    pass
        for key in [key for key, work in self._work.items() if work.outcome is not None]:
            self._data.pop(key, None)
        times = [at for work in self._work.values() if (at := work.next_tick()) is not None]
        host.plan_wake(min(times, default=None))

    def _got(self, key: str) -> None:
        getter = self._getter(key)
        assert getter.receiver is not None
        offer = getter.receiver.offer
        is_same = hashlib.sha256(self._data[key]).hexdigest() == offer.sha256
        is_known = (offer.name, offer.sha256) in self._host.world.broker.shelf.stored
        hold(files_are_what_was_offered, is_same and is_known, offer.name)
        is_node = self._host.name not in self._host.world.operators
        self._host.world.reached.reach("file_synced" if is_node else "file_got")
        self._carry_out(getter.stored())

    def _getter(self, key: str) -> Getter:
        work = self._work[key]
        assert isinstance(work, Getter)
        return work
