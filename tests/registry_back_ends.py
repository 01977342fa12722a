"""The back ends of the registry, each as the contract tests want it, and what those tests share.

A new back end joins by one line in `BACK_ENDS`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Protocol

import pytest
import trio
import trio.testing
from etcd_back_end import InEtcd
from etcd_servers import needs_etcd

from holloway.actors.registry import (
    Change,
    Limits,
    MemoryRegistry,
    RegistryPort,
    Watch,
)
from holloway.actors.registry.sqlite import open_sqlite
from holloway.protocols.errors import RegistryError
from holloway.simulations.store import Store


class BackEnd(Protocol):
    """One store, made anew for each test; `late_s` is how long after its time a lease may still live."""

    late_s: float

    @property
    def clock(self) -> trio.abc.Clock: ...
    def handle(self) -> AbstractAsyncContextManager[RegistryPort]: ...
    async def compact(self) -> None: ...
    async def pass_time(self, seconds: float) -> None: ...


class BoundedBackEnd(BackEnd, Protocol):
    """One whose bounds are ours to set. `small_handle` comes before any `handle`."""

    def small_handle(self, limits: Limits) -> AbstractAsyncContextManager[RegistryPort]: ...


class InMemory:
    late_s = 0.0

    def __init__(self, folder: Path) -> None:
        self.clock: trio.abc.Clock = trio.testing.MockClock(autojump_threshold=0)
        self.store = MemoryRegistry()

    @asynccontextmanager
    async def handle(self) -> AsyncIterator[RegistryPort]:
        handle = self.store.handle()
        yield handle
        await handle.close()

    def small_handle(self, limits: Limits) -> AbstractAsyncContextManager[RegistryPort]:
        self.store = MemoryRegistry(limits)
        return self.handle()

    async def compact(self) -> None:
        self.store.compact(2**63)

    async def pass_time(self, seconds: float) -> None:
        await trio.sleep(seconds)


class InSqlite:
    """Wall and monotonic clock are one, run at real speed for the threads' sake, and are pushed by `pass_time`."""

    late_s = 1.5

    def __init__(self, folder: Path) -> None:
        self.clock = trio.testing.MockClock(rate=1.0)
        self.path = folder / "net.db"

    def wall_ns(self) -> int:
        return 1_800_000_000_000_000_000 + int(trio.current_time() * 1e9)

    def handle(self, limits: Limits = Limits()) -> AbstractAsyncContextManager[RegistryPort]:  # noqa: B008
        return open_sqlite(self.path, wall_ns=self.wall_ns, limits=limits)

    def small_handle(self, limits: Limits) -> AbstractAsyncContextManager[RegistryPort]:
        return self.handle(limits)

    async def compact(self) -> None:
        async with self.handle(Limits(history_changes=1)) as registry:
            await registry.put(b"compaction", b"")

    async def pass_time(self, seconds: float) -> None:
        self.clock.jump(seconds)
        await trio.testing.wait_all_tasks_blocked()


class InSimulation:
    """The simulator's store, each handle at a node of its own, at no distance."""

    late_s = 0.0
    latency_ns = (0, 0)

    def __init__(self, folder: Path) -> None:
        self.clock: trio.abc.Clock = trio.testing.MockClock(autojump_threshold=0)
        self.store = Store(1, *self.latency_ns)
        self.nodes = 0

    @asynccontextmanager
    async def handle(self) -> AsyncIterator[RegistryPort]:
        self.nodes += 1
        handle = self.store.door(f"node{self.nodes}").handle()
        yield handle
        await handle.close()

    def small_handle(self, limits: Limits) -> AbstractAsyncContextManager[RegistryPort]:
        self.store = Store(1, *self.latency_ns, limits=limits)
        return self.handle()

    async def compact(self) -> None:
        self.store.memory.compact(2**63)

    async def pass_time(self, seconds: float) -> None:
        await trio.sleep(seconds)


class InSimulationFarAway(InSimulation):
    """The same, some milliseconds away: short against the leases of the contract."""

    late_s = 0.004
    latency_ns = (1_000_000, 8_000_000)


BACK_ENDS: dict[str, Callable[[Path], BackEnd]] = {
    "memory": InMemory,
    "sqlite": InSqlite,
    "simulated": InSimulation,
    "simulated far away": InSimulationFarAway,
    "etcd": InEtcd,
}
NAMES = [pytest.param(name, marks=needs_etcd) if name == "etcd" else name for name in BACK_ENDS]
"""The keys of BACK_ENDS, for parametrization: some need a program."""
BOUNDED = [name for name in BACK_ENDS if name != "etcd"]
"""Those that make a `BoundedBackEnd`: etcd's bounds are etcd's own."""


@contextmanager
def refused(kind: str, error: type[RegistryError] = RegistryError) -> Iterator[None]:
    """The block must raise a registry error of this kind that says what, why, and how to mend it."""
    with pytest.raises(error) as caught:
        yield
    assert caught.value.kind == kind
    assert all((caught.value.what, caught.value.why, caught.value.fix))


async def gather(watch: Watch, until_revision: int) -> list[Change]:
    """Everything the watch gives up to a revision, with the rules of every batch checked on the way."""
    changes: list[Change] = []
    with trio.fail_after(20):
        while not changes or changes[-1].revision < until_revision:
            batch = await watch.receive()
            revisions = [change.revision for change in batch]
            assert batch
            assert revisions == sorted(revisions)
            assert not changes or changes[-1].revision < revisions[0], "a revision was split over two batches"
            changes += batch
    return changes
