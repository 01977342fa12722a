"""The public surface of each room: every name loads, nothing else does, and loading the room alone costs little."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest

ROOMS = ("protocols", "supervisor", "actors")


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_is_there_once(room: str) -> None:
    module = import_module(f"holloway.{room}")
    assert module.__all__
    assert len(set(module.__all__)) == len(module.__all__)
    for name in module.__all__:
        assert getattr(module, name) is not None


@pytest.mark.parametrize("room", ROOMS)
def test_a_name_that_is_not_public_is_an_attribute_error(room: str) -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = import_module(f"holloway.{room}").no_such_name


@pytest.mark.parametrize("room", ["protocols", "actors"])
def test_a_room_alone_loads_nothing_heavy(room: str) -> None:
    code = (
        f"import sys, holloway.{room}; print(*(sys.modules.keys() & {{'trio', 'cryptography', 'asyncio', 'sqlite3'}}))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
