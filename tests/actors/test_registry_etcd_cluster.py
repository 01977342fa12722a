"""The registry in a cluster of three etcd servers, whose leader dies."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from etcd_back_end import until_done
from etcd_servers import EtcdServer, etcd_cluster, etcd_url, needs_etcd
from registry_back_ends import refused

from holloway.actors.registry import Change
from holloway.actors.registry.etcd import open_etcd
from holloway.actors.registry.etcd_client import EtcdTiming
from holloway.actors.registry.etcd_url import parse_etcd_url
from holloway.protocols.errors import RegistryError

pytestmark = needs_etcd

HURRIED = EtcdTiming(call_s=1.0)  # a change that was handed to the dead leader is given up sooner


def leader_of(servers: list[EtcdServer]) -> EtcdServer:
    for server in servers:
        status: Any = server.ask("/v3/maintenance/status", {})
        if status["leader"] == status["header"]["member_id"]:
            return server
    raise AssertionError("no leader")


@pytest.mark.parametrize("connected_to", ["leader", "follower"])
async def test_writes_resume_without_the_leader_and_the_watch_loses_nothing(connected_to: str) -> None:
    """And without a majority nothing is promised: a watch there says so."""
    with etcd_cluster(3) as servers:
        leader = leader_of(servers)
        servers.sort(key=lambda server: (server is leader) != (connected_to == "leader"))  # the first is connected to
        seen: list[Change] = []
        async with open_etcd(parse_etcd_url(etcd_url(servers, "/p/")), HURRIED) as registry:
            start = (await registry.snapshot(b"")).revision

            async def follow() -> None:
                after = start
                while True:
                    try:
                        async with registry.watch(b"", after) as watch:
                            async for batch in watch:
                                seen.extend(batch)
                                after = batch[-1].revision
                    except RegistryError as error:
                        if error.kind != "unavailable":
                            raise
                        await trio.sleep(0.1)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(follow)
                gap_s = 0.0
                for number in range(100):
                    if number == 50:
                        await trio.to_thread.run_sync(leader.kill)
                    began = trio.current_time()
                    last = await until_done(registry, b"%d" % number)
                    gap_s = max(gap_s, trio.current_time() - began)
                assert gap_s < 20.0
                with trio.fail_after(20):
                    while not seen or seen[-1].key != b"99":  # noqa: ASYNC110 - nothing to wait on but the watch itself
                        await trio.sleep(0.02)
                nursery.cancel_scope.cancel()
            assert [change.key for change in seen] == [b"%d" % number for number in range(100)]
            assert [change.revision for change in seen] == sorted({change.revision for change in seen})
            assert last == start + 100

            if connected_to == "follower":
                survivors = [server for server in servers if server is not leader]
                async with registry.watch(b"", last) as watch:
                    with trio.move_on_after(0.5):
                        await watch.receive()
                    await trio.to_thread.run_sync(survivors[-1].kill)
                    with trio.fail_after(20), refused("unavailable"):
                        await watch.receive()
