"""What is wrong with a configuration, and the error that carries all of it. Not responsible for finding anything wrong."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from holloway.protocols.errors import ConfigError

KeyPath: TypeAlias = tuple[str | int, ...]
"""Where a value lies in the configuration tree: `("peer", 0, "allowed", 1)`; `()` is the file itself."""


MAX_KEY_SHOWN = 60  # characters of one key that a message repeats


def format_key(key: KeyPath) -> str:
    """`peer[0].allowed[1]`: list positions count from 0, as in TOML and JSON tools. Odd characters come out escaped."""
    text = ""
    for part in key:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            word = (part if part.isprintable() and part else ascii(part))[:MAX_KEY_SHOWN]
            text += f".{word}" if text else word
    return text


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake: the file (None when it came from the environment or a flag), its line from 1 where one is known,
    the key, what is wrong and what mends it. Never holds a secret."""

    path: Path | None
    line: int | None
    key: str
    what: str
    fix: str

    @property
    def place(self) -> str:
        """`node.toml:7`, `node.toml`, or nothing."""
        if self.path is None:
            return ""
        return f"{self.path}:{self.line}" if self.line is not None else str(self.path)

    def __str__(self) -> str:
        head = ": ".join(part for part in (self.place, self.key, self.what) if part)
        return f"{head}; {self.fix}"


def by_place(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """In the order of the file, and after it those of variables and flags."""
    return tuple(sorted(problems, key=lambda problem: (problem.path is None, problem.line or 0)))


class ConfigProblems(ConfigError):
    """A configuration cannot be used; `problems` names every mistake that was found, in the order of the file.

    Its three lines speak of the first problem, and point to `holloway check` when there are more.
    """

    def __init__(self, problems: Sequence[Problem], path: Path | None = None) -> None:
        if not problems:
            raise ValueError("ConfigProblems needs at least one problem")
        first = problems[0]
        subject = str(path) if path is not None else "the configuration"
        if len(problems) == 1:
            super().__init__(f"{subject} cannot be used", _why(first), first.fix)
        else:
            more = f"holloway check {path}" if path is not None else first.fix
            super().__init__(f"{subject} cannot be used: {len(problems)} problems", f"{_why(first)}; and more", more)
        self.problems = tuple(problems)
        self.path = path


def _why(problem: Problem) -> str:
    return ": ".join(part for part in (problem.place, problem.key, problem.what) if part)
