"""Messages of the control plane: written and read back equal, and no frames at all raise anything."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holloway.protocols.control_plane import file_messages as f
from holloway.protocols.control_plane import messages as m
from holloway.protocols.control_plane.fields import MAX_NODES
from holloway.protocols.control_plane.messages import Refusal
from holloway.protocols.control_plane.wire import (
    MAGIC,
    MAX_BODY_BYTES,
    MAX_HEADER_BYTES,
    Message,
    decode,
    encode,
    kind_of,
)
from holloway.protocols.errors import LocalError

TOKEN = "0123456789abcdef" * 2
tokens = st.text("0123456789abcdef", min_size=32, max_size=32)
names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)
labels = names | st.just("")
commands = st.from_regex(r"[a-z][a-z0-9.-]{0,20}", fullmatch=True)
words = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)
wholes = st.integers(0, 2**53 - 1)
times = st.floats(0, 2.0**40)
deadlines = st.floats(0.001, 600_000)
options = st.dictionaries(
    commands.map(lambda name: name.replace(".", "-")),
    words | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(allow_nan=False, allow_infinity=False),
    max_size=4,
)
steps = st.lists(st.builds(m.Step, commands, st.lists(words, max_size=4).map(tuple), options), min_size=1, max_size=3)
codes = st.none() | st.integers(-255, 255)
digests = st.text("0123456789abcdef", min_size=64, max_size=64) | st.just("")
ends = st.lists(st.builds(m.StepEnd, st.sampled_from(m.State), codes, times, words), max_size=3).map(tuple)
some_names = st.lists(names, max_size=4).map(tuple)
indices = st.integers(0, 15)
streams = st.sampled_from(m.Stream)
bodies = st.binary(max_size=100)
documents = st.dictionaries(
    words,
    st.recursive(
        st.none() | st.booleans() | wholes | words,
        lambda inner: st.lists(inner) | st.dictionaries(words, inner),
        max_leaves=6,
    ),
    max_size=3,
).filter(lambda document: depth_of(document) < 8)


def depth_of(value: object) -> int:
    match value:
        case dict():
            return 1 + max(map(depth_of, value.values()), default=0)
        case list():
            return 1 + max(map(depth_of, value), default=0)
    return 0


end = {
    "state": st.sampled_from(m.State),
    "rc": codes,
    "duration_s": times,
    "error": words,
    "steps": ends,
    "is_truncated": st.booleans(),
    "digest": digests,
}
MESSAGES: dict[type[Message], st.SearchStrategy[Message]] = {
    m.Register: st.builds(
        m.Register,
        names,
        labels,
        labels,
        some_names,
        tokens,
        tokens,
        words.map(lambda text: text[:32]),
        st.lists(commands, max_size=3).map(tuple),
    ),
    m.Heartbeat: st.builds(m.Heartbeat),
    m.Taken: st.builds(m.Taken, tokens),
    m.Output: st.builds(m.Output, tokens, indices, streams, wholes, bodies),
    m.Done: st.builds(m.Done, job=tokens, outputs=wholes, **end),
    m.Registered: st.builds(m.Registered, names, deadlines),
    m.Who: st.builds(m.Who),
    m.Replaced: st.builds(m.Replaced),
    m.Run: st.builds(
        m.Run, tokens, steps.map(tuple), names, st.sampled_from(m.Role), words, times, times, deadlines, bodies
    ),
    m.Cancel: st.builds(m.Cancel, tokens),
    m.Noted: st.builds(m.Noted, tokens),
    m.Seen: st.builds(m.Seen, tokens, wholes),
    m.Ask: st.builds(
        m.Ask,
        tokens,
        steps.map(tuple),
        words,
        deadlines,
        st.builds(m.Rollout, indices, st.booleans(), indices, st.integers(-1, 9)),
        st.booleans(),
        tokens | st.just(""),
        bodies,
    ),
    m.Attach: st.builds(m.Attach, tokens, tokens, tokens | st.just(""), wholes),
    m.CancelJob: st.builds(m.CancelJob, tokens, tokens),
    m.Query: st.builds(m.Query, tokens, commands, options),
    m.Admin: st.builds(m.Admin, tokens, commands, st.lists(words, max_size=3).map(tuple), options, bodies),
    m.Expect: st.builds(m.Expect, tokens, tokens | st.just(""), tokens, some_names),
    m.NodeOutput: st.builds(m.NodeOutput, tokens, wholes, names, indices, streams, bodies),
    m.Result: st.builds(m.Result, job=tokens, position=wholes, node=names, **end),
    m.Finished: st.builds(
        m.Finished, tokens, wholes, st.dictionaries(st.sampled_from(m.State), st.integers(1, MAX_NODES), max_size=4)
    ),
    m.Answer: st.builds(m.Answer, tokens, wholes, st.booleans(), documents, bodies),
    m.Denied: st.builds(m.Denied, tokens | st.just(""), words, words),
    f.Want: st.builds(f.Want, tokens, words),
    f.Offer: st.builds(
        f.Offer, tokens, words, st.integers(0, f.MAX_FILE_BYTES), digests.filter(bool), st.integers(0, 0o777)
    ),
    f.Fetch: st.builds(f.Fetch, tokens, st.integers(0, f.MAX_FILE_BYTES), st.integers(1, f.CHUNK_BYTES)),
    f.Chunk: st.builds(f.Chunk, tokens, st.integers(0, f.MAX_FILE_BYTES), bodies),
    f.Reading: st.builds(f.Reading, tokens),
    f.Finish: st.builds(f.Finish, tokens),
    f.Abort: st.builds(f.Abort, tokens, words, words),
}
messages = st.one_of(*MESSAGES.values())


@given(messages)
@settings(max_examples=70, deadline=None)
def test_a_message_is_read_back_as_it_was_written(message: Message) -> None:
    frames = encode(message)
    assert decode(frames) == message
    assert [len(frames), frames[0]] == [3, MAGIC]
    assert json.loads(frames[1])["kind"] == kind_of(message)


def test_every_kind_of_message_was_tried() -> None:
    assert {kind for kind in (vars(m) | vars(f)).values() if dataclasses.is_dataclass(kind)} == {
        *MESSAGES,
        m.Step,
        m.StepEnd,
        m.Rollout,
    }


@given(st.lists(st.binary(max_size=200), max_size=5) | st.tuples(st.just(MAGIC), st.binary(max_size=200), bodies))
@settings(max_examples=60, deadline=None)
def test_any_frames_are_refused_with_a_reason(frames: list[bytes]) -> None:
    assert isinstance(decode(frames), Refusal)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40) | tokens | names,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=8,
)


@given(messages, st.data())
@settings(max_examples=70, deadline=None)
def test_a_spoilt_field_raises_nothing(message: Message, data: st.DataObject) -> None:
    magic, head, body = encode(message)
    header = json.loads(head)
    name = data.draw(st.sampled_from(sorted(header)))
    if data.draw(st.booleans()):
        header[name] = data.draw(json_values)
    else:
        del header[name]
    decoded = decode([magic, json.dumps(header).encode(), body])
    if not isinstance(decoded, Refusal):  # the value was as good as the one before
        assert decode(encode(decoded)) == decoded


def spoilt(message: Message, **changes: Any) -> list[bytes]:
    magic, head, body = encode(message)
    return [magic, json.dumps(json.loads(head) | changes).encode(), body]


RUN = m.Run(TOKEN, (m.Step("exec", ("true",)),), "ann", m.Role.OPERATOR, "all", 1.0, 2.0, 3.0)


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        ([], Refusal.FRAME_COUNT),
        ([MAGIC, b"{}"], Refusal.FRAME_COUNT),
        ([*encode(m.Heartbeat()), b""], Refusal.FRAME_COUNT),
        ([b"HW2", b"{}", b""], Refusal.VERSION),
        ([MAGIC, b" " * (MAX_HEADER_BYTES + 1), b""], Refusal.TOO_BIG),
        ([MAGIC, b"{}", bytes(MAX_BODY_BYTES + 1)], Refusal.TOO_BIG),
        ([MAGIC, b"[" * 50_000, b""], Refusal.NOT_JSON),
        ([MAGIC, '{"kind":"é"}'.encode(), b""], Refusal.NOT_JSON),
        ([MAGIC, b'{"kind":[]}', b""], Refusal.KIND),
        ([MAGIC, b'{"kind":"nothing"}', b""], Refusal.KIND),
        ([MAGIC, b'{"kind":"heartbeat"}', b"x"], Refusal.BODY),
        (spoilt(m.Heartbeat(), more=1), Refusal.FIELD),
        (spoilt(RUN, deadline_s=float("nan")), Refusal.FIELD),
        (spoilt(RUN, deadline_s=10**400), Refusal.FIELD),
        (spoilt(RUN, deadline_s=True), Refusal.FIELD),
        (spoilt(RUN, job=TOKEN + "\n"), Refusal.FIELD),
        (spoilt(RUN, role="root"), Refusal.FIELD),
        (spoilt(RUN, role=["operator"]), Refusal.FIELD),
        (spoilt(RUN, steps=[]), Refusal.FIELD),
        (spoilt(RUN, target="a\0b"), Refusal.FIELD),
        (spoilt(RUN, target="\ud800"), Refusal.FIELD),
        (spoilt(m.Answer(TOKEN, 1, True, {}), document={"a": float("inf")}), Refusal.FIELD),
        (spoilt(m.Answer(TOKEN, 1, True, {}), document=json.loads('{"a":' * 20 + "1" + "}" * 20)), Refusal.FIELD),
        ([MAGIC, encode(m.Expect(TOKEN, TOKEN, TOKEN, ("a",)))[1], b"a\n\nb"], Refusal.FIELD),
        ([MAGIC, encode(m.Expect(TOKEN, TOKEN, TOKEN, ("a",)))[1], b"\xff"], Refusal.FIELD),
    ],
)
def test_what_is_no_message_has_its_reason(frames: list[bytes], reason: Refusal) -> None:
    assert decode(frames) is reason


def test_arguments_carry_any_byte_that_a_unix_program_takes() -> None:
    argument = bytes(range(1, 256)).decode("utf-8", "surrogateescape")
    message = m.Admin(TOKEN, "upload", (argument,))
    decoded = decode(encode(message))
    assert isinstance(decoded, m.Admin)
    assert decoded.arguments[0].encode("utf-8", "surrogateescape") == bytes(range(1, 256))


@pytest.mark.parametrize(
    "message",
    [
        m.Taken("short"),
        m.Output(TOKEN, 99, m.Stream.STDOUT, 1, b""),
        m.Output(TOKEN, 0, m.Stream.STDOUT, 1, bytes(MAX_BODY_BYTES + 1)),
        m.Admin(TOKEN, "upload", ("x" * 30_000,) * 3),
        m.Answer(TOKEN, 1, True, {"a": object()}),
        m.Answer(TOKEN, 1, True, {"a": float("nan")}),
        m.Expect(TOKEN, TOKEN, TOKEN, ("a\nb",)),
        m.Registered("é", 1.0),
    ],
)
def test_what_the_other_side_would_refuse_is_not_sent(message: Message) -> None:
    with pytest.raises(LocalError, match="cannot be sent"):
        encode(message)
