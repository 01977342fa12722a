"""A simulated registry for its tests: what it told, faults made in one line, and one of each call.

Not responsible for time: the tests run under a MockClock.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from holloway.actors.registry import Change, LeaseId, RegistryPort, Watch
from holloway.simulations.faults import Fault
from holloway.simulations.store import Store

SECOND = 10**9
NEVER_S = 1_000.0
LEASE = LeaseId(1)


class Site:
    """A store whose calls take `call_s`, there and back, and what it told."""

    def __init__(self, call_s: float = 0.0, seed: int = 1) -> None:
        self.told: list[tuple[str, str]] = []
        self.reached: list[str] = []
        self.store = Store(
            seed,
            int(call_s * SECOND),
            int(call_s * SECOND),
            tell=lambda node, what: self.told.append((node, what)),
            reach=self.reached.append,
        )

    def handle(self, node: str = "a") -> RegistryPort:
        return self.store.door(node).handle()


def fault(kind: str, *nodes: str, name: str = "", silent: float = 0.0) -> Fault:
    values = {"silent": silent} if kind == "store_down" else {}
    return Fault(name=name or kind, kind=kind, at_ns=0, until_ns=0, nodes=nodes, values=values)


async def at(seconds: float, *acts: Callable[[], object]) -> None:
    await trio.sleep_until(seconds)
    for act in acts:
        act()


async def revision_of(registry: RegistryPort) -> int:
    return (await registry.snapshot(b"")).revision


async def keys_of(store: Store) -> list[bytes]:
    return list((await store.memory.handle().snapshot(b"")).entries)


async def taken(watch: Watch, seconds: float = 0.0) -> list[bytes]:
    """The keys of everything that the watch gives within so long."""
    changes: list[Change] = []
    with trio.move_on_after(seconds + 1e-6):
        while True:
            changes += await watch.receive()
    return [change.key for change in changes]


async def open_and_leave(registry: RegistryPort) -> None:
    async with registry.watch(b"", 0):
        pass


CALLS: dict[str, Callable[[RegistryPort], Awaitable[object]]] = {
    "snapshot": lambda registry: registry.snapshot(b""),
    "put": lambda registry: registry.put(b"k", b""),
    "grant": lambda registry: registry.grant(5.0),
    "keep_alive": lambda registry: registry.keep_alive(LEASE),
    "revoke": lambda registry: registry.revoke(LEASE),
    "watch": open_and_leave,
}


async def lease_in(store: Store) -> None:
    """The lease `LEASE` of `CALLS`, with one key."""
    registry = store.door("z").handle()
    lease = await registry.grant(NEVER_S)
    assert lease.id == LEASE
    await registry.put(b"leased", b"", lease=lease.id)
