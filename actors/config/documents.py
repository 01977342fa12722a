"""Reading a configuration file: TOML, YAML or JSON, by its extension, into a tree of plain values with line numbers.

Responsible for size, encoding and syntax. Not responsible for what the keys mean: see `loading`.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from holloway.actors.config.problems import ConfigProblems, KeyPath, Problem, format_key

MAX_FILE_BYTES = 1 << 20
EXTENSIONS = (".toml", ".yaml", ".yml", ".json")
_TOML_PLACE = re.compile(r" \(at (?:line (?P<line>\d+), column (?P<column>\d+)|end of document)\)$")
_TOO_DEEP = "lists or sections are nested too deeply"


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed file: its top-level mapping, the line of every key path, and the keys that were written twice. `origins`: the
    files of those peers that have one of their own, by their position."""

    path: Path
    tree: dict[str, object]
    lines: dict[KeyPath, int]
    problems: list[Problem] = field(default_factory=list)
    origins: dict[int, Path] = field(default_factory=dict)

    def path_of(self, key: KeyPath) -> Path:
        """The file that a key stands in."""
        position = key[1] if len(key) > 1 and key[0] == "peer" else None
        return self.origins.get(position, self.path) if isinstance(position, int) else self.path


def read_document(path: Path) -> Document:
    """Reads and parses the file.

    Raises ConfigProblems when it cannot be read at all (from a PermissionError if that is why) or is not of its format.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise _broken(path, None, "its name does not say its format", f"name it {' '.join(EXTENSIONS)}")
    return reader(path, _text(path))


def _broken(path: Path, line: int | None, what: str, fix: str) -> ConfigProblems:
    return ConfigProblems([Problem(path, line, "", what, fix)], path)


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise _broken(path, None, "no such file", "create it, or name another with -c FILE") from None
    except OSError as error:
        raise _broken(path, None, f"cannot be read: {error.strerror}", f"look at it with: ls -l {path}") from error
    if len(data) > MAX_FILE_BYTES:
        raise _broken(path, None, f"larger than {MAX_FILE_BYTES} bytes", "name a configuration file")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _broken(path, line, f"byte 0x{data[error.start]:02x} is not UTF-8", "save the file as UTF-8") from None


def _read_toml(path: Path, text: str) -> Document:
    from holloway.actors.config.lines_toml import toml_lines

    try:
        tree = tomllib.loads(text)
        return Document(path, tree, toml_lines(text))
    except tomllib.TOMLDecodeError as error:
        message = str(error)
        place = _TOML_PLACE.search(message)
        if place is None:
            raise _broken(path, None, f"syntax error: {message}", "correct the line") from None
        what = message[: place.start()]
        if place["line"] is None:
            last = max(len(text.splitlines()), 1)
            raise _broken(path, last, f"syntax error at the end of the file: {what}", "complete the line") from None
        what = f"syntax error at column {place['column']}: {what}"
        raise _broken(path, int(place["line"]), what, "correct the line") from None
    except ValueError as error:  # an integer of thousands of digits
        raise _broken(path, None, f"unreadable value: {error}", "correct it") from None
    except RecursionError:
        raise _broken(path, None, _TOO_DEEP, "write it flat") from None


def _read_json(path: Path, text: str) -> Document:
    from holloway.actors.config.lines_json import json_lines

    try:
        tree = json.loads(text)
        lines, repeated = json_lines(text)
    except json.JSONDecodeError as error:
        what = f"syntax error at column {error.colno}: {error.msg}"
        raise _broken(path, error.lineno, what, "correct the line") from None
    except ValueError as error:
        raise _broken(path, None, f"unreadable value: {error}", "correct it") from None
    except RecursionError:
        raise _broken(path, None, _TOO_DEEP, "write it flat") from None
    return _document(path, tree, lines, repeated)


def _read_yaml(path: Path, text: str) -> Document:
    from holloway.actors.config.tree_yaml import YamlSyntaxError, read_yaml

    try:
        read = read_yaml(text)
    except ImportError:
        fix = "pip install 'holloway[yaml]', or write it as TOML"
        raise _broken(path, None, "YAML needs PyYAML, which is not installed", fix) from None
    except YamlSyntaxError as error:
        raise _broken(path, error.line, error.what, error.fix) from None
    except RecursionError:
        raise _broken(path, None, _TOO_DEEP, "write it flat") from None
    return _document(path, {} if read.value is None else read.value, read.lines, read.repeated)


def _document(path: Path, tree: object, lines: dict[KeyPath, int], repeated: list[tuple[KeyPath, int]]) -> Document:
    if not isinstance(tree, dict):
        raise _broken(path, 1, "the file is not a mapping of sections", "begin with the sections: node, interface, …")
    problems = [
        Problem(path, line, format_key(key), f"written twice, first on line {lines[key]}", "keep one of them")
        for key, line in repeated
    ]
    return Document(path, tree, lines, problems)


_READERS: dict[str, Callable[[Path, str], Document]] = {
    ".toml": _read_toml,
    ".yaml": _read_yaml,
    ".yml": _read_yaml,
    ".json": _read_json,
}
