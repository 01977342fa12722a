"""Reading the tables of a scenario strictly: every key is asked for once, and one that nobody asks for is an error.

An error names file, line, key and, for a misspelt one, the nearest that exists. Not responsible for what keys there are.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeVar

from holloway.actors.config.lines_toml import toml_lines
from holloway.actors.config.problems import KeyPath
from holloway.simulations.errors import ScenarioError
from holloway.simulations.quantities import Quantity, Range, Value, WrongValueError, read_range, read_value

T = TypeVar("T")

_MISSPELT = 0.8
"""How near a key that nobody knows must be to one that is missing, to be taken for it."""


class Table:
    """One table of a scenario. Take what it has, then `finish`."""

    def __init__(
        self, values: Mapping[str, Any], source: str, lines: Mapping[KeyPath, int], path: KeyPath = ()
    ) -> None:
        self._values, self._source, self._lines, self._path = dict(values), source, lines, path
        self._known: list[str] = []

    def take(self, key: str, read: Callable[[Any], T], default: T | None = None) -> T:
        """The value of `key` as `read` understands it, which raises `ValueError` for a wrong one."""
        self._known.append(key)
        if key not in self._values:
            near = difflib.get_close_matches(key, self._values, n=1, cutoff=_MISSPELT) if default is None else []
            if near:
                self.refuse(near[0], f"unknown key {near[0]!r}", f"did you mean {key}?")
            if default is None:
                self.refuse(None, f"{key} is missing", f"add {key} = … to {self._label()}")
            return default
        try:
            return read(self._values.pop(key))
        except ValueError as error:
            self.refuse(key, str(error), f"change {key} in {self._label()}")

    def text(self, key: str, default: str | None = None) -> str:
        return self.take(key, _text, default)

    def choice(self, key: str, choices: Mapping[str, Any], default: str | None = None) -> str:
        """A text that is one of `choices`."""
        return self.take(key, lambda value: _chosen(_text(value), list(choices)), default)

    def flag(self, key: str) -> bool:
        return self.take(key, _flag, False)

    def value(self, key: str, quantity: Quantity, default: str | None = None) -> Value:
        return self.take(
            key, lambda value: read_value(value, quantity), None if default is None else read_value(default, quantity)
        )

    def range(self, key: str, quantity: Quantity, default: str | None = None) -> Range:
        return self.take(
            key, lambda value: read_range(value, quantity), None if default is None else read_range(default, quantity)
        )

    def texts(
        self, key: str, choices: Mapping[str, Any] | None, default: tuple[str, ...] | None = None
    ) -> tuple[str, ...]:
        """A list of texts, each once; of `choices` when given."""

        def read(value: object) -> tuple[str, ...]:
            if not isinstance(value, list):
                raise WrongValueError("expected a list of texts")
            read = tuple(_text(each) if choices is None else _chosen(_text(each), list(choices)) for each in value)
            if len(dict.fromkeys(read)) != len(read):
                raise WrongValueError("something is in the list twice")
            return read

        return self.take(key, read, default)

    def table(self, key: str) -> Table:
        """A table inside; empty when it is not there."""
        nothing: dict[str, Any] = {}
        near = difflib.get_close_matches(key, self._values, n=1, cutoff=_MISSPELT)
        if key not in self._values and near:
            self.refuse(near[0], f"unknown key {near[0]!r}", f"did you mean {key}?")
        values = self.take(key, _table, nothing)
        return Table(values, self._source, self._lines, (*self._path, key))

    def tables(self, key: str) -> list[Table]:
        """An array of tables; empty when it is not there."""
        nothing: list[dict[str, Any]] = []
        found = self.take(key, _tables, nothing)
        return [
            Table(values, self._source, self._lines, (*self._path, key, number)) for number, values in enumerate(found)
        ]

    @property
    def keys(self) -> list[str]:
        """Keys that were not taken yet."""
        return list(self._values)

    def finish(self) -> None:
        """Raises `ScenarioError` if a key is left."""
        for key in self._values:
            near = difflib.get_close_matches(key, self._known, n=1)
            has = f"{self._label()} has: {', '.join(self._known)}"
            self.refuse(key, f"unknown key {key!r}", f"did you mean {near[0]}? {has}" if near else has)

    def refuse(self, key: str | None, why: str, fix: str) -> NoReturn:
        """Raises `ScenarioError` at the line of `key`, or of the table."""
        path = self._path if key is None else (*self._path, key)
        line = self._lines.get(path, 1)
        place = ".".join(str(part + 1 if isinstance(part, int) else part) for part in path) or "the scenario"
        raise ScenarioError(f"{self._source}:{line}: {place}", why, fix)

    def _label(self) -> str:
        names = [part for part in self._path if isinstance(part, str)]
        return f"[{'.'.join(names)}]" if names else "the top of the scenario"


def read_table(text: str, source: str) -> Table:
    """The whole of a TOML document. Raises `ScenarioError` when it is none."""
    try:
        values = tomllib.loads(text)
        return Table(values, source, toml_lines(text))
    except tomllib.TOMLDecodeError as error:
        raise ScenarioError(
            f"{source} is not TOML", str(error), "correct it; docs/simulation.md has an example"
        ) from error
    except RecursionError as error:
        raise ScenarioError(f"{source} is nested too deeply", "no scenario is", "flatten it") from error


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise WrongValueError(f"expected a text, found {value!r}")
    return value


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise WrongValueError(f"expected true or false, found {value!r}")
    return value


def _table(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise WrongValueError("expected a table")
    return value


def _tables(value: object) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise WrongValueError("expected tables, written as [[…]]")
    return value


def _chosen(value: str, choices: list[str]) -> str:
    if value in choices:
        return value
    near = difflib.get_close_matches(value, choices, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise WrongValueError(f"unknown {value!r}: {hint}there are: {', '.join(choices)}")
