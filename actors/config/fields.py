"""What a section and a key of a configuration are. Not responsible for which there are: see `schema`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from holloway.actors.config.kinds import Kind


class Absent(Enum):
    """Why a key has no default value."""

    REQUIRED = "required"
    COMPUTED = "computed"  # from other values, by `loading`


@dataclass(frozen=True, slots=True)
class Field:
    """One key: `default` is its typed value, None for optional, or why there is none, and `note` says what then holds.

    `example` is a value in TOML, for the documentation and for the remedy when the key is missing.
    """

    key: str
    kind: Kind
    doc: str
    default: object = None
    note: str = ""
    example: str = ""
    advanced: bool = False
    unless: str = ""
    """A section that makes up for a required key: with it the key may be left out, and is an empty tuple."""


@dataclass(frozen=True, slots=True)
class Section:
    """One section; `repeated` ones are written `[[name]]`. An `optional` one counts only when a key of it is given."""

    name: str
    doc: str
    fields: tuple[Field, ...]
    repeated: bool = False
    optional: bool = False

    def has(self, key: str) -> bool:
        """Whether it has a key of that name."""
        return any(field.key == key for field in self.fields)

    @property
    def heading(self) -> str:
        """As it is written in TOML."""
        return f"[[{self.name}]]" if self.repeated else f"[{self.name}]"
