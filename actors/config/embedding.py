"""Judging a configuration that a program built without a file. Not responsible for reading files: see `loading`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from holloway.actors.config.fields import Field
from holloway.actors.config.kinds import Reading, UnfitError
from holloway.actors.config.kinds_network import KEY_BYTES
from holloway.actors.config.model import Config
from holloway.actors.config.problems import ConfigProblems, KeyPath, Problem, format_key
from holloway.actors.config.rules import Finding, Values, broken_rules
from holloway.actors.config.schema import SECTIONS
from holloway.actors.config.values import values_from_config

_READING = Reading(Path(), embedded=True)


def verify_config(config: Config) -> None:
    """Raises ConfigProblems naming everything that a file with these values would be refused for, and secrets that are
    given twice, not at all, or with the wrong length. A configuration from `load_config` always passes."""
    problems = [
        Problem(config.path, None, format_key(finding.key), finding.what, finding.fix) for finding in _findings(config)
    ]
    if problems:
        raise ConfigProblems(problems, config.path)


def _findings(config: Config) -> Iterator[Finding]:
    values = values_from_config(config)
    for each in SECTIONS:
        tables: list[tuple[KeyPath, Values]]
        if each.repeated:
            tables = [((each.name, position), table) for position, table in enumerate(values[each.name])]
        else:
            tables = [((each.name,), values[each.name])]
        for path, table in tables:
            for field in each.fields:
                is_left_out = field.unless and values[field.unless] and table.get(field.key) == ()
                if table.get(field.key) is not None and not is_left_out:
                    yield from _judge((*path, field.key), field, table)
    yield from broken_rules(values, lambda key: "")
    yield from _secrets(config)


def _judge(key: KeyPath, field: Field, table: Values) -> Iterator[Finding]:
    """Judges one value and takes it out of the table when it does not fit, so that the rules keep quiet about it."""
    try:
        field.kind.read(table[field.key], _READING)
    except UnfitError as error:
        del table[field.key]
        for fault in error.faults:
            yield Finding((*key, *fault.within), fault.what, fault.fix)


def _secrets(config: Config) -> Iterator[Finding]:
    session = config.session
    key: KeyPath = ("session", "private_key")
    if (session.private_key is None) == (session.private_key_file is None):
        what = "missing" if session.private_key is None else "given both as bytes and as a file"
        yield Finding(key, what, "give either private_key or private_key_file")
    elif session.private_key is not None and len(session.private_key) != KEY_BYTES:
        yield Finding(key, f"{len(session.private_key)} bytes, not {KEY_BYTES}", "give the raw key")
    if session.passphrase is not None and session.passphrase_file is not None:
        yield Finding(("session", "passphrase"), "given both as bytes and as a file", "give one of them")
    elif session.passphrase == b"":
        yield Finding(("session", "passphrase"), "empty", "give None for a network without one")
    for position, peer in enumerate(config.peers):
        key = ("peer", position, "preshared_key")
        if peer.preshared_key is None:
            continue
        if peer.preshared_key_file is not None:
            yield Finding(key, "given both as bytes and as a file", "give one of them")
        elif len(peer.preshared_key) != KEY_BYTES:
            yield Finding(key, f"{len(peer.preshared_key)} bytes, not {KEY_BYTES}", "give the raw key")
