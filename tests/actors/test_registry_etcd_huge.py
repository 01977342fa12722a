"""Values in etcd that no node could have written, and more of them than anybody should read: both have a bound."""

from __future__ import annotations

import time

import pytest
from etcd_servers import fresh_prefix, needs_etcd, shared_server

from holloway.actors.registry import open_registry
from holloway.actors.registry.limits import VALUE_BYTES_MAX
from holloway.protocols.errors import RegistryError

pytestmark = needs_etcd


async def test_of_a_value_that_is_too_long_no_more_is_kept_than_shows_it() -> None:
    place = fresh_prefix()[:-1]
    async with open_registry(shared_server().url(place), wall_ns=time.time_ns) as registry:
        shared_server().put(f"{place}k".encode(), b"x" * 1_400_000)
        entry = (await registry.snapshot(b"k")).entries[b"k"]
        assert len(entry.value) == VALUE_BYTES_MAX + 1
        async with registry.watch(b"k", entry.mod_revision - 1) as watch:
            (change,) = await watch.receive()
        assert change.entry == entry


async def test_more_than_anybody_should_read_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holloway.actors.registry.etcd.SNAPSHOT_BYTES_MAX", 20_000)
    monkeypatch.setattr("holloway.actors.registry.etcd.PAGE_ENTRIES", 4)
    place = fresh_prefix()[:-1]
    async with open_registry(shared_server().url(place), wall_ns=time.time_ns) as registry:
        for number in range(12):
            shared_server().put(f"{place}k{number}".encode(), b"x" * 3000)
        with pytest.raises(RegistryError, match="too big") as caught:
            await registry.snapshot(b"k")
        assert "etcdctl get" in caught.value.fix
        assert len((await registry.snapshot(b"k1")).entries) == 3
