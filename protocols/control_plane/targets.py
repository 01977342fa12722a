"""Targets: which agents a job is for.

    target       alternatives, with commas between them: an agent that fits one of them is meant
    alternative  terms, with spaces or the word `and` between them: all have to fit
    term         `all`, a name or glob, `app=`, `env=` or `role=` with a name or glob; `!` before it turns it round

A glob has `*`, `?` and `[…]` and fits the whole of a name or nothing: `pantry` never fits `pantry2`. An agent has several roles,
and `role=` fits one of them. An alternative of nothing but `!` is allowed alone (`!db1`: everybody but db1) and refused beside
others, because `web*,!web3` would mean everybody; what is meant is `web* !web3`.

Names are looked up, so that thousands of them cost no more than a few; of everything else there are few in one target.

Not responsible for which agents there are, nor for reading files of names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from holloway.protocols.control_plane.fields import MAX_TARGET_CHARS, NAME
from holloway.protocols.errors import LocalError

EVERYBODY = "all"
_GLOB = re.compile(r"[A-Za-z0-9._*?-]*(?:\[[A-Za-z0-9._!-]+\][A-Za-z0-9._*?-]*)*\Z")
_KEYS = ("app", "env", "role")
_WILD = frozenset("*?[")
MAX_STARS = 4
"""Stars of one glob: more tell nothing more, and cost time."""
MAX_PATTERNS = 128
"""Terms that every agent is held against: all those in alternatives that do not begin with whole names."""


@dataclass(frozen=True, slots=True)
class AgentRecord:
    """What targets look at. Application and environment may be empty."""

    name: str
    application: str = ""
    environment: str = ""
    roles: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Term:
    """One condition. `key` is `name`, `app`, `env`, `role` or `all`."""

    key: str
    glob: str
    is_negative: bool

    def fits(self, agent: AgentRecord) -> bool:
        """Whether it is true of the agent."""
        match self.key:
            case "all":
                values: tuple[str, ...] = ("",)
            case "name":
                values = (agent.name,)
            case "app":
                values = (agent.application,)
            case "env":
                values = (agent.environment,)
            case _:
                values = agent.roles
        if self.is_wild:
            return any(fnmatchcase(value, self.glob) for value in values) != self.is_negative
        return (self.glob in values) != self.is_negative

    @property
    def is_wild(self) -> bool:
        """Whether it is a glob, and no plain name."""
        return not _WILD.isdisjoint(self.glob)

    @property
    def is_one_node(self) -> bool:
        """Whether it can be true of one node alone."""
        return self.key == "name" and not self.is_negative and not self.is_wild


class Target:
    """A target that has been read: alternatives, of which one has to fit, each of terms that all have to."""

    def __init__(self, alternatives: Iterable[tuple[Term, ...]]) -> None:
        self._by_name: dict[str, list[tuple[Term, ...]]] = {}
        self._others: dict[tuple[Term, ...], None] = {}
        for terms in alternatives:
            distinct = tuple(dict.fromkeys(terms))
            name = next((term.glob for term in distinct if term.is_one_node), None)
            if name is None:
                self._others[distinct] = None
            else:
                self._by_name.setdefault(name, []).append(distinct)

    @property
    def patterns(self) -> int:
        """Terms that every agent is held against."""
        return sum(map(len, self._others))

    def fits(self, agent: AgentRecord) -> bool:
        """Whether the agent is meant."""
        named = self._by_name.get(agent.name, ())
        return any(all(term.fits(agent) for term in terms) for terms in (*named, *self._others))


def read_target(text: str) -> Target:
    """A target from its text. Raises LocalError that says what is wrong and how to write it."""
    if len(text) > MAX_TARGET_CHARS:
        raise _wrong(f"it has {len(text)} characters of {MAX_TARGET_CHARS}", "name a role instead of every node")
    alternatives = []
    for part in text.split(","):
        words = [word for word in part.split() if word != "and"]
        if not words:
            raise _wrong("a part of it is empty", f"write {EVERYBODY} for everybody")
        alternatives.append(tuple(map(_term, words)))
    if len(alternatives) > 1 and any(all(term.is_negative for term in terms) for terms in alternatives):
        raise _wrong("a comma means `or`, so what is excluded beside it excludes nobody", "write `web* !web3`")
    target = Target(alternatives)
    if target.patterns > MAX_PATTERNS:
        raise _wrong(
            f"it has {target.patterns} globs, roles and the like of {MAX_PATTERNS}", "name nodes, or a role they have"
        )
    return target


def narrowed(text: str, application: str = "", environment: str = "", roles: Iterable[str] = ()) -> str:
    """The target `text`, but only agents of that application, that environment and all these roles. Empty: any.

    Raises LocalError for what is no name.
    """
    terms = [("app", application), ("env", environment), *(("role", role) for role in roles)]
    extra = ""
    for key, value in terms:
        if value:
            if not NAME.match(value):
                raise _wrong(f"{value!r} is no {key}", "names have letters, digits, dots, dashes and underscores")
            extra += f" {key}={value}"
    return ",".join(part.strip() + extra for part in text.split(",")).strip()


def of_names(names: Iterable[str]) -> str:
    """The target that means exactly these nodes. Raises LocalError for what is no name, and when there are none."""
    named = list(dict.fromkeys(names))
    wrong = next((name for name in named if not NAME.match(name)), None)
    if wrong is not None or not named:
        raise _wrong("there is no name in the list" if wrong is None else f"{wrong[:80]!r} is no name of a node")
    return ",".join(named)


def _term(word: str) -> Term:
    is_negative = word.startswith("!")
    key, has_key, glob = word.removeprefix("!").rpartition("=")
    if has_key and key not in _KEYS:
        raise _wrong(f"nothing is called {key[:80]!r}", "there are app=, env= and role=, and names alone")
    if not glob or not _GLOB.match(glob) or glob.count("*") > MAX_STARS:
        raise _wrong(f"{word[:80]!r} is no name and no glob", "quote it from the shell, and leave out other characters")
    if not has_key and glob == EVERYBODY:
        return Term("all", "", is_negative)
    return Term(key or "name", glob, is_negative)


def _wrong(why: str, fix: str = "") -> LocalError:
    return LocalError("the target cannot be read", why, fix)
