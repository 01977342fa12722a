"""Where values come from: flags, the environment, the file, the defaults, in that order of strength.

Responsible for choosing the value in force and for remembering its origin. Not responsible for judging it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from holloway.actors.config.documents import Document
from holloway.actors.config.fields import Field, Section
from holloway.actors.config.kinds import nearest
from holloway.actors.config.problems import KeyPath
from holloway.actors.config.schema import (
    BY_NAME,
    ENVIRONMENT_PREFIX,
    SECTIONS,
    single_fields,
    variable,
)

_SIMILAR = 0.85  # how alike (difflib ratio) a variable of no section must be to be taken for a misspelt one


class Source(Enum):
    """Where a value came from, strongest first."""

    FLAG = "flag"
    ENVIRONMENT = "environment"
    FILE = "file"
    DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Given:
    """A raw value that was given for a key: `detail` is `node.toml:7`, or the variable's name, or nothing for a flag."""

    key: KeyPath
    value: object
    source: Source
    detail: str
    folder: Path


@dataclass(frozen=True, slots=True)
class Setting:
    """One key with its typed value in force and where that came from, as in `Given`."""

    key: KeyPath
    value: object
    source: Source
    detail: str


@dataclass(frozen=True, slots=True)
class Sources:
    """The three sources of one load. Paths in flags and variables start at the working folder, a file's at its own."""

    document: Document
    environ: Mapping[str, str]
    overrides: Mapping[str, object]

    def winner(self, each: Section, field: Field, table: Mapping[str, object], path: KeyPath) -> Given | None:
        """The strongest value given for `field`, or None. `path` is the key path of `table`, the section in the file.

        Repeated sections come from the file alone. A variable that is set to nothing counts as not set.
        """
        key = (*path, field.key)
        if not each.repeated:
            name = f"{each.name}.{field.key}"
            if name in self.overrides:
                return Given(key, _native(field, self.overrides[name]), Source.FLAG, "", Path())
            name = variable(each.name, field.key)
            if self.environ.get(name):
                return Given(key, field.kind.from_text(self.environ[name]), Source.ENVIRONMENT, name, Path())
        if field.key not in table:
            return None
        line, file = self.document.lines.get(key), self.document.path_of(key)
        place = f"{file}:{line}" if line is not None else str(file)
        return Given(key, table[field.key], Source.FILE, place, file.parent)

    def sets(self, each: Section) -> bool:
        """Whether any source gives `each` at all."""
        if each.name in self.document.tree:
            return True
        return any(
            f"{each.name}.{field.key}" in self.overrides or self.environ.get(variable(each.name, field.key))
            for field in each.fields
        )

    def unknown_variables(self) -> Iterator[tuple[str, str]]:
        """Variables that look like configuration and are not, each with its remedy.

        Reported are those that begin like a section's, and near misses of a real one. Others with the prefix belong to
        somebody else (a container platform sets `HOLLOWAY_SERVICE_HOST` for a service of that name).
        """
        known = [variable(each.name, field.key) for each, field in single_fields()]
        for name in sorted(self.environ):
            if not name.startswith(ENVIRONMENT_PREFIX) or name in known:
                continue
            head, _, rest = name.removeprefix(ENVIRONMENT_PREFIX).lower().partition("_")
            owner = BY_NAME.get(head)
            if owner is None:
                close = nearest(name, known, _SIMILAR)
                if close is not None:
                    yield name, f"did you mean {close}?"
            elif owner.repeated:
                yield name, f"unset it: {owner.heading} sections come from the file alone"
            else:
                keys = [field.key for field in owner.fields]
                close = nearest(rest, keys)
                names = [variable(head, key) for key in ([close] if close else keys)]
                yield name, f"did you mean {names[0]}?" if close else f"unset it, or use one of {', '.join(names)}"

    def unknown_overrides(self) -> Iterator[tuple[str, str]]:
        """Flag keys that no section has, each with its remedy."""
        known = [f"{each.name}.{field.key}" for each, field in single_fields()]
        for name in self.overrides:
            if name not in known:
                close = nearest(name, known)
                yield name, f"did you mean {close}?" if close else f"use one of {', '.join(known)}"


def _native(field: Field, value: object) -> object:
    return field.kind.from_text(value) if isinstance(value, str) else value


def home_of(key: str) -> str | None:
    """The section that has a key of this name, as it is written: `[interface]`."""
    return next((each.heading for each in SECTIONS if each.has(key)), None)
