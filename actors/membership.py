"""The actor that meets other nodes through the registry: publishes our record, and turns theirs into peers.

Everything of ours in the store hangs on one lease that the actor keeps alive. When the lease, or an entry under it, is
lost, it takes a new one and publishes again. With the store away everything known stays as it is, and a node that knew others
before meets them again from what it kept. Not responsible for who is believed (`belief`), nor for what records are believed to
say (`records`).
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import trio

from holloway.actors.belief import AuthorityBelief, Belief
from holloway.actors.bounded_log import BoundedLog
from holloway.actors.config import Config
from holloway.actors.control_claims import ControlClaims
from holloway.actors.floating_follower import FloatingFollower
from holloway.actors.known_nodes import KnownNodes
from holloway.actors.pair_terms import policy_of
from holloway.actors.records import Records
from holloway.actors.registry import Absent, Delete, Entry, ModRevisionIs, Put, RegistryPort, Snapshot
from holloway.actors.roster import Roster
from holloway.actors.store_visits import OpenStore, first_of
from holloway.protocols.errors import RegistryError
from holloway.protocols.membership import (
    NodeRecord,
    RecordProblem,
    address_key,
    addresses_prefix,
    network_prefix,
    node_key,
    nodes_prefix,
)
from holloway.protocols.network_settings import differences, words_of
from holloway.protocols.offers import agreed_security
from holloway.protocols.revocation import RevocationProblem

if TYPE_CHECKING:
    from holloway.actors.registry import Change, Lease
    from holloway.supervisor import Context

TELL_INTERVAL_S = 1.0
TELL_BURST = 10
"""Changes are told to the roster at once, but in the long run once in `TELL_INTERVAL_S`: a writer in a hurry costs little."""
RETRY_S = 1.0
RETRY_MAX_S = 3.0
STEADY_S = 60.0
"""In touch for as long as this, the next loss is a new one, and begins with `RETRY_S` again."""
REFRESH_S = 10.0
"""How often we look whether our record has to say something else."""
SETTLE_S = 0.5
"""What the control plane wants said is said after so long: whoever changes it all the time does not fill the store."""
KEEP_S = 2.0
"""How often what we know is kept, if it has changed: a node that is killed knows the others when it is back."""
KEEP_SHARE = 20
"""But no oftener than that many times as long as it takes: with thousands of nodes there is much to write."""
PATIENT_S = 5.0
"""How long a node waits for the registry at its start that can do without it."""
JUDGE_S = 60.0
"""How often certificates are looked at when nothing changes: they run out."""
WARN_DAYS = (1, 7, 30)
"""Days before the end of our certificate from which on the log warns, each once."""
AT_ONCE = 32
"""Records that are read in one turn."""
LOG_LINES = 20
PUBLISH_ROUNDS = 16
IGNORED_CLAIM = "address_claim_ignored"
"""As which `status` counts what stands under `addresses/` in a network with an authority."""

Describe = Callable[["Context"], Awaitable[NodeRecord]]
"""What our record is to say now, but for its serial number."""


class Membership:
    """Handle of the running actor."""

    def __init__(
        self,
        config: Config,
        roster: Roster,
        belief: Belief,
        describe: Callable[[], Awaitable[NodeRecord]],
        own_key: bytes,
        log: BoundedLog,
        floating: FloatingFollower | None = None,
        claims: ControlClaims | None = None,
    ) -> None:
        """`describe`: see `Describe`. `own_key`: our session key. `floating`: who wants to know of floating addresses; `claims`: of the
        control plane, and says what our record says of it."""
        self._floating, self.claims = floating, claims or ControlClaims(config.node.name, None)
        self._network, self._name = config.node.network, config.node.name
        self.belief, self._describe, self._policy = belief, describe, policy_of(config)
        self._authority = belief if isinstance(belief, AuthorityBelief) else None
        self._roster, self._log = roster, log
        self.prefix = network_prefix(self._network)
        self._nodes, self._addresses = nodes_prefix(self._network), addresses_prefix(self._network)
        self._record: NodeRecord | None = None
        self._ours: dict[bytes, bytes] = {}
        self.records = Records(self._name, own_key, roster.found, self._read, roster.problems, log, trio.current_time())
        self._known = None
        if isinstance(belief, AuthorityBelief):
            self._known = KnownNodes(belief.enrolled, belief, self.records, log)
        self._tell_from = -math.inf
        self._judge_at = trio.current_time() + JUDGE_S
        self._told: dict[bytes, str] = {}
        self._warned_days = math.inf
        self._list_problem: RevocationProblem | None = None
        self.is_in_touch = False

    # Ours.

    async def publish(self, registry: RegistryPort, lease: Lease) -> None:
        """Put our addresses and our record under `lease`, all or nothing. What is ours already is taken over.

        Raises `RegistryError`, kind "denied", when a name or an address of ours belongs to another key, or the authority has
        taken back our certificate, and `LocalError` for a record that the others would refuse.
        """
        for _ in range(PUBLISH_ROUNDS):  # each round settles at least one entry that moved under us
            found = (await registry.snapshot(self.prefix)).entries
            self._hear_all(found)
            self._refuse_when_not_believed()
            record = await self._describe()
            ours = self._claims(record)
            compares: list[Absent | ModRevisionIs] = []
            for key in ours:
                entry = found.get(key)
                if entry is None:
                    compares.append(Absent(key))
                    continue
                self._refuse_foreign(record, key, entry.value)
                compares.append(ModRevisionIs(key, entry.mod_revision))
            self._record, self._ours = record, ours
            await self.keep_heard()
            if (await registry.transact(compares, ours, lease=lease.id)).succeeded:
                await self._pass_on(registry, found)
                return
        raise RegistryError("our record could not be published", "the store changes faster than we can read it")

    async def _pass_on(self, registry: RegistryPort, found: Mapping[bytes, Entry]) -> None:
        """Say what the authority has said where nothing of it stands: it may be offline, or the store is another one."""
        for key, value in ({} if self._authority is None else self._authority.statements()).items():
            if key not in found:
                await registry.create(key, value)

    async def verify(self) -> None:
        """Raises `LocalError` when the others would refuse our record."""
        self._claims(await self._describe())

    async def refresh(self, registry: RegistryPort, lease: Lease) -> None:
        """Publish once more if our record has to say something else, and ask for another certificate when it is time."""
        self._refuse_when_not_believed()
        if self._authority is not None:
            self._warn(self._authority)
            if (request := self._authority.renewal()) is not None:
                await registry.put(self._authority.renewal_key, request, lease=lease.id)
        if await self._describe() != self._record:
            await self.publish(registry, lease)

    def _warn(self, authority: AuthorityBelief) -> None:
        """Tell in time what somebody has to look after."""
        days = authority.days_left
        self._warned_days, before = next((each for each in WARN_DAYS if days < each), math.inf), self._warned_days
        if self._warned_days < before:
            self._log.warning(
                "our certificate runs out in %d days and was not renewed: is the authority's node up?", days
            )
        before_it, self._list_problem = self._list_problem, authority.list_problem
        if self._list_problem is not None and self._list_problem is not before_it:
            self._log.warning(
                "there is no new revocation list (%s): the authority's node is away, or the registry withholds it",
                self._list_problem.value,
            )

    def _claims(self, record: NodeRecord) -> dict[bytes, bytes]:
        """What is to stand in the store for us."""
        value = self.belief.seal(record)
        ours = {node_key(self._network, record.name): value}
        if self.belief.claims_addresses:
            # An address entry holds the whole record too, so that it names its holder without a second look-up.
            ours |= {address_key(self._network, address): value for address in record.addresses}
        return ours

    def _refuse_when_not_believed(self) -> None:
        problem = None if self._authority is None else self._authority.problem()
        if problem is not None:
            raise RegistryError(
                f"the others do not believe node {self._name} any more",
                problem.value,
                "ask the owner of the network for another invitation, and join again",
                kind="denied",
            )

    def _refuse_foreign(self, record: NodeRecord, key: bytes, value: bytes) -> None:
        name = key.removeprefix(self._nodes).decode("ascii", "replace") if key.startswith(self._nodes) else None
        holder = self.belief.read(name, value)
        if self.belief.is_ours(holder, record):
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

    def recall(self) -> bool:
        """Meet those again whom we knew in an earlier life. Whether there are any."""
        if self._known is None or not self._known.recall():
            return False
        self.tell(trio.current_time())
        return True

    async def keep_heard(self) -> None:
        """Keep what the authority has said for another life, and how new our record is."""
        if self._known is not None:
            await self._known.keep_heard()

    async def keep(self) -> None:
        """The same, and whom we know."""
        if self._known is not None:
            await self._known.keep()

    def _read(self, name: str, value: bytes) -> NodeRecord | RecordProblem:
        """The record that stands under a name, if it is believed, and if we may have a session with such a node."""
        record = self.belief.read(name, value)
        if isinstance(record, NodeRecord) and agreed_security(self._policy, record.security) is None:
            return RecordProblem.NO_COMMON_SECURITY
        return record

    async def replace(self, snapshot: Snapshot, lease: Lease) -> None:
        """What the store says now is all there is. Raises `RegistryError` when it is not what we published."""
        for key in self._ours:
            self._check_ours(key, snapshot.entries.get(key), lease)
        self._hear_all(snapshot.entries)
        self.belief.believes_others_now = False
        for key in snapshot.entries:
            self._pass_over(key)
        at = len(self._nodes)
        found = {key[at:]: entry for key, entry in snapshot.entries.items() if key.startswith(self._nodes)}
        self.records.keep_only(found, trio.current_time())
        for number, (name, entry) in enumerate(found.items()):
            if number % AT_ONCE == 0:  # somebody may have filled the store, and packets are waiting
                await trio.lowlevel.checkpoint()
            self.records.learn(name, entry, trio.current_time())
        if self._floating is not None:
            await self._floating.replace(snapshot)

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
        else:
            if self._floating is not None:
                self._floating.note(change)
            if entry is not None:
                self._hear(change.key, entry.value)
                self._pass_over(change.key)

    def _hear_all(self, entries: Mapping[bytes, Entry]) -> None:
        if self._authority is not None:
            for key in (*self._authority.statement_keys, self._authority.renewed_key):
                if key in entries:
                    self._hear(key, entries[key].value)

    def _hear(self, key: bytes, value: bytes) -> None:
        """What the authority says to everybody, or to us."""
        authority = self._authority
        if authority is None:
            return
        if key == authority.renewed_key:
            certificate = authority.enrolled.certificate
            problem = authority.hear_renewed(value)
            if authority.enrolled.certificate is not certificate:
                self._log.info("our certificate was renewed")
                self._record = None  # it goes with our record
        elif key in authority.statement_keys:
            before, bundle = authority.enrolled.newest, authority.enrolled.trust.bundle
            problem = authority.hear(key, value)
            if authority.enrolled.trust.bundle is not bundle:
                trusted = [each.key.fingerprint.hex()[:16] for each in authority.enrolled.trust.bundle.authorities]
                self._log.info("the network has other authorities: %s", ", ".join(trusted))
            if changed := differences(before, authority.enrolled.newest):
                self._log.info("the network has other settings: %s", words_of(changed))
                self.claims.settings_changed()
        else:
            return
        if problem is None:
            self._told.pop(key, None)
            self.records.judge_again()
            return
        self._roster.problems[problem] += 1
        if self._told.get(key) != problem:
            self._told[key] = problem
            self._log.warning("registry: what stands under %s is refused: %s", key.decode("ascii", "replace"), problem)

    def _pass_over(self, key: bytes) -> None:
        """Who has which address is the authority's to say, where there is one: whoever says it here is not heard."""
        if self._authority is not None and key.startswith(self._addresses):
            self._roster.problems[IGNORED_CLAIM] += 1
            if self._addresses not in self._told:
                self._told[self._addresses] = IGNORED_CLAIM
                self._log.warning("registry: somebody claims addresses there; here certificates say who has them")

    def tell(self, now: float) -> float:
        """Tell the roster what is known, unless it was told too often of late. Returns when to call again."""
        floating_at = math.inf if self._floating is None else self._floating.tell(now)
        return min(floating_at, self._tell_of_nodes(now))

    def _tell_of_nodes(self, now: float) -> float:
        if now < self._tell_from:
            return self._tell_from
        self._tell_from = max(self._tell_from + TELL_INTERVAL_S, now - (TELL_BURST - 2) * TELL_INTERVAL_S)
        if self._authority is not None and now >= self._judge_at:
            self._judge_at = now + JUDGE_S
            self.records.judge_again()
        peers, again_at = self.records.peers(now)
        self._roster.set_found(peers)
        is_believed = self._authority is not None and self._authority.problem() is None
        self.claims.set_others(self.records.told(), is_ours_believed=is_believed)
        return again_at if self._authority is None else min(again_at, self._judge_at)


async def membership(
    ctx: Context,
    config: Config,
    roster: Roster,
    belief: Belief,
    describe: Describe,
    own_key: bytes,
    open_store: OpenStore,
    floating: FloatingFollower | None = None,
    claims: ControlClaims | None = None,
    *,
    is_patient: bool = False,
    task_status: trio.TaskStatus[Membership],
) -> None:
    """Actor: our place in the network, and the others'.

    Ready once our record is published and the first snapshot read, or at once when others are known from an earlier life or it
    `is_patient` and the registry is away; raises `RegistryError` when that fails, and `LocalError` for a record that cannot be published anywhere. Whatever the store refuses
    later is logged and tried again: the data plane goes on with what is known.
    """
    assert config.registry is not None
    log = BoundedLog(ctx.log, lines=LOG_LINES)
    handle = Membership(config, roster, belief, partial(describe, ctx), own_key, log, floating, claims)
    await handle.verify()
    stay = _Stay(handle, config.registry.lease_s, log, task_status)
    if handle.recall():
        stay.begin()
    pause_s = RETRY_S
    while True:
        began = trio.current_time()
        failure = RegistryError("the registry did not answer", f"{PATIENT_S:g} s have passed")
        try:
            with stay.trying(PATIENT_S if is_patient else math.inf):
                async with open_store() as registry:
                    await stay.visit(registry)
        except* RegistryError as group:
            failure = first_of(group)
        if not stay.is_started:
            if failure.kind == "denied" or not is_patient:
                raise failure
            stay.begin()
        if trio.current_time() - began >= STEADY_S:
            pause_s = RETRY_S
        stay.tell(failure)
        handle.tell(trio.current_time())  # the visit may have ended before anybody heard what it brought
        await handle.keep()
        await trio.sleep(pause_s)
        pause_s = min(pause_s * 2, RETRY_MAX_S)


class _Stay:
    """Being in the registry, over any number of visits."""

    def __init__(
        self, handle: Membership, lease_s: float, log: BoundedLog, task_status: trio.TaskStatus[Membership]
    ) -> None:
        self._handle, self._lease_s, self._log, self._task_status = handle, lease_s, log, task_status
        self._told = ""
        self._first = trio.CancelScope()
        self.is_started = False

    def trying(self, patience_s: float) -> trio.CancelScope:
        """A visit, which ends after `patience_s` if the actor is not ready by then."""
        self._first = trio.CancelScope()
        if not self.is_started:
            self._first.deadline = trio.current_time() + patience_s
        return self._first

    def begin(self) -> None:
        """The actor is ready."""
        self.is_started = True
        self._first.deadline = math.inf
        self._task_status.started(self._handle)

    def tell(self, failure: RegistryError) -> None:
        """Log why we are not there, once for each reason until we are."""
        if str(failure) != self._told:
            self._told = str(failure)
            self._log.warning("registry: %s; trying again until it works", failure)

    async def visit(self, registry: RegistryPort) -> None:
        """Be there until cancelled, or the store refuses: raises `RegistryError`, alone or in a group."""
        lease = await registry.grant(self._lease_s)
        try:
            news = self._handle.claims.own_changed()
            await self._handle.publish(registry, lease)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_keep_lease, registry, lease)
                nursery.start_soon(self._refresh, registry, lease, news)
                await self._follow(registry, lease)
        finally:
            self._handle.is_in_touch = False
            await self._handle.keep()
            # A clean stop frees our name and addresses at once. After a loss they are ours still, and we will be back.
            if trio.current_effective_deadline() == -math.inf:
                with trio.move_on_after(RETRY_S, shield=True), suppress(RegistryError):
                    await registry.revoke(lease.id)

    async def _refresh(self, registry: RegistryPort, lease: Lease, news: trio.Event) -> None:
        while True:
            due, pause_s = trio.current_time() + REFRESH_S, KEEP_S
            while trio.current_time() < due and not news.is_set():
                with trio.move_on_after(pause_s):
                    await news.wait()
                    await trio.sleep(SETTLE_S)
                began = trio.current_time()
                await self._handle.keep()
                pause_s = max(KEEP_S, KEEP_SHARE * (trio.current_time() - began))
            news = self._handle.claims.own_changed()
            await self._handle.refresh(registry, lease)

    async def _follow(self, registry: RegistryPort, lease: Lease) -> None:
        """Snapshot at R, then changes from R+1; from the start again when the history is gone, or others are believed now."""
        handle = self._handle
        while True:
            snapshot = await registry.snapshot(handle.prefix)
            await handle.replace(snapshot, lease)
            again_at = handle.tell(trio.current_time())
            self._is_there()
            await handle.keep_heard()
            try:
                async with registry.watch(handle.prefix, snapshot.revision) as watch:
                    while not handle.belief.believes_others_now:
                        with trio.move_on_at(again_at):
                            for change in await watch.receive():
                                handle.note(change, lease, trio.current_time())
                        again_at = handle.tell(trio.current_time())
                        await handle.keep_heard()
            except RegistryError as error:
                if error.kind != "compacted":
                    raise
            await trio.sleep(TELL_INTERVAL_S)  # a store that forgets at once must not keep us reading

    def _is_there(self) -> None:
        if not self.is_started:
            self.begin()
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
