"""Races for addresses on a real etcd, and on a real file."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from etcd_servers import etcd_server, fresh_prefix, needs_etcd, shared_server
from member_site import Site, address_of, race

from holloway.actors import Node
from holloway.actors.registry import RegistryPort, open_registry

ROUNDS = 200
NODES = 50


@needs_etcd
async def test_of_two_that_want_one_address_in_etcd_one_has_it() -> None:
    await race(shared_server().url(fresh_prefix()[:-1]), rounds=5, wall_ns=time.time_ns)


@pytest.mark.soak
@needs_etcd
async def test_of_two_that_want_one_address_in_etcd_one_has_it_in_every_round() -> None:
    with etcd_server() as server:
        await race(server.url("/races"), rounds=ROUNDS, wall_ns=time.time_ns)


@pytest.mark.soak
async def test_of_two_that_want_one_address_in_a_file_one_has_it_in_every_round(tmp_path: Path) -> None:
    await race(f"sqlite://{tmp_path / 'races.db'}", rounds=ROUNDS, wall_ns=time.time_ns)


@pytest.mark.soak
@needs_etcd
async def test_fifty_nodes_at_once_have_fifty_addresses_and_know_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, nodes = Site(tmp_path), list[Node]()
    with etcd_server() as server:

        @asynccontextmanager
        async def opened(*_: Any, **__: Any) -> AsyncIterator[RegistryPort]:
            async with open_registry(server.url("/fifty"), wall_ns=time.time_ns) as registry:
                yield registry

        monkeypatch.setattr("holloway.actors.node.open_registry", opened)
        async with trio.open_nursery() as nursery:

            async def live(number: int) -> None:
                async with site.node(number) as node:
                    nodes.append(node)
                    await trio.sleep_forever()

            began = time.monotonic()
            for number in range(1, NODES + 1):
                nursery.start_soon(live, number)
            with trio.fail_after(300):
                while len(nodes) < NODES:  # noqa: ASYNC110
                    await trio.sleep(0.05)
                up_s = time.monotonic() - began
                while min(len(each.roster.plan.peers) for each in nodes) < NODES - 1:  # noqa: ASYNC110
                    await trio.sleep(0.05)
            known_s = time.monotonic() - began
            addresses = {address_of(each) for each in nodes}
            print(f"{NODES} nodes up after {up_s:.1f} s, each knows all others after {known_s:.1f} s")
            assert len(addresses) == NODES
            nursery.cancel_scope.cancel()
