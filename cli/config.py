"""`holloway config`: what a configuration comes to, and what can be in one. Secrets appear as the paths of their files."""

from __future__ import annotations

import os
from pathlib import Path

import click

from holloway.actors.config import ConfigProblems, Setting, examine_config
from holloway.cli.groups import SuggestingGroup
from holloway.cli.plain_text import one_line
from holloway.cli.printing import json_option, print_json

_MAX_VALUE_CHARS = 100_000
_MAX_COLUMN = 60  # at which origins stop being lined up


@click.group(cls=SuggestingGroup)
def command() -> None:
    """Show or explain the configuration."""


@command.command()
@click.option("-c", "--config", metavar="FILE", required=True, help="The configuration file.")
@click.option("--origin", is_flag=True, help="Tell where each value came from.")
@json_option
def show(config: str, origin: bool, as_json: bool) -> None:
    """Print every setting in force.

    Flags, HOLLOWAY_* variables, the file and the defaults are laid over one another; what is printed is TOML again.
    """
    path = Path(config)
    examined = examine_config(path, environ=os.environ)
    if examined.config is None:
        raise ConfigProblems(examined.problems, path)
    if as_json:
        print_json(_document(path, examined.settings))
        return
    for line in _lines(examined.settings, origin=origin):
        print(line)


@command.command()
def docs() -> None:
    """Print the reference of every section and key, as Markdown."""
    from holloway.actors.config.reference import reference

    print(reference(), end="")


def _document(path: Path, settings: tuple[Setting, ...]) -> dict[str, object]:
    from holloway.actors.config.problems import format_key
    from holloway.actors.config.reference import plain_value

    return {
        "schema": "holloway.config/1",
        "file": str(path),
        "settings": [
            {
                "key": format_key(each.key),
                "value": plain_value(each.value),
                "source": each.source.value,
                "origin": each.detail or None,
            }
            for each in settings
        ],
    }


def _lines(settings: tuple[Setting, ...], *, origin: bool) -> list[str]:
    from holloway.actors.config.reference import toml_value

    lines: list[str] = []
    section: tuple[str | int, ...] = ()
    shown = [
        (each, f"{each.key[-1]} = {one_line(toml_value(each.value), _MAX_VALUE_CHARS)}")
        for each in settings
        if each.value is not None
    ]
    width = min(max(len(text) for _, text in shown), _MAX_COLUMN)
    for each, text in shown:
        if each.key[:-1] != section:
            section = each.key[:-1]
            lines += [""] if lines else []
            lines.append(f"[{section[0]}]" if len(section) == 1 else f"[[{section[0]}]]")
        comment = one_line(f"# {each.detail or each.source.value}")
        lines.append(f"{text:<{width}}  {comment}" if origin else text)
    return lines
