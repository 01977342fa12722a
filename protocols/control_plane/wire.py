"""Frames to messages and back. `decode` takes any frames and never raises; `encode` raises LocalError for a message that the
other side would not read.

The format is described in docs/control_plane.md. Not responsible for what messages mean (`messages`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from holloway.protocols.control_plane import file_messages as files
from holloway.protocols.control_plane import messages as m
from holloway.protocols.control_plane.fields import (
    ARGUMENTS,
    COMMAND,
    COMMANDS,
    COUNT,
    COUNTS,
    DEADLINE,
    DIGEST,
    DOCUMENT,
    DURATION,
    ENDS,
    ERROR,
    FLAG,
    INDEX,
    LABEL,
    MAX_NODES,
    MAX_STEPS,
    NAME,
    NAME_FORM,
    NO_TOKEN,
    OPTIONS,
    RC,
    ROLES,
    ROLLOUT,
    SHA256,
    STATE,
    STEP,
    TARGET,
    TOKEN,
    VERSION,
    WALL,
    Form,
    choice,
    many,
    text,
    whole,
)
from holloway.protocols.control_plane.messages import Frames, Refusal, Role, Stream
from holloway.protocols.errors import LocalError
from holloway.protocols.hostile_json import compact, read_object

Message: TypeAlias = m.Message | files.FileMessage
"""Everything that frames can carry."""
MAGIC = b"HW1"
FRAMES = 3
MAX_HEADER_BYTES = 64 * 1024
MAX_BODY_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class _Body:
    """A field that travels in the body instead of the header. `read` raises ValueError."""

    name: str
    read: Callable[[bytes], Any] = bytes
    write: Callable[[Any], bytes] = bytes


@dataclass(frozen=True, slots=True)
class _Shape:
    make: Callable[..., Message]
    forms: Mapping[str, Form]
    body: _Body | None


def _read_names(body: bytes) -> tuple[str, ...]:
    names = tuple(body.decode("ascii").split("\n")) if body else ()
    if len(names) > MAX_NODES or not all(map(NAME.match, names)):
        raise ValueError("not names, a line each")
    return names


_BODY = _Body("body")
_NODES = _Body("nodes", _read_names, lambda names: "\n".join(names).encode("ascii"))


def _shape(make: Callable[..., Message], **forms: Form) -> _Shape:
    return _Shape(make, forms, None)


def _with(body: _Body, make: Callable[..., Message], **forms: Form) -> _Shape:
    return _Shape(make, forms, body)


_STREAM = choice(Stream)
_FILE_NAME = text(files.MAX_NAME_CHARS)
_FILE_SIZE = whole(0, files.MAX_FILE_BYTES)
_END = {
    "state": STATE,
    "rc": RC,
    "duration_s": DURATION,
    "error": ERROR,
    "steps": ENDS,
    "is_truncated": FLAG,
    "digest": DIGEST,
}
_SHAPES: Mapping[str, _Shape] = {
    "register": _shape(
        m.Register,
        node=NAME_FORM,
        application=LABEL,
        environment=LABEL,
        roles=ROLES,
        boot=TOKEN,
        journal=TOKEN,
        version=VERSION,
        commands=COMMANDS,
    ),
    "heartbeat": _shape(m.Heartbeat),
    "taken": _shape(m.Taken, job=TOKEN),
    "output": _with(_BODY, m.Output, job=TOKEN, step=INDEX, stream=_STREAM, sequence=COUNT),
    "done": _shape(m.Done, job=TOKEN, outputs=COUNT, **_END),
    "registered": _shape(m.Registered, name=NAME_FORM, heartbeat_s=DEADLINE),
    "who": _shape(m.Who),
    "replaced": _shape(m.Replaced),
    "run": _with(
        _BODY,
        m.Run,
        job=TOKEN,
        steps=many(STEP, 1, MAX_STEPS),
        caller=NAME_FORM,
        role=choice(Role),
        target=TARGET,
        issued_at=WALL,
        expires_at=WALL,
        deadline_s=DEADLINE,
    ),
    "cancel": _shape(m.Cancel, job=TOKEN),
    "noted": _shape(m.Noted, job=TOKEN),
    "seen": _shape(m.Seen, job=TOKEN, position=COUNT),
    "ask": _with(
        _BODY,
        m.Ask,
        request=TOKEN,
        steps=many(STEP, 0, MAX_STEPS),
        target=TARGET,
        deadline_s=DEADLINE,
        rollout=ROLLOUT,
        is_dry_run=FLAG,
        retry=NO_TOKEN,
    ),
    "attach": _shape(m.Attach, request=TOKEN, job=TOKEN, life=NO_TOKEN, position=COUNT),
    "cancel-job": _shape(m.CancelJob, request=TOKEN, job=TOKEN),
    "query": _shape(m.Query, request=TOKEN, what=COMMAND, options=OPTIONS),
    "admin": _with(_BODY, m.Admin, request=TOKEN, command=COMMAND, arguments=ARGUMENTS, options=OPTIONS),
    "expect": _with(_NODES, m.Expect, request=NO_TOKEN, job=NO_TOKEN, life=TOKEN),
    "node-output": _with(_BODY, m.NodeOutput, job=TOKEN, position=COUNT, node=NAME_FORM, step=INDEX, stream=_STREAM),
    "result": _shape(m.Result, job=TOKEN, position=COUNT, node=NAME_FORM, **_END),
    "finished": _shape(m.Finished, job=TOKEN, position=COUNT, counts=COUNTS),
    "answer": _with(_BODY, m.Answer, request=TOKEN, part=COUNT, is_last=FLAG, document=DOCUMENT),
    "denied": _shape(m.Denied, request=NO_TOKEN, why=ERROR, fix=ERROR),
    "want": _shape(files.Want, transfer=TOKEN, name=_FILE_NAME),
    "offer": _shape(files.Offer, transfer=TOKEN, name=_FILE_NAME, size=_FILE_SIZE, sha256=SHA256, mode=whole(0, 0o777)),
    "fetch": _shape(files.Fetch, transfer=TOKEN, offset=_FILE_SIZE, size=whole(1, files.CHUNK_BYTES)),
    "chunk": _with(_BODY, files.Chunk, transfer=TOKEN, offset=_FILE_SIZE),
    "reading": _shape(files.Reading, transfer=TOKEN),
    "finish": _shape(files.Finish, transfer=TOKEN),
    "abort": _shape(files.Abort, transfer=TOKEN, why=ERROR, fix=ERROR),
}
_KIND_OF = {shape.make: kind for kind, shape in _SHAPES.items()}


def kind_of(message: Message) -> str:
    """The kind of a message, as in its header."""
    return _KIND_OF[type(message)]


def encode(message: Message) -> list[bytes]:
    """The frames of a message, without any routing id. Raises LocalError for a value that is out of bounds."""
    kind = kind_of(message)
    shape = _SHAPES[kind]
    header: dict[str, object] = {"kind": kind}
    body = b""
    try:
        for name, form in shape.forms.items():
            header[name] = written = form.write(getattr(message, name))
            form.read(written)
        if shape.body is not None:
            body = shape.body.write(getattr(message, shape.body.name))
            if shape.body.read(body) != getattr(message, shape.body.name):
                raise ValueError(f"{shape.body.name} would not be read as it is")
        head = compact(header).encode("ascii")
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise LocalError(f"a message of kind {kind} cannot be sent", str(error)) from None
    if len(head) > MAX_HEADER_BYTES or len(body) > MAX_BODY_BYTES:
        why = f"it has {len(head)} bytes of {MAX_HEADER_BYTES}, and {len(body)} of {MAX_BODY_BYTES}"
        raise LocalError(f"a message of kind {kind} cannot be sent", why, "ask for less at once")
    return [MAGIC, head, body]


def decode(frames: Frames) -> Message | Refusal:
    """The message in the frames, or why there is none. Takes any frames."""
    if len(frames) != FRAMES:
        return Refusal.FRAME_COUNT
    magic, head, body = frames
    if magic != MAGIC:
        return Refusal.VERSION
    if len(head) > MAX_HEADER_BYTES or len(body) > MAX_BODY_BYTES:
        return Refusal.TOO_BIG
    try:
        header = read_object(head.decode("ascii"), MAX_HEADER_BYTES)
    except ValueError:
        return Refusal.NOT_JSON
    kind = header.pop("kind", None)
    shape = _SHAPES.get(kind) if isinstance(kind, str) else None
    if shape is None:
        return Refusal.KIND
    if header.keys() != shape.forms.keys():
        return Refusal.FIELD
    if shape.body is None and body:
        return Refusal.BODY
    try:
        values = {name: form.read(header[name]) for name, form in shape.forms.items()}
        if shape.body is not None:
            values[shape.body.name] = shape.body.read(bytes(body))
    except (ValueError, RecursionError):
        return Refusal.FIELD
    return shape.make(**values)
