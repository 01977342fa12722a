"""What a daemon is made of is out of the garbage collector's way, and the memory of packets stays where it is."""

from __future__ import annotations

import gc
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from holloway.actors import Config, InterfaceConfig, NodeConfig, SessionConfig
from holloway.cli import long_lived, up
from holloway.cli.long_lived import YOUNG_OBJECTS, join_pages


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


PAGES = """
import re
from pathlib import Path
from holloway.cli.long_lived import join_pages

def huge():
    rollup = Path("/proc/self/smaps_rollup").read_text()
    return [int(re.search(name + r": +(\\d+) kB", rollup)[1]) for name in ("AnonHugePages", "Rss")]

kept = [bytes(500) for _ in range(100_000)]
before, resident = huge()
joined = join_pages()
after, resident_after = huge()
print(joined, (after - before) // 2048, resident_after - resident, len(set(kept)))
"""


def test_what_is_there_lies_in_few_pages_and_takes_little_more() -> None:
    told = subprocess.run([sys.executable, "-c", PAGES], capture_output=True, text=True, check=True).stdout
    joined, found, more_kib, kinds = map(int, told.split())
    assert joined >= found >= joined - 1
    assert joined > 15, "of the 50 MB"
    assert more_kib < 8 * 1024
    assert kinds == 1


def test_where_the_kernel_has_no_such_pages_nothing_is_joined(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(long_lived, "MADV_COLLAPSE", 2_000_000)
    assert join_pages() == 0
    monkeypatch.setattr(long_lived, "MAPS", tmp_path / "missing")
    assert join_pages() == 0


def test_a_name_of_a_file_that_is_no_text_is_passed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    maps = tmp_path / "smaps"
    maps.write_bytes(b"7f0000000000-7f0000001000 rw-p 00000000 08:01 77 /tmp/\xff\nSize: 4 kB\nRss: 4 kB\n")
    monkeypatch.setattr(long_lived, "MAPS", maps)
    assert join_pages() == 0
