"""Files between a client and a broker: pulled in chunks, resumed after a cut, checked, and never outside the root."""

from __future__ import annotations

import hashlib
from collections import deque
from dataclasses import dataclass, field, replace

import pytest
from control_site import ANN, BOB, WALL, read, request
from hypothesis import given, settings
from hypothesis import strategies as st

from holloway.protocols.control_plane import file_messages as f
from holloway.protocols.control_plane import messages as m
from holloway.protocols.control_plane.access import DEFAULT_ACCESS
from holloway.protocols.control_plane.effects import Audit, Moment, Principal, Send
from holloway.protocols.control_plane.file_names import NameProblem, confined
from holloway.protocols.control_plane.file_receiver import (
    RETRY_S,
    STALLED_AFTER_S,
    WRONG_DIGEST,
    Discard,
    Leave,
    Outcome,
    Receiver,
    Store,
    Write,
)
from holloway.protocols.control_plane.file_sender import CHANGED, Read, Sender
from holloway.protocols.control_plane.file_service import (
    Close,
    FileLimits,
    FileService,
    Measure,
    Prepare,
    ServiceEffect,
)
from holloway.protocols.control_plane.messages import Role
from holloway.protocols.control_plane.refusals import AUDITED
from holloway.protocols.control_plane.wire import encode
from holloway.protocols.errors import LocalError

TRANSFER = request(7)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def offer(data: bytes, name: str = "a/b", transfer: str = TRANSFER) -> f.Offer:
    return f.Offer(transfer, name, len(data), digest(data), 0o640)


def contents(size: int) -> bytes:
    return hashlib.shake_128(str(size).encode()).digest(size)


@dataclass
class Shelf:
    """A broker's file service with its disk, and clients on connections that can be cut."""

    now: float = 100.0
    limits: FileLimits = field(default_factory=FileLimits)
    files: dict[tuple[str, ...], bytes] = field(default_factory=dict)
    partial: dict[str, bytes] = field(default_factory=dict)
    audit: list[Audit] = field(default_factory=list)
    open: dict[str, bytes] = field(default_factory=dict)
    is_slow: bool = False
    prepared: dict[str, Prepare] = field(default_factory=dict)
    to_client: deque[f.FileMessage] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self.service = FileService(DEFAULT_ACCESS, self.limits)

    @property
    def moment(self) -> Moment:
        return Moment(self.now, WALL + self.now)

    def say(self, message: m.Message | f.FileMessage, who: Principal | None = ANN, route: bytes = b"r") -> None:
        self.do(self.service.receive(self.moment, who, route, encode(message)))

    def do(self, effects: list[ServiceEffect]) -> None:
        for effect in effects:
            match effect:
                case Send(_, frames):
                    self.to_client.append(read(frames))  # type: ignore[arg-type]
                case Prepare(key):
                    self.prepared[key] = effect
                    self.service.primed(key, self.partial.setdefault(self._name(key), b""))
                    self.do(self.service.prepared(self.moment, key))
                case Write(key, offset, data):
                    name = self._name(key)
                    assert len(self.partial[name]) == offset
                    self.partial[name] += data
                case Store(key):
                    self.files[self.prepared[key].parts] = self.partial.pop(self._name(key))
                    if not self.is_slow:
                        self.do(self.service.stored(key))
                case Discard(key):
                    del self.partial[self._name(key)]
                case Measure(key, parts):
                    if parts in self.files:
                        self.open[key] = data = self.files[parts]
                        self.do(self.service.measured(self.moment, key, len(data), digest(data), 0o100644))
                    else:
                        self.do(self.service.failed(key, "there is no such file"))
                case Read(key, offset, size):
                    self.do(self.service.read(key, offset, self.open[key][offset : offset + size]))
                case Close(key):
                    self.open.pop(key, None)
                case Leave():
                    pass
                case Audit():
                    self.audit.append(effect)

    def _name(self, key: str) -> str:
        prepare = self.prepared[key]
        return f"{prepare.owner} {prepare.parts} {prepare.offer.sha256}"

    def restart(self) -> None:
        self.service = FileService(DEFAULT_ACCESS, self.limits)
        self.to_client.clear()


def put(shelf: Shelf, data: bytes, *, until: int = 10**9, name: str = "a/b", transfer: str = TRANSFER) -> Sender:
    """Put a file; at most `until` messages come from the broker before the line is cut."""
    sender = Sender("k", b"", offer(data, name, transfer), 100.0)
    carry(shelf, sender, data, sender.begin(shelf.moment), until)
    return sender


def carry(shelf: Shelf, sender: Sender, data: bytes, effects: list[Send | Read], until: int = 10**9) -> None:
    queue = deque(effects)
    while queue or (shelf.to_client and until > 0):
        while queue:
            match queue.popleft():
                case Send(_, frames):
                    shelf.say(read(frames))
                case Read(_, offset, size):
                    queue.extend(sender.read(offset, data[offset : offset + size]))
        if shelf.to_client and until > 0:
            until -= 1
            message = shelf.to_client.popleft()
            assert isinstance(message, f.Fetch | f.Finish | f.Abort)
            queue.extend(sender.receive(shelf.moment, message))


@pytest.mark.parametrize("size", [0, 1, f.CHUNK_BYTES - 1, f.CHUNK_BYTES, f.CHUNK_BYTES + 1, 12 * f.CHUNK_BYTES + 5])
def test_a_file_arrives_as_it_is_and_under_its_name(size: int) -> None:
    shelf, data = Shelf(), contents(size)
    sender = put(shelf, data)
    assert sender.outcome is Outcome.DONE
    assert sender.sent == size
    assert shelf.files == {("a", "b"): data}
    assert not shelf.partial
    assert len(shelf.service) == 0
    assert [(entry.event, entry.who, entry.what, entry.outcome) for entry in shelf.audit] == [
        ("file-put", "ann", "a/b", "done")
    ]


def test_a_receiver_asks_for_a_window_and_no_more() -> None:
    data = contents(30 * f.CHUNK_BYTES)
    receiver = Receiver("k", b"r", offer(data), 100.0)
    moment = Moment(1.0, WALL)
    asked = [read(each.frames) for each in receiver.begin(moment) if isinstance(each, Send)]
    assert len(asked) == f.WINDOW
    last = asked[-1]
    assert isinstance(last, f.Fetch)
    for fetch in asked[1:]:  # all but the first: nothing can be written yet
        assert isinstance(fetch, f.Fetch)
        chunk = f.Chunk(TRANSFER, fetch.offset, data[fetch.offset : fetch.offset + fetch.size])
        assert receiver.receive(moment, chunk) == []
    effects = receiver.receive(moment, f.Chunk(TRANSFER, 0, data[: f.CHUNK_BYTES]))
    assert [each.offset for each in effects if isinstance(each, Write)] == [
        number * f.CHUNK_BYTES for number in range(f.WINDOW)
    ]
    assert len([each for each in effects if isinstance(each, Send)]) == f.WINDOW


def test_a_put_that_was_cut_goes_on_where_it_was_in_another_life_of_both() -> None:
    shelf, data = Shelf(), contents(20 * f.CHUNK_BYTES)
    put(shelf, data, until=9)
    [had] = shelf.partial.values()
    assert 0 < len(had) < len(data)
    assert not shelf.files
    shelf.restart()
    again = Sender("k", b"", offer(data, transfer=request(8)), 100.0)
    first = again.begin(shelf.moment)
    shelf.say(read(first[0].frames))  # type: ignore[union-attr]
    assert isinstance(shelf.to_client[0], f.Fetch)
    assert shelf.to_client[0].offset == len(had)
    carry(shelf, again, data, [])
    assert shelf.files == {("a", "b"): data}


def test_a_sender_whom_nobody_asks_offers_again_so_a_broker_that_restarted_goes_on() -> None:
    shelf, data = Shelf(), contents(20 * f.CHUNK_BYTES)
    sender = put(shelf, data, until=9)
    shelf.restart()
    assert sender.next_tick() == shelf.now + RETRY_S
    shelf.now += RETRY_S
    carry(shelf, sender, data, sender.tick(shelf.moment))
    assert sender.outcome is Outcome.DONE
    assert shelf.files == {("a", "b"): data}


def test_what_changed_while_it_was_sent_is_not_stored() -> None:
    shelf, data = Shelf(), contents(3 * f.CHUNK_BYTES)
    sender = Sender("k", b"", offer(data), 100.0)
    carry(shelf, sender, data[:-1] + b"!", sender.begin(shelf.moment))
    assert (sender.outcome, sender.why, sender.fix) == (Outcome.FAILED, WRONG_DIGEST, "send it again")
    assert not shelf.files
    assert not shelf.partial
    shorter = put(shelf, data[:-1])
    assert shorter.outcome is Outcome.DONE
    sender = Sender("k", b"", offer(data, transfer=request(9)), 100.0)
    carry(shelf, sender, data[:-1], sender.begin(shelf.moment))
    assert (sender.outcome, sender.why) == (Outcome.FAILED, CHANGED)
    assert shelf.files == {("a", "b"): data[:-1]}


def test_finish_is_said_when_it_is_stored_and_again_when_it_was_lost() -> None:
    shelf, data = Shelf(is_slow=True), contents(10)
    sender = put(shelf, data)
    assert sender.outcome is None
    shelf.do(shelf.service.stored(f"ann/{TRANSFER}"))
    shelf.to_client.clear()  # the line was cut just now
    carry(shelf, sender, data, sender.connected(shelf.moment, b"new"))
    assert sender.outcome is Outcome.DONE


def test_a_chunk_that_was_not_asked_for_or_is_too_short_changes_nothing() -> None:
    data = contents(2 * f.CHUNK_BYTES)
    receiver = Receiver("k", b"r", offer(data), 100.0)
    moment = Moment(1.0, WALL)
    assert receiver.receive(moment, f.Chunk(TRANSFER, 0, data[: f.CHUNK_BYTES])) == []
    receiver.begin(moment)
    for chunk in (
        f.Chunk(TRANSFER, 0, data[:5]),
        f.Chunk(TRANSFER, 1, data[1 : 1 + f.CHUNK_BYTES]),
        f.Chunk(TRANSFER, 2 * f.CHUNK_BYTES, b""),
        f.Chunk(TRANSFER, 0, data[: f.CHUNK_BYTES] + b"x"),
    ):
        assert receiver.receive(moment, chunk) == []
    assert receiver.have == 0
    with pytest.raises(LocalError):
        receiver.prime(b"late")
    with pytest.raises(LocalError):
        Receiver("k", b"r", offer(b"12"), 1.0).prime(b"123")


def test_a_sender_reads_nothing_beyond_the_file_or_the_window() -> None:
    sender = Sender("k", b"", offer(contents(20 * f.CHUNK_BYTES)), 100.0)
    moment = Moment(1.0, WALL)
    sender.begin(moment)
    end = 20 * f.CHUNK_BYTES
    assert sender.receive(moment, f.Fetch(TRANSFER, end - 5, 6)) == []
    assert sender.receive(moment, f.Fetch(TRANSFER, end, 1)) == []
    reads = [sender.receive(moment, f.Fetch(TRANSFER, at, 1)) for at in range(f.WINDOW + 3)]
    assert [len(each) for each in reads] == [1] * f.WINDOW + [0] * 3
    assert sender.read(999, b"x") == []


def test_what_does_not_come_is_asked_for_again_then_left_for_later() -> None:
    want = f.Want(TRANSFER, "a/b")
    data = contents(f.CHUNK_BYTES + 1)
    receiver = Receiver("k", b"r", offer(data), 1000.0, want)
    assert receiver.next_tick() is None
    first = receiver.begin(Moment(10.0, WALL))
    receiver.receive(Moment(10.0, WALL), f.Chunk(TRANSFER, 0, data[:-1]))
    assert receiver.next_tick() == 10.0 + RETRY_S
    again = receiver.tick(Moment(15.0, WALL))
    assert [read(each.frames) for each in again if isinstance(each, Send)] == [want, read(first[1].frames)]  # type: ignore[union-attr]
    assert receiver.tick(Moment(15.1, WALL)) == []
    assert receiver.tick(Moment(10.0 + STALLED_AFTER_S, WALL)) == [Leave("k")]
    assert receiver.outcome is Outcome.STALLED
    assert receiver.next_tick() is None


def test_both_sides_give_up_at_the_deadline() -> None:
    receiver = Receiver("k", b"r", offer(b"data"), 20.0)
    receiver.begin(Moment(10.0, WALL))
    effects = receiver.tick(Moment(30.0, WALL))
    assert isinstance(read(effects[0].frames), f.Abort)  # type: ignore[union-attr]
    assert receiver.outcome is Outcome.FAILED
    sender = Sender("k", b"", offer(b"data"), 20.0)
    sender.begin(Moment(10.0, WALL))
    assert isinstance(read(sender.tick(Moment(30.0, WALL))[0].frames), f.Abort)  # type: ignore[union-attr]
    quiet = Sender("k", b"", offer(b"data"), 1000.0)
    quiet.begin(Moment(10.0, WALL))
    assert quiet.tick(Moment(10.0 + STALLED_AFTER_S, WALL)) == []
    assert quiet.outcome is Outcome.STALLED


def test_a_file_is_got_as_it_was_when_it_was_measured() -> None:
    data = contents(3 * f.CHUNK_BYTES + 7)
    shelf = Shelf(files={("a", "b"): data})
    want = f.Want(TRANSFER, "a/b")
    shelf.say(want)
    told = shelf.to_client.popleft()
    assert told == replace(offer(data), mode=0o644)
    receiver = Receiver("k", b"", told, 100.0, want)  # type: ignore[arg-type]
    receiver.prime(data[:100])
    shelf.files[("a", "b")] = b"another"
    got = data[:100]
    queue: deque[object] = deque(receiver.begin(shelf.moment))
    while queue:
        match queue.popleft():
            case Send(_, frames):
                shelf.say(read(frames))
                while shelf.to_client:
                    chunk = shelf.to_client.popleft()
                    assert isinstance(chunk, f.Chunk)
                    queue.extend(receiver.receive(shelf.moment, chunk))
            case Write(_, offset, piece):
                assert offset == len(got)
                got += piece
            case Store():
                queue.extend(receiver.stored())
    assert got == data
    assert receiver.outcome is Outcome.DONE
    assert shelf.open == {}
    assert shelf.audit[-1].outcome == "done"


def test_what_is_not_there_is_said_and_not_waited_for() -> None:
    shelf = Shelf()
    shelf.say(f.Want(TRANSFER, "nothing"))
    assert list(shelf.to_client) == [f.Abort(TRANSFER, "there is no such file")]
    assert len(shelf.service) == 0


# Who may, what, and how much.


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("", NameProblem.EMPTY),
        ("/etc/passwd", NameProblem.ABSOLUTE),
        ("../x", NameProblem.CLIMBS),
        ("a/../../x", NameProblem.CLIMBS),
        ("a/./b", NameProblem.CLIMBS),
        ("a//b", NameProblem.CLIMBS),
        ("a/", NameProblem.CLIMBS),
        ("..", NameProblem.CLIMBS),
        ("a\\..\\b", NameProblem.CHARACTER),
        ("a\0b", NameProblem.CHARACTER),
        ("a\nb", NameProblem.CHARACTER),
        ("\udc80", NameProblem.CHARACTER),
        ("x" * 256, NameProblem.TOO_LONG),
        ("é" * 128, NameProblem.TOO_LONG),
        ("a/" * 40 + "b", NameProblem.TOO_LONG),
        ("x" * 2000, NameProblem.TOO_LONG),
    ],
)
def test_a_name_leads_nowhere_but_down(name: str, problem: NameProblem) -> None:
    assert confined(name) is problem
    if "\0" not in name and len(name) <= f.MAX_NAME_CHARS:
        shelf = Shelf(files={("etc", "passwd"): b"secret"})
        # A slash at the end is how the list of a folder is wanted.
        for message in (offer(b"x", name), *([] if name.endswith("/") else [f.Want(TRANSFER, name)])):
            shelf.say(message)
            [answer] = shelf.to_client
            assert isinstance(answer, f.Abort)
            assert shelf.audit.pop().outcome == problem.value
            shelf.to_client.clear()
        assert not shelf.partial


@given(st.text(max_size=80) | st.text("./\\a\0", max_size=20))
@settings(max_examples=150, deadline=None)
def test_any_name_is_confined_or_none(name: str) -> None:
    parts = confined(name)
    if not isinstance(parts, NameProblem):
        assert "/".join(parts) == name
        assert not {"", ".", ".."} & set(parts)


def test_nodes_and_unknown_keys_put_and_get_nothing() -> None:
    shelf = Shelf(files={("a", "b"): b"x"})
    node = Principal("n1", Role.NODE)
    for message in (offer(b"x"), f.Want(TRANSFER, "a/b")):
        shelf.say(message, node)
        shelf.say(message, None)
    assert [type(each) for each in shelf.to_client] == [f.Abort, f.Abort]
    assert shelf.service.counts == {"access_role": 2, "control_no_key": 2}
    assert [entry.event for entry in shelf.audit] == ["refused"] * 4


def test_a_transfer_is_of_who_began_it() -> None:
    data = contents(2 * f.CHUNK_BYTES)
    shelf = Shelf()
    put(shelf, data, until=0)
    assert shelf.to_client
    shelf.to_client.clear()
    for message in (f.Chunk(TRANSFER, 0, data[: f.CHUNK_BYTES]), f.Abort(TRANSFER, "no"), f.Fetch(TRANSFER, 0, 1)):
        shelf.say(message, BOB)
    assert shelf.service.counts == {"file_no_transfer": 3}
    assert list(shelf.partial.values()) == [b""]
    shelf.say(offer(b"mine", transfer=request(9)), BOB)
    [answer] = shelf.to_client
    assert isinstance(answer, f.Abort)
    assert "somebody else" in answer.why


def test_who_puts_the_same_name_again_has_begun_again() -> None:
    data = contents(5 * f.CHUNK_BYTES)
    shelf = Shelf()
    put(shelf, data, until=1)
    shelf.to_client.clear()
    sender = put(shelf, b"other", transfer=request(9))
    assert shelf.files == {("a", "b"): b"other"}
    assert sender.outcome in (Outcome.DONE, Outcome.FAILED)
    assert len(shelf.service) == 0


def test_a_token_is_free_again_when_what_it_opened_is_closed() -> None:
    shelf = Shelf()
    message = encode(offer(b"x"))
    [prepare] = shelf.service.receive(shelf.moment, ANN, b"r", message)
    assert isinstance(prepare, Prepare)
    shelf.service.gone(ANN.name)
    assert not shelf.service.has(prepare.key)
    shelf.do(shelf.service.receive(shelf.moment, ANN, b"r", message))
    [answer] = shelf.to_client
    assert isinstance(answer, f.Abort)
    assert "still being closed" in answer.why
    assert shelf.service.prepared(shelf.moment, prepare.key) == []
    assert shelf.service.receive(shelf.moment, ANN, b"r", message) == [prepare]


def test_transfers_are_bounded_in_size_and_number() -> None:
    shelf = Shelf(limits=FileLimits(max_bytes=5, max_transfers=3, max_each=2))
    shelf.say(offer(b"123456"))
    for number in range(4):
        shelf.say(offer(b"12345", f"f{number}", request(number)))
        shelf.say(offer(b"12345", f"g{number}", request(number)), BOB)
    assert len(shelf.service) == 3
    assert shelf.service.counts == {"file_too_large": 1, "file_too_many": 5}
    shelf.do(shelf.service.gone("ann"))
    assert len(shelf.service) == 1


@given(st.lists(st.binary(max_size=60), max_size=4))
@settings(max_examples=60, deadline=None)
def test_no_frames_raise(frames: list[bytes]) -> None:
    service = FileService(DEFAULT_ACCESS, FileLimits())
    [entry] = service.receive(Moment(1.0, WALL), ANN, b"r", frames)
    assert isinstance(entry, Audit)
    [entry] = service.receive(Moment(1.0, WALL), ANN, b"r", encode(m.Heartbeat()))
    assert isinstance(entry, Audit)
    assert service.next_tick() == 61.0


def test_what_is_forgotten_in_time_is_left() -> None:
    shelf = Shelf()
    put(shelf, contents(2 * f.CHUNK_BYTES), until=1)
    due = shelf.service.next_tick()
    assert due is not None
    shelf.now += STALLED_AFTER_S + 1
    shelf.do(shelf.service.tick(shelf.moment))
    assert len(shelf.service) == 0
    assert shelf.audit[-1].outcome.startswith("stalled")
    assert shelf.partial


def test_who_asks_while_the_broker_makes_it_durable_hears_that_it_is_there() -> None:
    shelf = Shelf(is_slow=True)
    sender = put(shelf, contents(10))
    shelf.say(sender.offer)
    assert shelf.to_client.pop() == f.Reading(TRANSFER)


def test_what_comes_to_nothing_does_not_flood_the_trail_and_what_is_done_is_in_it_each_time() -> None:
    shelf = Shelf()
    for number in range(200):
        shelf.say(f.Want(f"{number:032x}", "nothing"))
    for number in range(30):
        put(shelf, b"", name=f"f{number}", transfer=f"{1000 + number:032x}")
    assert [entry.outcome for entry in shelf.audit].count("there is no such file") == AUDITED
    assert [entry.outcome for entry in shelf.audit].count("done") == 30
    shelf.now += 61
    shelf.do(shelf.service.tick(shelf.moment))
    assert shelf.audit[-1] == Audit("file-get", "ann", "and 180 more within the minute", "came to nothing")
