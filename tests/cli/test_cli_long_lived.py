"""What a daemon is made of is out of the garbage collector's way, and the memory of packets stays where it is."""

from __future__ import annotations

import gc
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from holloway.actors import Config, InterfaceConfig, NodeConfig, SessionConfig
from holloway.cli import up
from holloway.cli.long_lived import YOUNG_OBJECTS


async def test_a_node_that_is_up_leaves_little_to_collect(monkeypatch: pytest.MonkeyPatch) -> None:
    frozen, threshold = 0, gc.get_threshold()

    @asynccontextmanager
    async def opened(config: Config, loop: None) -> AsyncIterator[None]:
        yield

    async def stop() -> None:
        nonlocal frozen
        while not gc.get_freeze_count():  # noqa: ASYNC110
            await trio.sleep(0.01)
        frozen = gc.get_freeze_count()
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("holloway.actors.open_node", opened)
    config = Config(
        node=NodeConfig(name="a", network="home"),
        interface=InterfaceConfig(name="hw0"),
        session=SessionConfig(private_key=bytes(32)),
    )
    try:
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stop)
                assert await up._run(config) == signal.SIGTERM
        assert gc.get_threshold()[0] == YOUNG_OBJECTS
    finally:
        gc.unfreeze()
        gc.set_threshold(*threshold)
    assert frozen > 10_000


TURNS = """
import resource
from holloway.cli.long_lived import keep_heap

def turn():
    [bytes(60_000) for _ in range(24)]

def faults():
    for _ in range(10):
        turn()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(50):
        turn()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(faults(), keep_heap(), faults())
"""


def test_turn_after_turn_uses_the_same_memory() -> None:
    before, is_kept, after = subprocess.run(
        [sys.executable, "-c", TURNS], capture_output=True, text=True, check=True
    ).stdout.split()
    assert is_kept == "True"
    assert int(after) < 50 < int(before), "pages asked for in 50 turns"
