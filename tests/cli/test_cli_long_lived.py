"""What a daemon is made of is out of the garbage collector's way."""

from __future__ import annotations

import gc
import signal
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
    async def opened(config: Config) -> AsyncIterator[None]:
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
