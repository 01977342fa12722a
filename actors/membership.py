"""The actor that meets other nodes through the registry: publishes our record, and turns theirs into peers.

Everything of ours in the store hangs on one lease that the actor keeps alive and takes again when it is lost. Records of
others are hostile input: a bad one is skipped, named in the log and counted, and the others are unaffected. A record that
vanishes does not cut a session that works: its peer stays for `VANISHED_S`. With the store away everything known stays.
Not responsible for trust beyond the store itself, which the configuration must ask for by name.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from holloway.actors.config import Config, Endpoint, PeerConfig
from holloway.actors.registry import Absent, Delete, Put, RegistryPort, Snapshot, ValueIs
from holloway.actors.roster import MAX_PEERS, Roster
from holloway.protocols.errors import RegistryError
from holloway.protocols.membership import (
    NodeRecord,
    RecordProblem,
    address_key,
    decode_record,
    encode_record,
    network_prefix,
    node_key,
    nodes_prefix,
)

if TYPE_CHECKING:
    from logging import Logger

    from holloway.actors.registry import Lease
    from holloway.supervisor import Context

VANISHED_S = 180.0
"""How long a peer outlives its record: the life of a session key (WireGuard paper, section 6.2)."""
RETRY_S = 1.0
RETRY_MAX_S = 15.0


@dataclass(slots=True)
class _Known:
    peer: PeerConfig
    vanished_at: float = math.inf


class Membership:
    """Handle of the running actor: what is known of the network, for `status`."""

    def __init__(self, config: Config, roster: Roster, record: NodeRecord, log: Logger) -> None:
        self._network = config.node.network
        self._prefix = nodes_prefix(self._network)
        self._roster = roster
        self._record = record
        self._log = log
        self._known: dict[str, _Known] = {}
        self._refused: dict[str, RecordProblem] = {}
        self.problems: Counter[str] = Counter()
        self.is_in_touch = False

    # Ours.

    async def publish(self, registry: RegistryPort, lease: Lease) -> None:
        """Put our addresses and our record under `lease`, all or nothing. What is ours already is taken over.

        Raises `RegistryError`, kind "denied", when a name or an address of ours belongs to another key.
        """
        value = encode_record(self._record)
        # An address entry holds the whole record too, so that it names its holder without a second look-up.
        puts = {node_key(self._network, self._record.name): value}
        puts |= {address_key(self._network, address): value for address in self._record.addresses}
        for _ in range(16):  # each round settles at least one entry that moved under us
            found = (await registry.snapshot(network_prefix(self._network))).entries
            compares: list[Absent | ValueIs] = []
            for key in puts:
                entry = found.get(key)
                if entry is None:
                    compares.append(Absent(key))
                    continue
                self._refuse_foreign(key, entry.value)
                compares.append(ValueIs(key, entry.value))
            if (await registry.transact(compares, puts, lease=lease.id)).succeeded:
                return
        raise RegistryError("our record could not be published", "the store changes faster than we can read it")

    def _refuse_foreign(self, key: bytes, value: bytes) -> None:
        name = key.removeprefix(self._prefix).decode("ascii", "replace") if key.startswith(self._prefix) else None
        holder = decode_record(name, value)
        if isinstance(holder, NodeRecord) and holder.public_key == self._record.public_key:
            return
        what = f"the node name {name}" if name else f"the address {key.rsplit(b'/', 1)[-1].decode('ascii', 'replace')}"
        by = f"node {holder.name}" if isinstance(holder, NodeRecord) else "a record that cannot be read"
        raise RegistryError(
            f"{what} is taken",
            f"{by} holds it in network {self._network} with another key",
            "choose another, or stop that node and wait until its lease has run out",
            kind="denied",
        )

    # Theirs.

    def replace(self, snapshot: Snapshot, now: float) -> None:
        """What the store says now is all there is."""
        for known in self._known.values():
            known.vanished_at = min(known.vanished_at, now)
        for key, entry in snapshot.entries.items():
            self.learn(key, entry.value)
        self.update(now)

    def learn(self, key: bytes, value: bytes) -> None:
        """One record, as the store has it."""
        name = key.removeprefix(self._prefix).decode("utf-8", "replace")
        if name == self._record.name:
            return
        record = decode_record(name, value)
        if isinstance(record, RecordProblem):
            self.problems[record.value] += 1
            if self._refused.get(name) is not record and len(self._refused) < MAX_PEERS:
                self._refused[name] = record
                self._log.warning("the record of node %r is refused: %s", name[:64], record.value)
            return
        self._refused.pop(name, None)
        if record.public_key == self._record.public_key:
            self.problems["record_has_our_key"] += 1
            return
        if name not in self._known and len(self._known) >= MAX_PEERS:
            self.problems["record_too_many"] += 1
            return
        host, port = record.endpoints[0] if record.endpoints else ("", 0)
        self._known[name] = _Known(
            PeerConfig(
                name=name,
                public_key=record.public_key,
                allowed=record.allowed(),
                endpoint=Endpoint(host, port) if host else None,
            )
        )

    def forget(self, key: bytes, now: float) -> None:
        """A record vanished."""
        name = key.removeprefix(self._prefix).decode("utf-8", "replace")
        if name in self._known:
            self._known[name].vanished_at = min(self._known[name].vanished_at, now)

    def update(self, now: float) -> float:
        """Tell the roster, and return when to look again at what vanished."""
        for name, known in list(self._known.items()):
            if known.vanished_at + VANISHED_S <= now:
                del self._known[name]
        self._roster.set_found({name: known.peer for name, known in sorted(self._known.items())})
        return min((known.vanished_at + VANISHED_S for known in self._known.values()), default=math.inf)


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

    Ready once our record is published and the first snapshot read; raises `RegistryError` when that fails. Whatever the
    store refuses later is logged and tried again: the data plane goes on with what is known.
    """
    assert config.registry is not None
    handle = Membership(config, roster, record, ctx.log)
    delay = RETRY_S
    is_started = False
    while True:
        try:
            async with open_store() as registry:
                lease = await registry.grant(config.registry.lease_s)
                try:
                    await handle.publish(registry, lease)
                    handle.is_in_touch = True
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(_keep_lease, registry, lease)
                        await nursery.start(_follow, registry, handle, nodes_prefix(config.node.network))
                        delay = RETRY_S
                        if not is_started:
                            is_started = True
                            task_status.started(handle)
                        else:
                            ctx.log.info("registry: in touch again")
                finally:
                    handle.is_in_touch = False
                    with trio.move_on_after(RETRY_S, shield=True):  # a clean stop frees our name and addresses at once
                        await _give_back(registry, lease)
        except* RegistryError as group:
            error = _first(group)
            if not is_started:
                raise error from None
            ctx.log.warning("registry: %s; trying again in %.0f s", error, delay)
        await trio.sleep(delay)
        delay = min(delay * 2, RETRY_MAX_S)


async def _keep_lease(registry: RegistryPort, lease: Lease) -> None:
    while True:
        await trio.sleep(lease.ttl_s / 3)
        await registry.keep_alive(lease.id)


async def _follow(
    registry: RegistryPort, handle: Membership, prefix: bytes, *, task_status: trio.TaskStatus[None]
) -> None:
    """Snapshot at R, then changes from R+1; from the start again when the history is gone."""
    while True:
        snapshot = await registry.snapshot(prefix)
        again_at = _replace(handle, snapshot)
        task_status.started(None)
        task_status = trio.TASK_STATUS_IGNORED
        try:
            async with registry.watch(prefix, snapshot.revision) as watch:
                while True:
                    with trio.move_on_at(again_at):
                        for change in await watch.receive():
                            match change:
                                case Put(key, entry):
                                    handle.learn(key, entry.value)
                                case Delete(key):
                                    handle.forget(key, trio.current_time())
                    again_at = handle.update(trio.current_time())
        except RegistryError as error:
            if error.kind != "compacted":
                raise


def _replace(handle: Membership, snapshot: Snapshot) -> float:
    handle.replace(snapshot, trio.current_time())
    return handle.update(trio.current_time())


async def _give_back(registry: RegistryPort, lease: Lease) -> None:
    with suppress(RegistryError):  # with the store away, the lease will run out by itself
        await registry.revoke(lease.id)


def _first(group: BaseExceptionGroup[RegistryError]) -> RegistryError:
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
