"""From a file, the environment and flags to a `Config`, or to every problem at once.

Only the value in force of each key is judged, but every unknown key is reported. Not responsible for the contents of key
files: `holloway.actors.secrets` reads those.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from holloway.actors.config.documents import read_document
from holloway.actors.config.fields import Absent, Field, Section
from holloway.actors.config.kinds import Reading, UnfitError, nearest, type_word
from holloway.actors.config.model import Config
from holloway.actors.config.peer_files import with_peer_files
from holloway.actors.config.problems import ConfigProblems, KeyPath, Problem, by_place, format_key
from holloway.actors.config.rules import Values, broken_rules
from holloway.actors.config.schema import BY_NAME, SECRET_KEYS, SECTIONS
from holloway.actors.config.sockets import default_socket
from holloway.actors.config.sources import Given, Setting, Source, Sources, home_of
from holloway.actors.config.values import config_from_values

NOTHING: Mapping[str, Any] = MappingProxyType({})
_ALIKE = 0.8  # difflib ratio above which a misspelling is likelier than a key of another section


@dataclass(frozen=True, slots=True)
class Examined:
    """What one look at a configuration found: every problem; every setting in force; and `config`, which is there
    exactly when there are no problems. `lines` are those of the file."""

    path: Path
    config: Config | None
    problems: tuple[Problem, ...]
    settings: tuple[Setting, ...]
    lines: Mapping[str, int]


def load_config(
    path: Path, *, environ: Mapping[str, str] = NOTHING, overrides: Mapping[str, object] = NOTHING
) -> Config:
    """The configuration in `path`, with `HOLLOWAY_*` variables of `environ` and then `overrides` laid over it.

    `overrides` maps keys such as `"interface.mtu"` to values, native or as text; relative paths in both start at the
    working folder, those of the file at its own. `environ` also decides the default control socket. Raises
    ConfigProblems with everything that is wrong; from a PermissionError if the file may not be read.
    """
    examined = examine_config(path, environ=environ, overrides=overrides)
    if examined.config is None:
        raise ConfigProblems(examined.problems, path)
    return examined.config


def examine_config(
    path: Path, *, environ: Mapping[str, str] = NOTHING, overrides: Mapping[str, object] = NOTHING
) -> Examined:
    """As `load_config`, but gives problems and settings back together.

    Raises ConfigProblems only for a file that cannot be read, or not be parsed at all.
    """
    return _Load(_with_peers(Sources(read_document(path), environ, overrides))).examine()


def _with_peers(sources: Sources) -> Sources:
    """The same with the peers that have files of their own."""
    node, key = BY_NAME["node"], "peers_directory"
    field = next(each for each in node.fields if each.key == key)
    table = sources.document.tree.get(node.name, NOTHING)
    given = sources.winner(node, field, table if isinstance(table, Mapping) else NOTHING, (node.name,))
    if given is None or not isinstance(given.value, str | Path):
        return sources
    return replace(sources, document=with_peer_files(sources.document, given.folder / given.value))


class _Load:
    """One load: the sources, and what has been found so far."""

    def __init__(self, sources: Sources) -> None:
        self.sources = sources
        self.document = sources.document
        self.problems: list[Problem] = list(self.document.problems)
        self.given: dict[KeyPath, Given] = {}
        self.settings: dict[KeyPath, Setting] = {}

    def examine(self) -> Examined:
        self._unknown_sections()
        values: Values = {}
        for each in SECTIONS:
            if each.repeated:
                values[each.name] = [self._section(each, table, key) for key, table in self._tables(each)]
            else:
                values[each.name] = self._section(each, self._table(each), (each.name,))
        self._default_socket(values)
        for name, fix in self.sources.unknown_variables():
            self.problems.append(Problem(None, None, name, "unknown variable", fix))
        for name, fix in self.sources.unknown_overrides():
            self.problems.append(Problem(None, None, name, "unknown key on the command line", fix))
        for finding in broken_rules(values, self._where):
            self._report(finding.key, finding.what, finding.fix)
        return Examined(
            path=self.document.path,
            config=None if self.problems else config_from_values(values, self.document.path),
            problems=by_place(self.problems),
            settings=tuple(self.settings.values()),
            lines={format_key(key): line for key, line in self.document.lines.items()},
        )

    def _unknown_sections(self) -> None:
        names = [each.name for each in SECTIONS]
        for name, content in self.document.tree.items():
            if name in names:
                continue
            if isinstance(content, (dict, list)):
                close = nearest(name, names)
                fix = f"did you mean [{close}]?" if close else f"use {', '.join(names)}"
                self._report((name,), "unknown section", fix)
            else:
                self._report((name,), "a key outside any section", f"write it under {home_of(name) or 'its section'}")

    def _table(self, each: Section) -> Mapping[str, object]:
        table = self.document.tree.get(each.name, NOTHING)
        if isinstance(table, Mapping):
            return table
        what = "there is only one" if isinstance(table, list) else f"expected a section, found {type_word(table)}"
        self._report((each.name,), what, f"write it as {each.heading}, once")
        return NOTHING

    def _tables(self, each: Section) -> Iterator[tuple[KeyPath, Mapping[str, object]]]:
        tables = self.document.tree.get(each.name, [])
        if not isinstance(tables, list):
            self._report((each.name,), "there may be several", f"write it as {each.heading}")
            return
        for position, table in enumerate(tables):
            key: KeyPath = (each.name, position)
            if isinstance(table, Mapping):
                yield key, table
            else:
                self._report(key, f"expected a section, found {type_word(table)}", f"write it as {each.heading}")

    def _section(self, each: Section, table: Mapping[str, object], path: KeyPath) -> Values:
        values: Values = {}
        self._unknown_keys(each, table, path)
        if each.optional and not self.sources.sets(each):
            return values
        for field in each.fields:
            key = (*path, field.key)
            given = self.sources.winner(each, field, table, path)
            if given is not None:
                self.given[key] = given
                self._judge(field, given, values)
            elif field.unless and self.sources.sets(BY_NAME[field.unless]):
                values[field.key] = ()
            elif field.default is Absent.REQUIRED:
                self._report(key, "missing", f"add: {field.key} = {field.example}")
            elif field.default is not Absent.COMPUTED:
                values[field.key] = field.default
                self.settings[key] = Setting(key, field.default, Source.DEFAULT, "")
        return values

    def _unknown_keys(self, each: Section, table: Mapping[str, object], path: KeyPath) -> None:
        known = [field.key for field in each.fields]
        for key in table:
            if key in known:
                continue
            if key in SECRET_KEYS:
                file_key = SECRET_KEYS[key]
                fix = f"put it in a file and name that as {file_key} under {home_of(file_key)}"
                self._report((*path, key), "secrets are read from files only", fix)
                continue
            if close := nearest(key, known, _ALIKE):
                fix = f"did you mean {close}?"
            elif home := home_of(key):
                fix = f"it belongs under {home}"
            elif close := nearest(key, known):
                fix = f"did you mean {close}?"
            else:
                fix = f"use {', '.join(known)}"
            self._report((*path, key), "unknown key", fix)

    def _judge(self, field: Field, given: Given, values: Values) -> None:
        try:
            value = field.kind.read(given.value, Reading(given.folder))
        except UnfitError as error:
            for fault in error.faults:
                self._report((*given.key, *fault.within), fault.what, fault.fix)
        else:
            values[field.key] = value
            self.settings[given.key] = Setting(given.key, value, given.source, given.detail)

    def _default_socket(self, values: Values) -> None:
        key: KeyPath = ("control", "socket")
        interface = values["interface"].get("name")
        # Without a usable interface name there is a problem already, and nothing to name the socket after.
        if key not in self.given and interface is not None:
            value = default_socket(interface, self.sources.environ)
            self.given[key] = Given(key, value, Source.DEFAULT, "", Path())
            self._judge(BY_NAME["control"].fields[0], self.given[key], values["control"])

    def _report(self, key: KeyPath, what: str, fix: str) -> None:
        """Notes a problem where its value came from; a key that has no line of its own has its section's."""
        given = self.given.get(key[:2])
        if given is None or given.source in (Source.FILE, Source.DEFAULT):
            self.problems.append(Problem(self.document.path_of(key), self._line(key), format_key(key), what, fix))
        elif given.source is Source.ENVIRONMENT:
            self.problems.append(Problem(None, None, format_key((given.detail, *key[2:])), what, fix))
        else:
            self.problems.append(Problem(None, None, f"{format_key(key)} ({given.source.value})", what, fix))

    def _line(self, key: KeyPath) -> int | None:
        while key and key not in self.document.lines:
            key = key[:-1]
        return self.document.lines.get(key)

    def _where(self, key: KeyPath) -> str:
        given = self.given.get(key[:2])
        line = self._line(key)
        return f" (line {line})" if line is not None and (given is None or given.source is Source.FILE) else ""
