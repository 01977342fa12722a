"""`holloway audit`: whether an audit trail is whole. Not responsible for writing one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from holloway.cli.exit_codes import ExitCode
from holloway.cli.failures import CommandFailedError
from holloway.cli.groups import SuggestingGroup
from holloway.cli.printing import json_option, print_json

SCHEMA = "holloway.audit/1"


@click.group(cls=SuggestingGroup)
def command() -> None:
    """Check the audit trail of a broker or an agent."""


@command.command()
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@json_option
def verify(files: tuple[Path, ...], as_json: bool) -> int:
    """Check that no line of a trail was changed, left out or put in.

    Several files are one trail, in the order given: audit-N.jsonl by their numbers, audit.jsonl last. Exit code 0 only if all is well. Who can write the
    whole file can write another whole trail: keep the last hash elsewhere.
    """
    from holloway.protocols.control_plane.audit_chain import verify as verify_lines

    verdict = verify_lines(_lines(files))
    if as_json:
        document: dict[str, object] = {
            "schema": SCHEMA,
            "lines": verdict.lines,
            "first": verdict.first,
            "last": verdict.head.number,
            "hash": verdict.head.digest,
            "line": verdict.line,
            "flaw": None if verdict.flaw is None else verdict.flaw.value,
        }
        print_json(document)
        return ExitCode.OK if verdict.flaw is None else ExitCode.FAILED
    if verdict.flaw is not None:
        raise CommandFailedError(
            f"the trail is not whole at line {verdict.line}",
            verdict.flaw.value,
            f"compare with a copy; up to entry {verdict.head.number} it is as it was written",
        )
    print(
        f"{verdict.lines} lines, entries {verdict.first} to {verdict.head.number}: whole; last hash {verdict.head.digest}"
    )
    return ExitCode.OK


def _lines(files: tuple[Path, ...]) -> Iterator[bytes]:
    from holloway.protocols.control_plane.audit_chain import MAX_LINE_BYTES

    for path in files:
        try:
            with path.open("rb") as file:
                while line := file.readline(MAX_LINE_BYTES + 1):
                    yield line
        except OSError as error:
            raise CommandFailedError(
                f"cannot read {path}", error.strerror or str(error), "name another file"
            ) from error
