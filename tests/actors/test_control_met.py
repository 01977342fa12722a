"""What is remembered of brokers that have let us in: a hint for people, which no file can make an error of."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from holloway.actors.control_plane.met import FRESH_S, MAX_PLACES, met_before, note_meeting

AT = 1_700_000_000.0


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "keys.yml"
    path.write_text("")
    return path


def test_a_meeting_is_one_of_that_key_at_that_place(keys: Path) -> None:
    note_meeting(keys, "a:1", "KEY", AT)
    assert met_before(keys, "a:1", "KEY") == "on 2023-11-14 at 22:13 UTC"
    assert met_before(keys, "a:2", "KEY") == met_before(keys, "a:1", "OTHER") == ""
    note_meeting(keys, "a:1", "KEY", AT + FRESH_S - 1)
    assert met_before(keys, "a:1", "KEY") == "on 2023-11-14 at 22:13 UTC", "not written again so soon"
    note_meeting(keys, "a:1", "KEY", AT + FRESH_S)
    assert met_before(keys, "a:1", "KEY") == "on 2023-11-14 at 23:13 UTC"


def test_the_oldest_meetings_are_forgotten(keys: Path) -> None:
    meetings = {f"a:{number} KEY": AT + number for number in range(MAX_PLACES)}
    keys.with_name("keys.yml.met").write_text(json.dumps(meetings))
    note_meeting(keys, f"a:{MAX_PLACES}", "KEY", AT + MAX_PLACES)
    assert met_before(keys, "a:0", "KEY") == ""
    assert met_before(keys, "a:1", "KEY") != ""


@pytest.mark.parametrize("said", [b"", b"[]", b"{", b"\xff", b'{"a:1 KEY": "x"}', b'{"a:1 KEY": 1e999}', b"[" * 70_000])
def test_whatever_stands_in_the_file_nothing_is_known(keys: Path, said: bytes) -> None:
    keys.with_name("keys.yml.met").write_bytes(said)
    assert met_before(keys, "a:1", "KEY") == ""
    note_meeting(keys, "a:1", "KEY", AT)
    assert met_before(keys, "a:1", "KEY") != ""


def test_beside_a_key_file_that_is_not_there_nothing_is_written(tmp_path: Path) -> None:
    note_meeting(tmp_path / "none.yml", "a:1", "KEY", AT)
    assert list(tmp_path.iterdir()) == []
