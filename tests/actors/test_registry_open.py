"""From a registry URL to an open handle."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from holloway.actors.registry import MemoryRegistry, open_registry
from holloway.protocols.errors import ConfigError, RegistryError


async def test_memory_url_opens_the_store_it_is_given() -> None:
    store = MemoryRegistry()
    async with (
        open_registry("memory:", wall_ns=time.time_ns, memory=store) as one,
        open_registry("memory:", wall_ns=time.time_ns, memory=store) as two,
    ):
        await one.put(b"k", b"v")
        assert list((await two.snapshot(b"")).entries) == [b"k"]
    with pytest.raises(RegistryError, match="closed"):
        await one.snapshot(b"")


async def test_memory_url_alone_is_a_store_of_its_own() -> None:
    async with open_registry("memory:", wall_ns=time.time_ns) as one:
        await one.put(b"k", b"v")
        async with open_registry("memory:", wall_ns=time.time_ns) as two:
            assert (await two.snapshot(b"")).entries == {}


@pytest.mark.parametrize("slashes", ["sqlite://", "SQLite://", "sqlite:///"])
async def test_sqlite_url_opens_the_file_it_names(tmp_path: Path, slashes: str) -> None:
    async with open_registry(f"{slashes}{tmp_path}/a%20%3F.db", wall_ns=time.time_ns) as registry:
        await registry.put(b"k", b"v")
    assert (tmp_path / "a ?.db").is_file()
    with pytest.raises(RegistryError, match="closed"):
        await registry.snapshot(b"")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "etcd",
        "etcdd://localhost",
        "/var/lib/net.db",
        "memory",
        "memory:x",
        "memory://",
        "sqlite:",
        "sqlite://",
        "sqlite:///",
        "sqlite:net.db",
        "sqlite://net.db",
        "sqlite://host/net.db",
        "sqlite:///var/lib/",
        "sqlite:///net.db?mode=ro",
        "sqlite:///net.db#x",
        "sqlite:///net%00.db",
        "sqlite://[/net.db",
    ],
)
def test_url_that_means_nothing_is_refused_at_once_with_the_way_to_write_it(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_registry(url, wall_ns=time.time_ns)
    assert repr(url) in caught.value.what
    assert caught.value.why
    assert "sqlite:///" in caught.value.fix or "memory:" in caught.value.fix


def test_sqlite_is_loaded_only_by_who_uses_it() -> None:
    code = (
        "import sys, time, holloway.actors.registry as r; r.open_registry('memory:', wall_ns=time.time_ns);"
        "print('sqlite3' in sys.modules);"
        "r.open_registry('sqlite:///nowhere', wall_ns=time.time_ns); print('sqlite3' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout.split() == [
        b"False",
        b"True",
    ]
