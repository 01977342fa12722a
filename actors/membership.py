"""The actor that meets other nodes through the registry: publishes our record, and turns theirs into peers.

Everything of ours in the store hangs on one lease that the actor keeps alive. When the lease, or an entry under it, is
lost, it takes a new one and publishes again. With the store away everything known stays as it is. Not responsible for trust
beyond the store itself, which the configuration must ask for by name, nor for what records are believed to say (`records`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from typing import TYPE_CHECKING

import trio

from holloway.actors.bounded_log import BoundedLog
from holloway.actors.config import Config
from holloway.actors.records import Records
from holloway.actors.registry import Absent, Delete, Put, RegistryPort, Snapshot, ValueIs
from holloway.actors.roster import Roster
from holloway.protocols.errors import RegistryError
from holloway.protocols.membership import (
    NodeRecord,
    address_key,
    decode_record,
    encode_record,
    network_prefix,
    node_key,
    nodes_prefix,
)

if TYPE_CHECKING:
    from holloway.actors.registry import Change, Entry, Lease
    from holloway.supervisor import Context

TELL_INTERVAL_S = 1.0
TELL_BURST = 10
"""Changes are told to the roster at once, but in the long run once in `TELL_INTERVAL_S`: a writer in a hurry costs little."""
RETRY_S = 1.0
RETRY_MAX_S = 15.0
STEADY_S = 60.0
"""In touch for as long as this, the next loss is a new one, and begins with `RETRY_S` again."""
AT_ONCE = 32
"""Records that are read in one turn."""
LOG_LINES = 20
PUBLISH_ROUNDS = 16


class Membership:
    """Handle of the running actor."""

    def __init__(self, config: Config, roster: Roster, record: NodeRecord, log: BoundedLog) -> None:
        """Raises `LocalError` for a record of ours that the others would refuse."""
        self._network = config.node.network
        self._record = record
        self._roster = roster
        self.prefix = network_prefix(self._network)
        self._nodes = nodes_prefix(self._network)
        # An address entry holds the whole record too, so that it names its holder without a second look-up.
        value = encode_record(record)
        self._ours = {node_key(self._network, record.name): value}
        self._ours |= {address_key(self._network, address): value for address in record.addresses}
        self.records = Records(record.name, record.public_key, roster.found, roster.problems, log, trio.current_time())
        self._tell_from = -math.inf
        self.is_in_touch = False

    # Ours.

    async def publish(self, registry: RegistryPort, lease: Lease) -> None:
        """Put our addresses and our record under `lease`, all or nothing. What is ours already is taken over.

        Raises `RegistryError`, kind "denied", when a name or an address of ours belongs to another key.
        """
        for _ in range(PUBLISH_ROUNDS):  # each round settles at least one entry that moved under us
            found = (await registry.snapshot(self.prefix)).entries
            compares: list[Absent | ValueIs] = []
            for key in self._ours:
                entry = found.get(key)
                if entry is None:
                    compares.append(Absent(key))
                    continue
                self._refuse_foreign(key, entry.value)
                compares.append(ValueIs(key, entry.value))
            if (await registry.transact(compares, self._ours, lease=lease.id)).succeeded:
                return
        raise RegistryError("our record could not be published", "the store changes faster than we can read it")

    def _refuse_foreign(self, key: bytes, value: bytes) -> None:
        name = key.removeprefix(self._nodes).decode("ascii", "replace") if key.startswith(self._nodes) else None
        holder = decode_record(name, value)
        if isinstance(holder, NodeRecord) and holder.public_key == self._record.public_key:
            return
        what = f"the node name {name}" if name else f"the address {key.rsplit(b'/', 1)[-1].decode('ascii', 'replace')}"
        by = f"node {holder.name}" if isinstance(holder, NodeRecord) else f"an entry we cannot read ({holder.value})"
        raise RegistryError(
            f"{what} is taken",
            f"{by} holds it in network {self._network} with another key",
            "choose another, or stop that node and wait until its lease has run out",
            kind="denied",
        )

    def _check_ours(self, key: bytes, entry: Entry | None, lease: Lease) -> None:
        """Raises `RegistryError` when an entry of ours has gone, or hangs on somebody else's lease."""
        if entry is not None and entry.lease == lease.id and entry.value == self._ours[key]:
            return
        raise RegistryError(
            f"our entry {key.decode('ascii', 'replace')} was {'removed' if entry is None else 'replaced'}",
            "somebody changed it in the store, or another node runs with our key and name",
        )

    # Theirs.

    async def replace(self, snapshot: Snapshot, lease: Lease) -> None:
        """What the store says now is all there is. Raises `RegistryError` when it is not what we published."""
        for key in self._ours:
            self._check_ours(key, snapshot.entries.get(key), lease)
        at = len(self._nodes)
        found = {key[at:]: entry for key, entry in snapshot.entries.items() if key.startswith(self._nodes)}
        self.records.keep_only(found, trio.current_time())
        for number, (name, entry) in enumerate(found.items()):
            if number % AT_ONCE == 0:  # somebody may have filled the store, and packets are waiting
                await trio.lowlevel.checkpoint()
            self.records.learn(name, entry, trio.current_time())

    def note(self, change: Change, lease: Lease, now: float) -> None:
        """One change in the store. Raises `RegistryError` when it is to an entry of ours."""
        entry = change.entry if isinstance(change, Put) else None
        if change.key in self._ours:
            self._check_ours(change.key, entry, lease)
        elif change.key.startswith(self._nodes):
            name = change.key[len(self._nodes) :]
            match change:
                case Put():
                    self.records.learn(name, change.entry, now)
                case Delete():
                    self.records.forget(name, now)

    def tell(self, now: float) -> float:
        """Tell the roster what is known, unless it was told too often of late. Returns when to call again."""
        if now < self._tell_from:
            return self._tell_from
        self._tell_from = max(self._tell_from + TELL_INTERVAL_S, now - (TELL_BURST - 2) * TELL_INTERVAL_S)
        peers, again_at = self.records.peers(now)
        self._roster.set_found(peers)
        return again_at


async def membership(
    ctx: Context,
    config: Config,
    roster: Roster,
    record: NodeRecord,
    open_store: Callable[[], AbstractAsyncContextManager[RegistryPort]],
    *,
    task_status: trio.TaskStatus[Membership],
) -> None:
    """Actor: our place in the network, and the others'.

    Ready once our record is published and the first snapshot read; raises `RegistryError` when that fails, and `LocalError`
    for a record that cannot be published anywhere. Whatever the store refuses later is logged and tried again: the data
    plane goes on with what is known.
    """
    assert config.registry is not None
    log = BoundedLog(ctx.log, lines=LOG_LINES)
    handle = Membership(config, roster, record, log)
    stay = _Stay(handle, config.registry.lease_s, log, task_status)
    pause_s = RETRY_S
    while True:
        began = trio.current_time()
        failure: RegistryError | None = None
        try:
            async with open_store() as registry:
                await stay.visit(registry)
        except* RegistryError as group:
            failure = first_of(group)
        assert failure is not None
        if not stay.is_started:
            raise failure
        if trio.current_time() - began >= STEADY_S:
            pause_s = RETRY_S
        stay.tell(failure)
        await trio.sleep(pause_s)
        pause_s = min(pause_s * 2, RETRY_MAX_S)


class _Stay:
    """Being in the registry, over any number of visits."""

    def __init__(
        self, handle: Membership, lease_s: float, log: BoundedLog, task_status: trio.TaskStatus[Membership]
    ) -> None:
        self._handle, self._lease_s, self._log, self._task_status = handle, lease_s, log, task_status
        self._told = ""
        self.is_started = False

    def tell(self, failure: RegistryError) -> None:
        """Log why we are not there, once for each reason until we are."""
        if str(failure) != self._told:
            self._told = str(failure)
            self._log.warning("registry: %s; trying again until it works", failure)

    async def visit(self, registry: RegistryPort) -> None:
        """Be there until cancelled, or the store refuses: raises `RegistryError`, alone or in a group."""
        lease = await registry.grant(self._lease_s)
        try:
            await self._handle.publish(registry, lease)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_keep_lease, registry, lease)
                await self._follow(registry, lease)
        finally:
            self._handle.is_in_touch = False
            # A clean stop frees our name and addresses at once. After a loss they are ours still, and we will be back.
            if trio.current_effective_deadline() == -math.inf:
                with trio.move_on_after(RETRY_S, shield=True), suppress(RegistryError):
                    await registry.revoke(lease.id)

    async def _follow(self, registry: RegistryPort, lease: Lease) -> None:
        """Snapshot at R, then changes from R+1; from the start again when the history is gone."""
        handle = self._handle
        while True:
            snapshot = await registry.snapshot(handle.prefix)
            await handle.replace(snapshot, lease)
            again_at = handle.tell(trio.current_time())
            self._is_there()
            try:
                async with registry.watch(handle.prefix, snapshot.revision) as watch:
                    while True:
                        with trio.move_on_at(again_at):
                            for change in await watch.receive():
                                handle.note(change, lease, trio.current_time())
                        again_at = handle.tell(trio.current_time())
            except RegistryError as error:
                if error.kind != "compacted":
                    raise
            await trio.sleep(TELL_INTERVAL_S)  # a store that forgets at once must not keep us reading

    def _is_there(self) -> None:
        if not self.is_started:
            self.is_started = True
            self._task_status.started(self._handle)
        elif not self._handle.is_in_touch:
            self._told = ""
            self._log.info("registry: in touch again")
        self._handle.is_in_touch = True


async def _keep_lease(registry: RegistryPort, lease: Lease) -> None:
    """Raises `RegistryError` when the lease is lost, or the store does not answer in good time before it is."""
    pause_s = lease.ttl_s / 3
    while True:
        await trio.sleep(pause_s)
        with trio.move_on_after(pause_s) as patience:
            await registry.keep_alive(lease.id)
        if patience.cancelled_caught:
            raise RegistryError("our lease could not be kept alive", f"the store did not answer within {pause_s:g} s")


def first_of(group: BaseExceptionGroup[RegistryError]) -> RegistryError:
    """The refusal that matters most: one that waiting cannot mend."""
    leaves: list[RegistryError] = []
    todo: list[BaseException] = [group]
    while todo:
        error = todo.pop(0)
        if isinstance(error, BaseExceptionGroup):
            todo += error.exceptions
        elif isinstance(error, RegistryError):
            leaves.append(error)
    return next((error for error in leaves if error.kind == "denied"), leaves[0])
