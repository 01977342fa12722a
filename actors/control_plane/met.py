"""Which brokers have let us in, where, with which key, and when: so that one that has been replaced is not taken for one that was never right.

A small file beside the key file, written after a connection that worked. It is no proof of anything and nothing is trusted because of it:
without it people are told less. Not responsible for connections.
"""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from holloway.actors.state_directory import StateDirectory
from holloway.protocols.errors import HollowayError

MAX_BYTES = 64 * 1024
MAX_PLACES = 200
FRESH_S = 3600.0
"""A meeting that is younger is not written down once more."""
_SUFFIX = ".met"


def met_before(keys: Path, place: str, public_key: str) -> str:
    """When, for people, the broker with that key last let us in at that place; empty when it never has, or nobody knows."""
    at = _read(keys).get(f"{place} {public_key}")
    return "" if at is None else datetime.fromtimestamp(int(at), UTC).strftime("on %Y-%m-%d at %H:%M UTC")


def note_meeting(keys: Path, place: str, public_key: str, wall: float) -> None:
    """It has let us in. What the disk refuses is not noted, nor is anything beside a key file that is not there."""
    if not keys.is_file():
        return
    meetings = _read(keys)
    key = f"{place} {public_key}"
    if 0 <= wall - meetings.get(key, 0.0) < FRESH_S:
        return
    meetings[key] = wall
    latest = dict(sorted(meetings.items(), key=lambda item: item[1])[-MAX_PLACES:])
    with suppress(HollowayError, OSError):
        StateDirectory(keys.parent).write(keys.name + _SUFFIX, json.dumps(latest))


def _read(keys: Path) -> dict[str, float]:
    try:
        with keys.with_name(keys.name + _SUFFIX).open("rb") as file:
            said = json.loads(file.read(MAX_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(said, dict):
        return {}
    return {key: float(at) for key, at in said.items() if isinstance(at, int | float) and 0 <= at < 2**33}
