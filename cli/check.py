"""`holloway check`: every problem of a configuration file and of the secrets it names. Not responsible for finding them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click

from holloway.actors.config import ConfigProblems, Examined, Problem, examine_config
from holloway.actors.config.problems import by_place
from holloway.actors.secrets import examine_secret_files
from holloway.cli.exit_codes import ExitCode
from holloway.cli.plain_text import one_line
from holloway.cli.printing import json_option, print_json

_MAX_PROBLEM_CHARS = 1000


@click.command()
@click.argument("file", required=False)
@click.option("-c", "--config", metavar="FILE", help="The same as the argument.")
@json_option
def command(file: str | None, config: str | None, as_json: bool) -> None:
    """Name every problem of a configuration file.

    Looks at the keys, their values and how they fit together, at the HOLLOWAY_* variables, and at the files with secrets:
    whether they are there, of the right form and closed to others. Exits with 4 if there is any problem.
    """
    name = file if config is None else config
    if name is None or (file is not None and config is not None):
        raise click.UsageError("name one configuration file", click.get_current_context())
    path = Path(name)
    code: int = ExitCode.CONFIG
    examined: Examined | None = None
    secrets: list[Path] = []
    try:
        examined = examine_config(path, environ=os.environ)
    except ConfigProblems as error:
        problems = error.problems
        if isinstance(error.__cause__, PermissionError):
            code = ExitCode.PERMISSION
    else:
        found = examine_secret_files(examined, environ=os.environ)
        secrets = found.files
        problems = by_place([*examined.problems, *found.problems])
        if examined.config is not None and examined.config.dtls is not None:
            from holloway.actors.dtls_credentials import file_problems

            secrets = [*secrets, examined.config.dtls.key_file]
            in_files = [replace(each, line=examined.lines.get(each.key)) for each in file_problems(examined.config)]
            problems = by_place([*problems, *in_files])
    if as_json:
        print_json(_document(path, problems, secrets, examined))
    else:
        _print(path, problems, secrets, examined)
    if problems:
        raise click.exceptions.Exit(code)


def _print(path: Path, problems: Sequence[Problem], secrets: list[Path], examined: Examined | None) -> None:
    for problem in problems:
        print(one_line(problem, _MAX_PROBLEM_CHARS))
    if problems:
        print(f"{len(problems)} problem{'s' if len(problems) > 1 else ''}")
    elif examined is not None and examined.config is not None:
        peers = len(examined.config.peers)
        print(one_line(f"{path}: ok"))
        print(f"  checked: {len(examined.settings)} settings, {peers} static peer{'' if peers == 1 else 's'}")
        print(f"  secrets: {one_line(', '.join(str(each) for each in secrets))}, closed to others")


def _document(
    path: Path, problems: Sequence[Problem], secrets: list[Path], examined: Examined | None
) -> dict[str, object]:
    return {
        "schema": "holloway.check/1",
        "file": str(path),
        "ok": not problems,
        "problems": [
            {
                "file": None if each.path is None else str(each.path),
                "line": each.line,
                "key": each.key,
                "what": each.what,
                "fix": each.fix,
            }
            for each in problems
        ],
        "checked": {
            "settings": 0 if examined is None else len(examined.settings),
            "secrets": [str(each) for each in secrets],
        },
    }
