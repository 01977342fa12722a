"""Getting a file: wanted until it is offered, pulled on when the broker has begun another life, and not when it is another file."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import pytest
from control_site import ANN, WALL, read, request

from holloway.protocols.control_plane import file_messages as f
from holloway.protocols.control_plane.access import DEFAULT_ACCESS
from holloway.protocols.control_plane.effects import Moment, Send
from holloway.protocols.control_plane.file_getter import ANOTHER_FILE, Found, Getter, GetterEffect
from holloway.protocols.control_plane.file_receiver import RETRY_S, STALLED_AFTER_S, Leave, Outcome, Store, Write
from holloway.protocols.control_plane.file_sender import Sender
from holloway.protocols.control_plane.file_service import FileLimits, FileService, Measure, Prepare
from holloway.protocols.control_plane.file_trees import TreeFile
from holloway.protocols.control_plane.wire import encode

WANT = f.Want(request(1), "a/b")
DATA = b"contents"
OFFER = f.Offer(request(1), "a/b", len(DATA), hashlib.sha256(DATA).hexdigest(), 0o600)
FETCH = f.Fetch(request(1), 0, len(DATA))


def at(seconds: float) -> Moment:
    return Moment(seconds, WALL + seconds)


def said(effects: list[GetterEffect]) -> list[f.FileMessage]:
    return [read(effect.frames) for effect in effects if isinstance(effect, Send)]  # type: ignore[misc]


def pulling() -> Getter:
    getter = Getter("k", b"", WANT, 1000.0)
    getter.begin(at(0))
    assert getter.receive(at(1), OFFER) == [Found("k", OFFER)]
    assert said(getter.opened(at(1))) == [FETCH]
    return getter


def test_a_file_is_wanted_until_it_is_offered() -> None:
    getter = Getter("k", b"", WANT, 1000.0)
    assert said(getter.begin(at(0))) == [WANT]
    assert getter.next_tick() == RETRY_S
    assert getter.tick(at(RETRY_S - 1)) == []
    assert said(getter.tick(at(RETRY_S))) == [WANT]
    assert getter.tick(at(STALLED_AFTER_S)) == []
    assert (getter.outcome, getter.next_tick()) == (Outcome.STALLED, None)
    assert "nobody answered" in getter.why


def test_who_reads_a_large_file_says_so_and_is_waited_for_until_the_deadline() -> None:
    reading = f.Reading(request(1))
    getter = Getter("k", b"", WANT, 1000.0)
    getter.begin(at(0))
    for seconds in range(50, 950, 50):
        getter.receive(at(seconds), reading)
        getter.tick(at(seconds + 49))
    assert getter.outcome is None
    getter.receive(at(999), reading)
    assert getter.next_tick() is not None
    getter.tick(at(1000))
    assert (getter.outcome, getter.next_tick()) == (Outcome.STALLED, None)


def test_a_broker_that_reads_the_file_again_is_waited_for_and_we_say_that_we_read_ours() -> None:
    getter = pulling()
    getter.receive(at(50), f.Reading(request(1)))
    getter.tick(at(100))
    assert getter.outcome is None
    getter.tick(at(111))
    assert getter.outcome is Outcome.STALLED
    priming = Getter("k", b"", WANT, 1000.0)
    priming.begin(at(0))
    priming.receive(at(1), OFFER)
    assert said(priming.reading()) == said(priming.receive(at(5), OFFER)) == [f.Reading(request(1))]


def test_what_comes_is_written_stored_and_confirmed() -> None:
    getter = pulling()
    effects = getter.receive(at(2), f.Chunk(request(1), 0, DATA))
    assert effects == [Write("k", 0, DATA), Store("k")]
    assert said(getter.stored()) == [f.Finish(request(1))]
    assert (getter.outcome, getter.why) == (Outcome.DONE, "")
    assert getter.receive(at(3), OFFER) == []


def test_what_is_there_already_is_not_fetched() -> None:
    getter = Getter("k", b"", WANT, 1000.0)
    getter.begin(at(0))
    getter.receive(at(1), OFFER)
    getter.prime(DATA[:3])
    assert said(getter.opened(at(1))) == [replace(FETCH, offset=3, size=len(DATA) - 3)]


def test_the_same_offer_again_asks_for_what_is_missing_and_another_one_ends_it() -> None:
    getter = pulling()
    assert said(getter.receive(at(2), OFFER)) == [FETCH]
    assert said(getter.tick(at(2 + RETRY_S))) == [WANT, FETCH]
    effects = getter.receive(at(3), replace(OFFER, size=9))
    assert said(effects) == [f.Abort(request(1), ANOTHER_FILE)]
    assert effects[-1] == Leave("k")
    assert (getter.outcome, getter.why) == (Outcome.FAILED, ANOTHER_FILE)


@pytest.mark.parametrize("other", [{"size": 9}, {"size": 7}, {"sha256": "0" * 64}])
def test_of_a_file_that_is_not_the_one_that_was_listed_nothing_is_taken(other: dict[str, Any]) -> None:
    listed = TreeFile("b", OFFER.size, OFFER.sha256, 0o600)
    getter = Getter("k", b"", WANT, 1000.0, listed)
    getter.begin(at(0))
    effects = getter.receive(at(1), replace(OFFER, **other))
    assert said(effects) == [f.Abort(request(1), ANOTHER_FILE)]
    assert len(effects) == 1, "nothing is opened, nothing is fetched"
    assert (getter.outcome, getter.why, getter.receiver) == (Outcome.FAILED, ANOTHER_FILE, None)
    assert getter.receive(at(2), OFFER) == []
    getter = Getter("k", b"", WANT, 1000.0, listed)
    getter.begin(at(0))
    assert getter.receive(at(1), replace(OFFER, mode=0o644)) == [Found("k", replace(OFFER, mode=0o644))]


def test_no_is_an_answer_and_what_is_for_another_transfer_is_none() -> None:
    getter = Getter("k", b"", WANT, 1000.0)
    getter.begin(at(0))
    assert getter.receive(at(1), f.Chunk(request(1), 0, DATA)) == []
    assert getter.receive(at(1), replace(OFFER, transfer=request(2))) == []
    assert getter.opened(at(1)) == getter.stored() == []
    getter.prime(b"x")
    getter.receive(at(1), f.Abort(request(1), "there is no such file"))
    assert (getter.outcome, getter.why) == (Outcome.FAILED, "there is no such file")


def test_the_client_gives_up_before_and_while_it_is_pulled() -> None:
    getter = Getter("k", b"", WANT, 1000.0)
    getter.begin(at(0))
    assert said(getter.failed("interrupted")) == [f.Abort(request(1), "interrupted")]
    assert getter.outcome is Outcome.FAILED
    getter = pulling()
    assert said(getter.failed("no room on the disk")) == [f.Abort(request(1), "no room on the disk")]
    assert getter.outcome is Outcome.FAILED


def test_who_asks_again_while_the_broker_reads_hears_that_it_does() -> None:
    service = FileService(DEFAULT_ACCESS, FileLimits())

    def say(seconds: float, message: f.FileMessage) -> list[object]:
        effects = service.receive(Moment(seconds, WALL + seconds), ANN, b"r", encode(message))
        return [read(each.frames) if isinstance(each, Send) else type(each) for each in effects]

    assert say(0, WANT) == [Measure]
    assert say(5, WANT) == say(500, WANT) == [f.Reading(request(1))]
    other = request(2)
    sender = Sender("k", b"", replace(OFFER, transfer=other, name="b"), 1000.0)
    sender.begin(Moment(0.0, WALL))
    assert say(0, sender.offer) == [Prepare]
    for seconds in range(5, 200, 5):
        assert say(seconds, sender.offer) == [f.Reading(other)]
        sender.receive(Moment(seconds, WALL), f.Reading(other))
        sender.tick(Moment(seconds + 4.9, WALL))
    assert sender.outcome is None
    assert sender.tick(Moment(260.0, WALL)) == []
    assert sender.outcome is Outcome.STALLED
