"""How each kind of field of a message is written into JSON and read back: what is read is what it promises, or ValueError.

Every bound of a message is here. Not responsible for which message has which fields (`wire`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar

from holloway.protocols.control_plane.messages import Rollout, State, Step, StepEnd
from holloway.protocols.hostile_json import MAX_INTEGER, object_of

MAX_NAME_CHARS = 63
MAX_COMMAND_CHARS = 64
MAX_ARGUMENTS = 1024
MAX_ARGUMENT_CHARS = 32 * 1024
MAX_TARGET_CHARS = 32 * 1024
MAX_OPTIONS = 64
MAX_STEPS = 16
MAX_ROLES = 32
MAX_COMMANDS = 256
MAX_NODES = 2000
"""Agents of one broker, and so nodes of one job."""
MAX_ERROR_CHARS = 2000
MAX_DEADLINE_S = 7 * 86_400.0
MAX_WALL_S = 2.0**40
MAX_DEPTH = 8
"""How deep a document of an answer is nested."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z")
"""Names of nodes, operators, applications, environments and roles."""
_COMMAND = re.compile(r"[a-z][a-z0-9.-]{0,63}\Z")
_OPTION = re.compile(r"[a-z][a-z0-9_-]{0,63}\Z")
_TOKEN = re.compile(r"[0-9a-f]{32}\Z")
_DIGEST = re.compile(r"[0-9a-f]{64}\Z")

E = TypeVar("E", bound=Enum)
Read = Callable[[object], Any]
Write = Callable[[Any], object]


def _same(value: Any) -> object:
    return value


@dataclass(frozen=True, slots=True)
class Form:
    """One kind of field. `read` raises ValueError; `write` is its inverse."""

    read: Read
    write: Write = _same


def pattern(shape: re.Pattern[str], what: str, *, empty: bool = False) -> Form:
    """A text of one shape; `empty`: or none."""

    def read(value: object) -> str:
        if not isinstance(value, str) or not (shape.match(value) or (empty and not value)):
            raise ValueError(f"not {what}")
        return value

    return Form(read)


def text(max_chars: int, *, nul: bool = False) -> Form:
    """Any text, and any bytes that Python smuggles through one (PEP 383); `nul`: NUL, too."""

    def read(value: object) -> str:
        if not isinstance(value, str) or len(value) > max_chars or (not nul and "\0" in value):
            raise ValueError(f"not a text of at most {max_chars} characters")
        value.encode("utf-8", "surrogateescape")  # UnicodeEncodeError is a ValueError
        return value

    return Form(read)


def whole(low: int, high: int = MAX_INTEGER, *, none: bool = False) -> Form:
    """A whole number from `low` to `high`; `none`: or null."""

    def read(value: object) -> int | None:
        if none and value is None:
            return None
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"not a whole number from {low} to {high}")
        return value

    return Form(read)


def number(low: float, high: float) -> Form:
    """A number from `low` to `high`, given back as a float."""

    def read(value: object) -> float:
        if type(value) not in (int, float) or not low <= value <= high:  # type: ignore[operator]
            raise ValueError(f"not a number from {low} to {high}")
        return float(value)  # type: ignore[arg-type]

    return Form(read)


def flag() -> Form:
    """True or false."""

    def read(value: object) -> bool:
        match value:
            case bool():
                return value
            case _:
                raise ValueError("neither true nor false")

    return Form(read)


def choice(kind: type[E]) -> Form:
    """One of an enum, by its value."""

    def read(value: object) -> E:
        return kind(value)  # of anything that is no member, ValueError

    return Form(read, lambda member: member.value)


def many(form: Form, low: int, high: int) -> Form:
    """A list of `low` to `high` items."""

    def read(value: object) -> tuple[Any, ...]:
        if not isinstance(value, list) or not low <= len(value) <= high:
            raise ValueError(f"not a list of {low} to {high}")
        return tuple(map(form.read, value))

    return Form(read, lambda items: list(map(form.write, items)))


def row(kind: Callable[..., Any], **forms: Form) -> Form:
    """A value of a dataclass, as an object with exactly these keys."""

    def read(value: object) -> Any:
        if not isinstance(value, dict) or value.keys() != forms.keys():
            raise ValueError("not an object with the keys that it should have")
        return kind(**{name: form.read(value[name]) for name, form in forms.items()})

    return Form(read, lambda item: {name: form.write(getattr(item, name)) for name, form in forms.items()})


def _read_options(value: object) -> dict[str, Any]:
    if not isinstance(value, dict) or len(value) > MAX_OPTIONS:
        raise ValueError(f"not an object of at most {MAX_OPTIONS} options")
    for name, each in value.items():
        if not _OPTION.match(name):
            raise ValueError("not the name of an option")
        _read_plain(each)
    return value


def _read_plain(value: object) -> None:
    match value:
        case bool():
            pass
        case str():
            _long_text.read(value)
        case int() if abs(value) <= MAX_INTEGER:
            pass
        case float() if math.isfinite(value):
            pass
        case _:
            raise ValueError("not a plain value")


def _read_document(value: object) -> dict[str, Any]:
    fields = object_of(value)
    _check_nested(fields, MAX_DEPTH)
    return fields


def _check_nested(value: object, depth: int) -> None:
    if value is None:
        return
    if isinstance(value, dict | list):
        if not depth:
            raise ValueError("nested too deeply")
        for each in value.values() if isinstance(value, dict) else value:
            _check_nested(each, depth - 1)
        if isinstance(value, dict):
            for key in value:
                _long_text.read(key)
    else:
        _read_plain(value)


def _read_counts(value: object) -> Mapping[State, int]:
    counter = whole(1, MAX_NODES)
    return {State(key): counter.read(each) for key, each in object_of(value).items()}


_long_text = text(64 * 1024, nul=True)
NAME_FORM = pattern(NAME, "a name")
LABEL = pattern(NAME, "a name, or nothing", empty=True)
COMMAND = pattern(_COMMAND, "the name of a command")
TOKEN = pattern(_TOKEN, "32 hexadecimal digits")
NO_TOKEN = pattern(_TOKEN, "32 hexadecimal digits, or nothing", empty=True)
DIGEST = pattern(_DIGEST, "a SHA-256, or nothing", empty=True)
SHA256 = pattern(_DIGEST, "a SHA-256")
VERSION = text(32)
TARGET = text(MAX_TARGET_CHARS)
ERROR = text(MAX_ERROR_CHARS, nul=True)
STATE = choice(State)
RC = whole(-255, 255, none=True)
COUNT = whole(0)
INDEX = whole(0, MAX_STEPS - 1)
DURATION = number(0.0, MAX_WALL_S)
DEADLINE = number(0.001, MAX_DEADLINE_S)
WALL = number(0.0, MAX_WALL_S)
FLAG = flag()
OPTIONS = Form(_read_options, dict)
ARGUMENTS = many(text(MAX_ARGUMENT_CHARS), 0, MAX_ARGUMENTS)
DOCUMENT = Form(_read_document, dict)
COUNTS = Form(_read_counts, lambda counts: {state.value: count for state, count in counts.items()})
STEP = row(Step, command=COMMAND, arguments=ARGUMENTS, options=OPTIONS)
STEP_END = row(StepEnd, state=STATE, rc=RC, duration_s=DURATION, error=ERROR)
ENDS = many(STEP_END, 0, MAX_STEPS)
ROLES = many(NAME_FORM, 0, MAX_ROLES)
COMMANDS = many(COMMAND, 0, MAX_COMMANDS)
ROLLOUT = row(
    Rollout,
    batch=whole(0, MAX_NODES),
    is_percent=FLAG,
    canary=whole(0, MAX_NODES),
    max_fail=whole(-1, MAX_NODES),
)
