"""Automatic addresses on a registry that is slow, goes away, forgets and loses leases, while machines die and come back.

Whole nodes and the simulated store, with faults drawn from a seed. What must hold: at no time do two nodes have one address, and no machine ever
gets another one, since none is away for as long as its claim lasts. (A lease that is lost while its machine cannot see that frees its address for a
newcomer: so leases are lost only once there are none.)
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import trio
from member_site import CONFIG, PREFIX, address_of, until
from member_site import Site as Machines
from node_world import name
from store_site import Site as StoreSite
from store_site import fault
from trio.testing import MockClock

from holloway.actors import Node, open_node
from holloway.protocols.address_claims import Holder, decode_claim
from holloway.protocols.network_settings import NetworkSettings, encode_settings

NODES = 6
LEASE_S = 60
FAULTS_S = 90.0
LONGEST_S = 12.0
"""For how long a fault lasts, or a machine is down."""
SEEDS = range(3)
MANY_SEEDS = range(3, 203)


class Trial:
    """One run."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.machines = Machines(folder)
        self.site = StoreSite(call_s=self.random.uniform(0.001, 0.2), seed=seed)
        self.site.store.overwrite({CONFIG: encode_settings(NetworkSettings(lease_s=LEASE_S, rest_s=5))})
        self.running: dict[int, Node] = {}
        self.addresses: dict[int, str] = {}
        self.restarts = 0

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            for number in range(1, NODES + 1):
                nursery.start_soon(self._machine, number)
            nursery.start_soon(self._watch)
            for number in range(self.random.randint(2, 8)):
                nursery.start_soon(self._trouble, f"trouble-{number}")
            await trio.sleep_until(FAULTS_S + 2 * LONGEST_S)
            await until(lambda: len(self.running) == NODES and self._all_hold(), within_s=60)
            nursery.cancel_scope.cancel()
        assert len(self.addresses) == NODES

    async def _machine(self, number: int) -> None:
        """A machine that dies now and then, and is started again."""
        await trio.sleep(self.random.uniform(0, 2))
        while True:
            with trio.CancelScope() as scope:
                if trio.current_time() < FAULTS_S and self.random.random() < 0.5:
                    scope.deadline = trio.current_time() + self.random.uniform(1, 30)
                door = self.site.store.door(name(number))
                try:
                    await self._live(number, door, scope)
                except* Exception as group:
                    if not _is_of_the_store(group):
                        raise
            self.running.pop(number, None)
            self.restarts += 1
            await trio.sleep(self.random.uniform(0.5, LONGEST_S))

    async def _live(self, number: int, door: object, scope: trio.CancelScope) -> None:
        ports = self.machines.world.ports(number)
        async with open_node(self.machines.config(number), ports=ports, memory=door) as node:  # type: ignore[arg-type]
            self.running[number] = node
            assert self.addresses.setdefault(number, address_of(node)) == address_of(node), "it has another address"
            try:
                await trio.sleep_forever()
            finally:
                self.running.pop(number, None)
                if self.random.random() < 0.5:
                    door.kill()  # type: ignore[attr-defined]  # it dies, and says goodbye to nobody

    async def _trouble(self, called: str) -> None:
        await trio.sleep(self.random.uniform(0, FAULTS_S))
        kind = self.random.choice(["store_down", "store_down", "stale_watch", "store_compaction", "lease_loss"])
        nodes = [name(number) for number in range(1, NODES + 1) if self.random.random() < 0.5]
        if kind == "lease_loss" and len(self.addresses) < NODES:
            return
        befalls = fault(kind, *nodes, name=called, silent=self.random.choice([0.0, 1.0]))
        self.site.store.begin(befalls)
        await trio.sleep(self.random.uniform(0.1, LONGEST_S))
        self.site.store.end(befalls)

    async def _watch(self) -> None:
        while True:
            had = [address_of(node) for node in self.running.values()]
            assert len(set(had)) == len(had), "two nodes have one address"
            await trio.sleep(0.5)

    def _all_hold(self) -> bool:
        held = self.site.store.held("home")
        for node in self.running.values():
            value = held.get(PREFIX + b"addresses/" + address_of(node).encode())
            claim = None if value is None else decode_claim(value)
            if not isinstance(claim, Holder) or claim.name != node.config.node.name or claim.free_from is not None:
                return False
        return True


def _is_of_the_store(group: BaseExceptionGroup[Exception]) -> bool:
    return "registry" in repr(group).lower() or "RegistryError" in repr(group)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize("seed", SEEDS)
async def test_no_two_have_one_address_and_none_gets_another(
    seed: int, tmp_path: Path, autojump_clock: MockClock
) -> None:
    await Trial(_made(tmp_path / str(seed)), seed).run()


@pytest.mark.soak
@pytest.mark.parametrize("seed", MANY_SEEDS)
async def test_the_same_from_many_seeds(seed: int, tmp_path: Path, autojump_clock: MockClock) -> None:
    await Trial(_made(tmp_path / str(seed)), seed).run()
