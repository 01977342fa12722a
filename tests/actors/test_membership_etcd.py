"""Nodes that meet in a real etcd: one is killed, and the server falls silent."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import trio
from etcd_servers import EtcdServer, fresh_prefix, needs_etcd, shared_server
from node_world import World, config, crosses, name, packet

from holloway.actors import Node, RegistryConfig
from holloway.actors.registry import RegistryPort, open_registry

pytestmark = needs_etcd

LEASE_S = 2.0


class Meeting:
    """Nodes of one network whose registry is etcd."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.world = World(latency_s=0.001)
        self.server: EtcdServer = shared_server()
        self.handles: list[RegistryPort] = []
        url = self.server.url(fresh_prefix()[:-1])

        @asynccontextmanager
        async def opened(*_: Any, **__: Any) -> AsyncIterator[RegistryPort]:
            async with open_registry(url, wall_ns=time.time_ns) as registry:
                self.handles.append(registry)
                yield registry

        monkeypatch.setattr("holloway.actors.node.open_registry", opened)

    @asynccontextmanager
    async def node(self, number: int) -> AsyncIterator[tuple[Node, Any]]:
        ports = self.world.ports(number)
        registry = RegistryConfig(url="memory:", trust="store", lease_s=LEASE_S)
        async with self.world.node(replace(config(number), registry=registry), ports) as node:
            yield node, ports


@pytest.fixture
def meeting(monkeypatch: pytest.MonkeyPatch) -> Meeting:
    return Meeting(monkeypatch)


def registry_of(node: Node) -> Any:
    answer: Any = node.status()
    return answer["node"]["registry"]


async def until_nodes(node: Node, number: int, *, within_s: float) -> None:
    with trio.fail_after(within_s):
        while registry_of(node)["nodes"] != number or not registry_of(node)["in_touch"]:  # noqa: ASYNC110
            await trio.sleep(0.02)


async def test_node_that_is_killed_is_gone_with_its_lease(meeting: Meeting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holloway.actors.records.VANISHED_S", 0.1)
    async with meeting.node(1) as (a, left), trio.open_nursery() as nursery:
        killed, gone = trio.CancelScope(), trio.Event()

        async def other(*, task_status: trio.TaskStatus[tuple[Node, Any]]) -> None:
            with killed:
                async with meeting.node(2) as started:
                    task_status.started(started)
                    await trio.sleep_forever()
            gone.set()

        b, right = await nursery.start(other)
        with trio.fail_after(10):
            await a.connected(name(2))
            await b.connected(name(1))
        assert await crosses(left, right, packet(1, 2, 1))
        began = trio.current_time()
        await meeting.handles[-1].close()  # so that it cannot take its entries back: it is dead
        killed.cancel()
        await gone.wait()
        assert registry_of(a)["nodes"] == 1
        await until_nodes(a, 0, within_s=LEASE_S + 8)
        assert trio.current_time() - began > LEASE_S / 3
        assert registry_of(a) == {"trust": "store", "in_touch": True, "nodes": 0, "refused": {}}


async def test_nodes_are_back_in_touch_soon_after_the_server_speaks_again(meeting: Meeting) -> None:
    async with meeting.node(1) as (a, left), meeting.node(2) as (b, right):
        with trio.fail_after(10):
            await a.connected(name(2))
            await b.connected(name(1))
        with meeting.server.frozen():
            with trio.fail_after(15):
                while registry_of(a)["in_touch"] or registry_of(b)["in_touch"]:  # noqa: ASYNC110
                    await trio.sleep(0.02)
            assert await crosses(left, right, packet(1, 2, 1))  # sessions need no registry
            await trio.sleep(LEASE_S + 0.5)
        healed = trio.current_time()
        await until_nodes(a, 1, within_s=5)
        await until_nodes(b, 1, within_s=5 - (trio.current_time() - healed))
        assert await crosses(right, left, packet(2, 1, 2))
