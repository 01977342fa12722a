"""The kinds of value a configuration key can hold: how each is written, read and refused.

A kind turns what a reader gave (a string, an integer, a list, or a value that is already of the right type because a
program built it) into the typed value, or raises `UnfitError` with what is wrong and what to write instead. Responsible for
one value at a time; addresses, prefixes and keys are in `kinds_network`, relations between values in `rules`.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from holloway.actors.config.model import SIZE_UNITS, Size
from holloway.protocols.durations import read_duration

MAX_INTERFACE_NAME = 15  # IFNAMSIZ - 1, linux/if.h
MAX_SOCKET_PATH = 107  # sun_path less its NUL, unix(7)
MAX_QUOTED = 60  # characters of a wrong value that a message repeats

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_INTERFACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]*")
_DIGITS = re.compile(r"[+-]?[0-9]{1,18}")
_SIZE = re.compile(rf"([0-9]{{1,15}}) ?({'|'.join(SIZE_UNITS)})")


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a value and what to write instead. `within` leads to the part that is wrong: a list position."""

    what: str
    fix: str
    within: tuple[int, ...] = ()


class UnfitError(Exception):
    """A value does not fit its key, for one reason or, if it is a list, for several."""

    def __init__(self, what: str = "", fix: str = "", *, faults: Sequence[Fault] = ()) -> None:
        super().__init__(what, fix, faults)
        self.faults = tuple(faults) or (Fault(what, fix),)


@dataclass(frozen=True, slots=True)
class Reading:
    """What reading a value depends on: the folder that relative paths start from, and whether it came from outside the
    program (a file, the environment, a flag) or from a program that embeds a node."""

    folder: Path
    embedded: bool = False


@dataclass(frozen=True, slots=True)
class Kind:
    """`words` for the documentation; `read` judges a native value; `from_text` makes one of an environment string."""

    words: str
    read: Callable[[object, Reading], object]
    from_text: Callable[[str], object] = str


def quoted(value: object) -> str:
    """A wrong value as a message shows it: on one line, shortened, control characters escaped."""
    if isinstance(value, str) and value.isprintable() and '"' not in value:
        text = f'"{value}"'
    else:
        try:
            text = ascii(value)
        except ValueError:  # an integer written in hexadecimal can have more digits than Python will print in decimal
            return "an enormous number"
    return text if len(text) <= MAX_QUOTED else text[: MAX_QUOTED - 1] + "…"


def type_word(value: object) -> str:
    """The type of a value in the words of a configuration file."""
    if isinstance(value, bool):
        return "a boolean"
    for kind, word in ((str, "text"), (int, "an integer"), (float, "a number"), (list, "a list"), (dict, "a section")):
        if isinstance(value, kind):
            return word
    return "nothing" if value is None else f"a {type(value).__name__}"


def nearest(word: str, words: Sequence[str], cutoff: float = 0.6) -> str | None:
    """The closest of `words` without regard to case, if one is close: `cutoff` is difflib's ratio, 0 to 1."""
    import difflib  # a mistake was made already: its import is paid only then

    by_folded = {each.lower(): each for each in words}
    matches = difflib.get_close_matches(word.lower(), by_folded, n=1, cutoff=cutoff)
    return by_folded[matches[0]] if matches else None


def expect_text(value: object, example: str) -> str:
    """`value` if it is text; `example` is what the remedy shows."""
    if not isinstance(value, str):
        raise UnfitError(
            f"expected text, found {type_word(value)} {quoted(value)}", f'write it in quotes, like "{example}"'
        )
    return value


def name_kind() -> Kind:
    """A name of a node, peer or network: what fits in a table, a log line and a file name."""

    def read(value: object, reading: Reading) -> str:
        text = expect_text(value, "node-a")
        if not _NAME.fullmatch(text):
            raise UnfitError(
                f"{quoted(text)} is not a name",
                "use 1 to 63 letters, digits, dots, dashes and underscores, the first a letter or digit",
            )
        return text

    return Kind("name", read)


def interface_name_kind() -> Kind:
    """A network interface's name, narrower than what the kernel takes: no `%` patterns, it also names the socket."""

    def read(value: object, reading: Reading) -> str:
        text = expect_text(value, "hw0")
        if len(text) > MAX_INTERFACE_NAME:
            raise UnfitError(
                f"{quoted(text)} has {len(text)} characters, an interface name at most {MAX_INTERFACE_NAME}",
                "use a shorter name, such as hw0",
            )
        if not _INTERFACE.fullmatch(text):
            raise UnfitError(
                f"{quoted(text)} is not an interface name", "use letters, digits, . _ @ and -, such as hw0"
            )
        return text

    return Kind("interface name", read)


_FLAGS = {"true": True, "on": True, "yes": True, "false": False, "off": False, "no": False}


def integer_kind(low: int, high: int) -> Kind:
    """An integer from `low` to `high`, both included."""

    def read(value: object, reading: Reading) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise UnfitError(
                f"expected an integer, found {type_word(value)} {quoted(value)}",
                f"write a number from {low} to {high}, without quotes",
            )
        if not low <= value <= high:
            side = f"below {low}" if value < low else f"above {high}"
            raise UnfitError(f"{quoted(value)} is {side}", f"use {low} to {high}")
        return value

    return Kind(f"integer, {low} to {high}", read, _integer_from_text)


def _integer_from_text(text: str) -> object:
    return int(text) if _DIGITS.fullmatch(text.strip()) else text


def size_kind(low: int, high: int) -> Kind:
    """A number of bytes from `low` to `high`, both included: `"64 MiB"`, or an integer of bytes."""
    few, many = Size(low), Size(high)

    def read(value: object, reading: Reading) -> Size:
        if isinstance(value, str):
            found = _SIZE.fullmatch(value)
            if found is None:
                fix = f'write it like "{few}" with one of {", ".join(SIZE_UNITS)}, or a number of bytes without quotes'
                raise UnfitError(f"{quoted(value)} is not a size", fix)
            value = int(found[1]) * SIZE_UNITS[found[2]]
        if isinstance(value, bool) or not isinstance(value, int):
            what = f"expected a size, found {type_word(value)} {quoted(value)}"
            raise UnfitError(what, f'write it like "{few}", in quotes')
        if not low <= value <= high:
            shown = str(Size(value)) if -(1 << 62) < value < 1 << 62 else quoted(value)
            side = f"below {few}" if value < low else f"above {many}"
            raise UnfitError(f"{shown} is {side}", f"use {few} to {many}")
        return Size(value)

    return Kind(f"size, {few} to {many}", read, _integer_from_text)


def seconds_kind(high: float) -> Kind:
    """A duration, above 0 and up to `high` seconds: a number of seconds, or text with a unit (`2d`)."""

    def read(value: object, reading: Reading) -> float:
        seconds = _seconds(
            value, f'write a number above 0, at most {high:g}, or one with its unit in quotes, like "2m"'
        )
        # Compared before it is converted: an enormous integer does not fit a float.
        if not 0 < seconds <= high:
            raise UnfitError(f"{quoted(value)} is out of range", f"use more than 0 and at most {high:g}")
        return float(seconds)

    return Kind(f"seconds, or like `2m` or `1h`; above 0, at most {high:g} s", read, _number_from_text)


def whole_seconds_kind(low: int, high: int) -> Kind:
    """A duration of whole seconds from `low` to `high`, both included: a number, or text with a unit (`2m`)."""

    def read(value: object, reading: Reading) -> int:
        fix = f'write a whole number from {low} to {high}, or one with its unit in quotes, like "2m"'
        seconds = _seconds(value, fix)
        if not low <= seconds <= high:
            raise UnfitError(f"{quoted(value)} is out of range", f"use {low} to {high}")
        if seconds != int(seconds):
            raise UnfitError(f"{quoted(value)} is no number of whole seconds", fix)
        return int(seconds)

    return Kind(f"whole seconds, or like `2m`; {low} to {high} s", read, _number_from_text)


def _seconds(value: object, fix: str) -> int | float:
    if isinstance(value, str):
        try:
            return read_duration(value)
        except ValueError:
            raise UnfitError(f"{quoted(value)} is no time", fix) from None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise UnfitError(f"expected seconds, found {type_word(value)} {quoted(value)}", fix)
    return value


def _number_from_text(text: str) -> object:
    try:
        number = float(text)
    except ValueError:
        return text
    return number if math.isfinite(number) else text


def flag_kind() -> Kind:
    """True or false; as text `true` or `false`, `on` or `off`, `yes` or `no`."""

    def read(value: object, reading: Reading) -> bool:
        if not isinstance(value, bool):
            raise UnfitError(
                f"expected true or false, found {type_word(value)} {quoted(value)}",
                "write true or false, without quotes",
            )
        return value

    return Kind("true or false", read, lambda text: _FLAGS.get(text.strip().lower(), text))


def choice_kind(*options: str) -> Kind:
    """One of a few words."""

    def read(value: object, reading: Reading) -> str:
        text = expect_text(value, options[0])
        if text not in options:
            close = nearest(text, options)
            fix = f"did you mean {quoted(close)}?" if close else f"use {_one_of(options)}"
            raise UnfitError(f"{quoted(text)} is not {_one_of(options)}", fix)
        return text

    return Kind(_one_of(options), read)


def _one_of(options: Sequence[str]) -> str:
    words = [f'"{option}"' for option in options]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def path_kind(*, socket: bool = False) -> Kind:
    """A file's path; relative ones start at the folder of the configuration file."""

    def read(value: object, reading: Reading) -> Path:
        text = str(value) if isinstance(value, Path) else expect_text(value, "node.key")
        if not text or "\0" in text:
            raise UnfitError(f"{quoted(text)} is not a path", "name a file")
        if text.endswith("/"):
            raise UnfitError(f"{quoted(text)} is a folder", "name a file in it")
        path = reading.folder / text
        try:
            length = len(os.fsencode(path))
        except UnicodeEncodeError:
            raise UnfitError(f"{quoted(text)} is not a path", "name a file") from None
        if socket and length > MAX_SOCKET_PATH:
            raise UnfitError(
                f"the path has {length} bytes, a socket's at most {MAX_SOCKET_PATH}",
                "use a shorter one, such as /run/holloway/hw0.sock",
            )
        return path

    return Kind("path of a socket" if socket else "path of a file", read)


def list_kind(item: Kind, *, least: int = 0) -> Kind:
    """A list of `item`; in the environment comma separated. Every wrong item is reported, not only the first."""

    def read(value: object, reading: Reading) -> tuple[object, ...]:
        if isinstance(value, str):
            raise UnfitError(f"expected a list, found text {quoted(value)}", f"write [{quoted(value)}]")
        if not isinstance(value, (list, tuple)):
            raise UnfitError(
                f"expected a list, found {type_word(value)} {quoted(value)}", f"write a list of {item.words}"
            )
        if len(value) < least:
            raise UnfitError("the list is empty", f"name at least one {item.words}")
        result: list[object] = []
        wrong: list[Fault] = []
        for position, each in enumerate(value):
            try:
                result.append(item.read(each, reading))
            except UnfitError as error:
                wrong += [replace(fault, within=(position, *fault.within)) for fault in error.faults]
        if wrong:
            raise UnfitError(faults=wrong)
        return tuple(result)

    return Kind(f"list of {item.words}", read, _list_from_text)


def _list_from_text(text: str) -> object:
    return [part.strip() for part in text.split(",") if part.strip()]
