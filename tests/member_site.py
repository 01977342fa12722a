"""Nodes of a network whose store is believed: machines whose state outlives them, and races for one address.

Not responsible for time: most tests run under a MockClock.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import IPv4Address, ip_interface
from pathlib import Path
from typing import Any

import trio
from node_world import PORT, World, name, outer, private_key, public_key

from holloway.actors import Config, Endpoint, Node, open_registry
from holloway.actors.config.model import (
    IdentityConfig,
    InterfaceConfig,
    ListenConfig,
    NodeConfig,
    RegistryConfig,
    SessionConfig,
)
from holloway.actors.registry import MemoryRegistry, RegistryPort
from holloway.actors.store_settling import agree_on_settings, give_back, take_address
from holloway.protocols.address_claims import Holder, encode_claim, fingerprint_of
from holloway.protocols.errors import RegistryError
from holloway.protocols.network_settings import NetworkSettings

PREFIX = b"/holloway/home/"
CONFIG = PREFIX + b"config"
FIRST = PREFIX + b"addresses/10.99.4.1"


class Site:
    """Machines whose state outlives their nodes, and the store that they share."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.world = folder, World()

    @property
    def memory(self) -> MemoryRegistry:
        return self.world.memory

    def config(self, number: int, *addresses: str, **changes: Any) -> Config:
        state = self.folder / name(number)
        state.mkdir(mode=0o700, exist_ok=True)
        made = Config(
            node=NodeConfig(name=name(number), network="home"),
            interface=InterfaceConfig(name="hw0", addresses=tuple(map(ip_interface, addresses))),
            session=SessionConfig(private_key=private_key(number)),
            listen=ListenConfig(advertise=(Endpoint(outer(number), PORT),)),
            registry=RegistryConfig(url="memory:", trust="store"),
            identity=IdentityConfig(directory=state),
        )
        return replace(made, **changes)

    @asynccontextmanager
    async def node(self, number: int, *addresses: str, **changes: Any) -> AsyncIterator[Node]:
        async with self.world.node(self.config(number, *addresses, **changes), self.world.ports(number)) as node:
            yield node

    def value(self, key: bytes) -> bytes | None:
        entry = self.memory.snapshot(key).entries.get(key)
        return None if entry is None else entry.value

    async def put(self, key: bytes, value: bytes) -> None:
        handle = self.memory.handle()
        await handle.put(key, value)
        await handle.close()

    async def delete(self, key: bytes) -> None:
        handle = self.memory.handle()
        await handle.delete(key)
        await handle.close()


def address_of(node: Node) -> str:
    return str(node.config.interface.addresses[0].ip)


def claim_of(number: int) -> bytes:
    return encode_claim(Holder(name(number), fingerprint_of(public_key(number))))


async def until(condition: Callable[[], bool], *, within_s: float = 30.0) -> None:
    with trio.fail_after(within_s):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.05)


async def race(url: str, rounds: int, wall_ns: Callable[[], int] = lambda: 10**18) -> None:
    """Two machines, each with a handle of its own, want the same address in the same moment, again and again."""
    settings = NetworkSettings(rest_s=0)
    wish = IPv4Address("10.99.0.5")
    wins: Counter[str] = Counter()
    async with open_registry(url, wall_ns=wall_ns) as one, open_registry(url, wall_ns=wall_ns) as other:
        for _ in range(rounds):
            ends: dict[str, object] = {}

            async def want(registry: RegistryPort, called: str) -> None:
                us = Holder(called, fingerprint_of(called.encode()))
                agreed = await agree_on_settings(registry, "race", settings)
                try:
                    ends[called] = await take_address(  # noqa: B023
                        registry, "race", agreed, us, lambda: wall_ns() / 10**9, wish=wish
                    )
                except RegistryError as error:
                    ends[called] = error.why  # noqa: B023

            with trio.fail_after(30):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(want, one, "left")
                    nursery.start_soon(want, other, "right")
            winners = [called for called, end in ends.items() if end == wish]
            assert len(winners) == 1, ends
            loser = next(called for called in ends if called not in winners)
            assert winners[0] in str(ends[loser])
            wins[winners[0]] += 1
            us = Holder(winners[0], fingerprint_of(winners[0].encode()))
            assert await give_back(one, "race", settings, wish, encode_claim(us), lambda: wall_ns() / 10**9)
    print(f"{rounds} rounds: {dict(wins)}")
    assert wins.total() == rounds
