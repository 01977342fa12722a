"""How results are printed: JSON, tables, colour, and the units people read.

rich is imported only when a table is printed. Without colour no escape sequence is written at all. Not responsible for
what is printed, nor for making foreign text safe: that has happened in `plain_text`.
"""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click

from holloway.cli.plain_text import Json

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

STATE_STYLES = {"ok": "green", "handshaking": "yellow", "stale": "yellow", "down": "red"}
_UNBOUNDED_COLUMNS = 100_000  # of a table that is not for a terminal: nothing is cut off or wrapped


def json_option(function: Decorated) -> Decorated:
    """`--json` of a verb that reads."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON; its schema is in docs/schemas.")(function)


def color_option(function: Decorated) -> Decorated:
    """`--color` of a verb that prints a table."""
    return click.option(
        "--color",
        type=click.Choice(["auto", "always", "never"]),
        default="auto",
        help="Colour; auto is a terminal without NO_COLOR.",
    )(function)


def say(line: str) -> None:
    """Something for the person at the terminal: the result may go elsewhere."""
    print(line, file=sys.stderr)


def print_json(value: Json | Mapping[str, Any]) -> None:
    """One JSON document on one line, at once; characters beyond ASCII are escaped, and so harmless to a terminal."""
    print(json.dumps(value, allow_nan=False), flush=True)


def wants_color(choice: str, environ: Mapping[str, str]) -> bool:
    """Whether to colour: as asked, or on a terminal that is not dumb, unless NO_COLOR is set (no-color.org)."""
    if choice == "auto":
        return sys.stdout.isatty() and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"
    return choice == "always"


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]], *, styles: Sequence[str], color: bool) -> None:
    """Prints rows under headings, cut to the width of a terminal and never cut elsewhere.

    `styles` has a style for each row, which its cell under STATE takes when `color` is on.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold" if color else "")
    for heading in headings:
        table.add_column(Text(heading), no_wrap=True)
    for row, style in zip(rows, styles, strict=True):
        cells = [
            Text(cell, style if color and name == "STATE" else "") for cell, name in zip(row, headings, strict=True)
        ]
        table.add_row(*cells)
    text = io.StringIO()
    Console(
        file=text,
        width=shutil.get_terminal_size().columns if sys.stdout.isatty() else _UNBOUNDED_COLUMNS,
        force_terminal=color,
        color_system="standard" if color else None,
        legacy_windows=False,
        _environ={},
    ).print(table)
    for line in text.getvalue().splitlines():
        print(line.rstrip())


def duration(seconds: float) -> str:
    """`12s`, `3m`, `3h12m`, `5d4h`."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60}m"
    return f"{whole // 86400}d{whole % 86400 // 3600}h"


def ago(seconds: float | None) -> str:
    """The age of something that may never have happened."""
    return "never" if seconds is None else f"{duration(seconds)} ago"


def size(count: int) -> str:
    """`310 B`, `12.1 KiB`, `1.2 GiB`."""
    if count < 1024:
        return f"{count} B"
    value = float(min(count, 1 << 80))
    for unit in ("KiB", "MiB", "GiB"):
        value /= 1024
        if value < 1024:
            return f"{value:.1f} {unit}"
    return f"{value / 1024:.1f} TiB"


def milliseconds(value: float | None) -> str:
    """`0.45ms`, `12.3ms`, or `-`."""
    if value is None:
        return "-"
    return f"{value:.2f}ms" if value < 10 else f"{value:.1f}ms"


def counters(drops: Mapping[str, int]) -> str:
    """`no_route 3, replay 1`: the largest first, without zeros; `none`."""
    some = sorted(((count, reason) for reason, count in drops.items() if count), key=lambda each: (-each[0], each[1]))
    return ", ".join(f"{reason} {count}" for count, reason in some) or "none"
