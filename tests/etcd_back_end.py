"""The registry's back end on a real etcd, as the contract tests want it.

All tests of a process share one server, and each has a prefix of its own; the revision is the server's, so nothing else
may happen there meanwhile: leases that a test leaves behind are revoked with its last handle.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio
import trio.testing
from etcd_servers import fresh_prefix, shared_server

from holloway.actors.registry import RegistryPort
from holloway.actors.registry.etcd import open_etcd
from holloway.actors.registry.etcd_client import EtcdTiming
from holloway.actors.registry.etcd_url import parse_etcd_url
from holloway.protocols.errors import RegistryError

PATIENT = EtcdTiming(last_word_s=2.0)  # on a busy machine too, a cancelled call hears what became of it


class InEtcd:
    late_s = 1.5  # etcd looks for expired leases every 0.5 s, and ends them through its log

    def __init__(self, folder: Path) -> None:
        self.clock: trio.abc.Clock = trio.testing.MockClock(rate=1.0)
        self.server = shared_server()
        self.address = parse_etcd_url(self.server.url(fresh_prefix()))
        self.handles = 0

    @asynccontextmanager
    async def handle(self) -> AsyncIterator[RegistryPort]:
        self.handles += 1
        try:
            async with open_etcd(self.address, PATIENT) as registry:
                yield registry
        finally:
            self.handles -= 1
            if not self.handles:
                await trio.to_thread.run_sync(self.server.revoke_all)

    async def compact(self) -> None:
        await trio.to_thread.run_sync(self.server.compact)

    async def pass_time(self, seconds: float) -> None:
        await trio.sleep(seconds)


async def until_done(registry: RegistryPort, key: bytes) -> int:
    """Make a key whatever happens to the servers: again and again, which is harmless. Returns its revision."""
    with trio.fail_after(30):
        while True:
            try:
                done = await registry.create(key, b"")
                return done.revision if done.succeeded else done.found[key].mod_revision
            except RegistryError as error:
                if error.kind != "unavailable":
                    raise
                await trio.sleep(0.05)
    raise AssertionError("unreachable")
