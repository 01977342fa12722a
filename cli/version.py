"""`holloway version`: which Holloway, Python and cryptography these are."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

import click

from holloway.cli.printing import json_option, print_json

_PARTS = ("trio", "cryptography")


def version_of(distribution: str) -> str:
    """The installed version, or `unknown` when it runs from a source tree that was not installed."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "unknown"


@click.command()
@json_option
def command(as_json: bool) -> None:
    """Print the version."""
    parts = {name: version_of(name) for name in _PARTS}
    if as_json:
        own = version_of("holloway")
        print_json(
            {"schema": "holloway.version/1", "version": own, "python": platform.python_version(), "parts": parts}
        )
        return
    print(f"holloway {version_of('holloway')}")
    print(f"python {platform.python_version()}, {', '.join(f'{name} {each}' for name, each in parts.items())}")
