"""The actor that keeps this node's address in a network whose store is believed, and follows the network's settings.

The claim hangs on a lease of its own, which lasts as long as the network says (`lease_s`) and outlives the process: a machine
that is away for a while finds its address again. A claim that vanishes is put back; one that another machine holds is not
fought over: then the node says no more that it has the address. Not responsible for choosing one (`store_settling`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING

import trio

from holloway.actors.bounded_log import BoundedLog
from holloway.actors.registry import Delete, Entry, Lease, LeaseLostError, RegistryPort
from holloway.actors.store_member import SECOND_NS, StoreMember
from holloway.actors.store_settling import agree_on_settings, compare, refused
from holloway.actors.store_visits import OpenStore, keep_visiting
from holloway.protocols.address_claims import claim_suffix
from holloway.protocols.address_plan import AddressClaim, Attempt, Claim
from holloway.protocols.errors import LocalError, PortError, RegistryError
from holloway.protocols.membership import addresses_prefix
from holloway.protocols.network_settings import SettingsProblem, settings_key, words_of

if TYPE_CHECKING:
    from holloway.supervisor import Context

KEEP_MAX_S = 600.0
"""How often the lease is kept alive at least; its time begins again each time."""
PATIENT_S = 10.0
PUT_BACK_S = 1.0
LOG_LINES = 20


async def address_keeper(
    ctx: Context,
    member: StoreMember,
    open_store: OpenStore,
    wall_ns: Callable[[], int],
    problems: Counter[str],
    *,
    task_status: trio.TaskStatus[None],
) -> None:
    """Actor: our address, and the settings of the network. Ready at once: the address was ours when the node started."""
    log = BoundedLog(ctx.log, lines=LOG_LINES)
    keeper = _Keeper(member, wall_ns, problems, log)
    task_status.started(None)
    await keep_visiting(
        open_store, keeper.visit, lambda failure: log.warning("address: %s; trying again until it works", failure)
    )


class _Keeper:
    def __init__(
        self, member: StoreMember, wall_ns: Callable[[], int], problems: Counter[str], log: BoundedLog
    ) -> None:
        self._member, self._wall_ns, self._problems, self._log = member, wall_ns, problems, log
        self._key = addresses_prefix(member.network) + claim_suffix(member.address)
        self._lease: Lease | None = None
        self._told: SettingsProblem | None = None

    async def visit(self, registry: RegistryPort) -> None:
        """Hold the address until the network wants another lease time, or `RegistryError`, alone or in a group."""
        lease = await self._leased(registry)
        await self._take(registry, lease)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_keep_alive, registry, lease)
            nursery.start_soon(self._watch_claim, registry, lease)
            await self._follow_settings(registry)
            nursery.cancel_scope.cancel()

    async def _leased(self, registry: RegistryPort) -> Lease:
        """A lease of the time that the network gives: the one that we have, if it lives."""
        ttl_s = self._member.newest.lease_s
        if self._lease is not None and self._lease.ttl_s == ttl_s:
            with suppress(LeaseLostError):
                await registry.keep_alive(self._lease.id)
                return self._lease
        self._lease = await registry.grant(ttl_s)
        return self._lease

    async def _take(self, registry: RegistryPort, lease: Lease) -> None:
        """Put our claim under `lease`. Raises `RegistryError`, kind "denied", when another machine has the address, or none may."""
        member = self._member
        try:
            claim = AddressClaim(member.settings, member.us.name, member.us.key, wish=member.address)
        except LocalError as error:
            member.problem = RegistryError(error.what, error.why, error.fix, kind="denied")
            raise member.problem from error
        entry = (await registry.snapshot(self._key)).entries.get(self._key)
        suffix = claim_suffix(member.address)
        attempt: Attempt = claim.next({} if entry is None else {suffix: entry.value}, self._wall_ns() / SECOND_NS)
        while isinstance(attempt, Claim):
            done = await registry.transact(
                (compare(self._key, attempt.expected),), {self._key: attempt.value}, lease=lease.id
            )
            if done.succeeded:
                if entry is not None and entry.value == attempt.value and entry.lease not in (None, lease.id):
                    assert entry.lease is not None
                    await registry.revoke(entry.lease)  # of an earlier life: nothing hangs on it any more
                if member.problem is not None:
                    self._log.info("address: %s is ours again", member.address)
                member.problem = None
                return
            entry = done.found.get(self._key)
            attempt = claim.lost(None if entry is None else entry.value, self._wall_ns() / SECOND_NS)
        member.problem = refused(attempt)
        raise member.problem

    async def _watch_claim(self, registry: RegistryPort, lease: Lease) -> None:
        async with aclosing(_entries(registry, self._key)) as entries:
            async for entry in entries:
                if entry is None or entry.lease != lease.id:
                    raise RegistryError(
                        f"our claim of {self._member.address} was {'removed' if entry is None else 'replaced'}",
                        "somebody changed it in the store, or another node runs with our key",
                    )

    async def _follow_settings(self, registry: RegistryPort) -> None:
        """Hear what the network's settings are. Returns when the lease time is another one."""
        member = self._member
        async with aclosing(_entries(registry, settings_key(member.network))) as entries:
            async for entry in entries:
                if entry is None:  # somebody removed them, or the store is another one
                    await trio.sleep(PUT_BACK_S)
                    await agree_on_settings(registry, member.network, member.newest)
                elif await self._hear(entry.value):
                    return

    async def _hear(self, value: bytes) -> bool:
        """Whether the lease time is another one."""
        changed = self._member.hear(value)
        if isinstance(changed, SettingsProblem):
            self._problems[changed.value] += 1
            if changed is not self._told:
                self._log.warning("registry: the settings of the network are refused: %s", changed.value)
            self._told = changed
            return False
        self._told = None
        if changed:
            self._log.info("the network has other settings: %s", words_of(changed))
            try:
                await self._member.state.apart(self._member.keep)
            except PortError as error:
                self._log.warning("what is known of the network cannot be kept: %s", error)
        return "lease_s" in changed


async def _keep_alive(registry: RegistryPort, lease: Lease) -> None:
    """Raises `RegistryError` when the lease is lost, or the store does not answer."""
    pause_s = min(lease.ttl_s / 3, KEEP_MAX_S)
    patient_s = min(pause_s, PATIENT_S)
    while True:
        await trio.sleep(pause_s)
        with trio.move_on_after(patient_s) as patience:
            await registry.keep_alive(lease.id)
        if patience.cancelled_caught:
            raise RegistryError("our address could not be held", f"the store did not answer within {patient_s:g} s")


async def _entries(registry: RegistryPort, key: bytes) -> AsyncGenerator[Entry | None, None]:
    """What stands under a key, now and after each change. Raises `RegistryError`."""
    while True:
        snapshot = await registry.snapshot(key)
        yield snapshot.entries.get(key)
        try:
            async with registry.watch(key, snapshot.revision) as watch:
                async for batch in watch:
                    for change in batch:
                        if change.key == key:
                            yield None if isinstance(change, Delete) else change.entry
        except RegistryError as error:
            if error.kind != "compacted":
                raise
        await trio.sleep(PUT_BACK_S)  # a store that forgets at once must not keep us reading
