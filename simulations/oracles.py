"""The promises that every run must keep: `always` at each step, `eventually` some time after the last fault.

Each is a small function whose docstring is the promise; it returns `None`, or a sentence that says how the promise was
broken. They look at what nodes send and deliver, and, where that cannot tell, into the protocol objects: this is the place
of the simulator that knows their insides, with `record_oracles` and `control_oracles`, where the promises about records and the
control plane are. Not responsible for
when they are asked: that is `machine` and `world`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from holloway.protocols.addresses import Address
from holloway.protocols.demux import INDICES_PER_PEER, Demux
from holloway.protocols.errors import PortError
from holloway.protocols.keyring import RETIRED_KEYS
from holloway.protocols.membership import NodeRecord, decode_record
from holloway.protocols.ratelimit import SOURCE_LIMIT
from holloway.protocols.session import DROP_EVENTS, EVENTS, Session, State
from holloway.protocols.staging import STAGED_BYTES, STAGED_PACKETS
from holloway.protocols.states import TRANSITIONS
from holloway.simulations.claim_oracles import CLAIMS_ALWAYS
from holloway.simulations.control_oracles import CONTROL_ALWAYS, CONTROL_EVENTUALLY
from holloway.simulations.dtls_oracles import DTLS_ALWAYS
from holloway.simulations.errors import PropertyViolated
from holloway.simulations.floating_oracles import (
    Afloat,
    a_fence_has_one_holder,
    earlier_holders_are_not_heard,
    fences_are_followed,
    is_held,
    lost_holders_are_replaced,
    one_node_takes_nothing,
    one_owner_of_a_floating_address,
    only_the_owner_answers,
    what_is_given_up_leaves_the_device,
)
from holloway.simulations.lane_oracles import LANES_EVENTUALLY, Lanes
from holloway.simulations.record_oracles import (
    Path,
    has_opened,
    idle_sessions_fall_silent,
    loss_shortens_records,
    old_pieces_are_forgotten,
    reassembly_is_bounded,
    record_size_is_within_bounds,
    records_are_cut_evenly,
    records_begin_at_their_first_counter,
    reports_tell_what_was_sent,
)
from holloway.simulations.snapshots import Snapshot
from holloway.simulations.terms_oracles import terms_are_what_both_ask_for, unpacking_is_bounded
from holloway.simulations.trust_oracles import (
    addresses_are_certified,
    no_older_record_is_believed,
    nobody_is_enrolled_by_another,
    nobody_is_impersonated,
    only_named_nodes_are_obeyed,
    revoked_stay_out,
)
from holloway.supervisor import ChildStartError, IntensityExceeded
from holloway.supervisor.errors import brief, leaves

MARKER = b"never in the clear"
"""Stands in every inner packet, and so never in a datagram."""

MEET_NS = 12 * 10**9
"""How long restarted nodes may take to meet again without the registry."""
NARROW_NS = 10**9
"""How long a path may take from losing long datagrams; then it must have been noticed."""
STOPS_WITHIN_NS = 15 * 10**9
LEAVES_WITHIN_NS = 2 * 10**9


def no_plaintext_on_the_wire(datagram: bytes) -> str | None:
    """No datagram shows a byte of an inner packet, but between two nodes that both ask for plain text."""
    return f"a datagram of {len(datagram)} bytes shows an inner packet" if MARKER in datagram else None


def no_nonce_used_twice(used: dict[bytes, None], nonce: bytes) -> str | None:
    """A cipher never seals twice with one nonce under one key, nor two records with one counter, however long they are and
    whatever they hold. `used` are the nonces of the key so far, or the counters of its records.
    """
    if nonce in used:
        return f"nonce {nonce.hex()} sealed twice under one key"
    used[nonce] = None
    return None


def nothing_delivered_twice(is_delivered: bool, serial: int, receiver: str) -> str | None:
    """An inner packet leaves the tunnel at most once, however often the network carries it."""
    return f"packet {serial} was delivered twice to {receiver}" if is_delivered else None


def nothing_altered_or_invented(sent: bytes | None, delivered: bytes, receiver: str) -> str | None:
    """What leaves the tunnel is byte for byte what somebody put into it."""
    return f"{receiver} was given a packet that nobody sent" if sent != delivered else None


def delivered_to_the_addressee(addressee: str, receiver: str, serial: int) -> str | None:
    """An inner packet leaves the tunnel at the node it was sealed for."""
    return f"packet {serial} for {addressee} came out at {receiver}" if addressee != receiver else None


def inner_source_belongs_to_sender(source: bytes, sender_addresses: Sequence[bytes], sender: str) -> str | None:
    """A packet that leaves the tunnel has an inner source address that belongs to the peer that sealed it."""
    return f"{sender} got a packet through under the address of another" if source not in sender_addresses else None


def inner_destination_is_ours(destination: bytes, own_addresses: Sequence[bytes], receiver: str) -> str | None:
    """A packet that leaves the tunnel has an inner destination that belongs to the node it leaves at."""
    return f"{receiver} let out a packet for another address" if destination not in own_addresses else None


def forgery_changes_nothing(before: Sequence[Snapshot], after: Sequence[Snapshot], node: str) -> str | None:
    """A datagram that was altered on its way, or made by a stranger, changes no key, window, counter or endpoint."""
    return f"a forged datagram changed the sessions of {node}" if before != after else None


def initiation_answered_once(answered: dict[bytes, None], initiation: bytes, node: str) -> str | None:
    """In one life of a session an initiation is answered once. `answered` are those so far, without their mac2."""
    signed = initiation[:-16]  # mac2 is not looked at while there is no load, so anybody may change it
    if signed in answered:
        return f"{node} answered one initiation twice"
    answered[signed] = None
    return None


def answers_are_no_longer_than_questions(question: bytes, answer: bytes) -> str | None:
    """What a stranger is answered is no longer than what he sent, so nobody is flooded through us."""
    if len(answer) > len(question):
        return f"{len(question)} bytes from a stranger were answered with {len(answer)}"
    return None


def unconfirmed_key_is_not_used(session: Session) -> str | None:
    """The responder of a handshake seals under its key only after it has heard the initiator use it."""
    keys = session._ring.current
    if keys is not None and not keys.is_initiator and not has_opened(keys):
        return f"epoch {keys.epoch} is in use before its initiator has used it"
    return None


def expired_keys_are_forgotten(session: Session, now: float) -> str | None:
    """When a session has acted on its deadlines, it holds no key beyond its life."""
    late = [keys.epoch for keys in session._ring.by_index.values() if keys.expires_at <= now]
    return f"epoch {late[0]} outlived its key" if late else None


def keys_are_few(session: Session) -> str | None:
    """A session holds a current, a next and `RETIRED_KEYS` retired keys at most."""
    count = len(session._ring.by_index)
    return f"a session holds {count} keys" if count > RETIRED_KEYS + 2 else None


def queues_are_bounded(session: Session) -> str | None:
    """Packets that wait for a key, and events that nobody has read, stay below their bounds."""
    if session.staged > STAGED_PACKETS:
        return f"{session.staged} packets wait for a key"
    if session._staged.held_bytes > STAGED_BYTES:
        return f"{session._staged.held_bytes} bytes wait for a key"
    if len(session.events) > max(EVENTS, DROP_EVENTS):
        return f"{len(session.events)} events are unread"
    return None


def tables_are_bounded(demux: Demux[Any], peers: int) -> str | None:
    """Receiver indices, reset tokens and remembered strangers of a node stay below their bounds, whoever floods it."""
    for name, count, limit in (
        ("receiver indices", len(demux._indices), INDICES_PER_PEER * peers),
        ("reset tokens", len(demux._resets), INDICES_PER_PEER * peers),
        ("rate-limited sources", len(demux._handshake_rate), SOURCE_LIMIT),
        ("sources of resets", len(demux._reset_rate), SOURCE_LIMIT),
    ):
        if count > limit:
            return f"{count} {name}, {limit} are allowed"
    return None


def transitions_are_legal(session: Session) -> str | None:
    """A session only ever moves along the arrows of its state machine."""
    for before, after in session.transitions:
        if after not in TRANSITIONS[before]:
            return f"a session moved from {before.name} to {after.name}"
    return None


def waiting_ends(session: Session) -> str | None:
    """While packets wait for a key, or a handshake is under way, a deadline lies ahead that ends the wait."""
    is_waiting = session.staged > 0 or session.state in (State.INITIATING, State.REKEYING)
    if is_waiting and session.next_timeout() is None:
        return f"a session in {session.state.name} waits with {session.staged} packets and nothing will end it"
    return None


def time_moves(events_in_a_second: int, limit: int) -> str | None:
    """The nodes do not keep each other, or themselves, busy for ever within one moment."""
    return f"{events_in_a_second} events within one virtual second" if events_in_a_second >= limit else None


@dataclass(frozen=True, slots=True)
class Calm:
    """What `eventually` is asked about. `unheard`: pairs (from, to) without a packet since the last fault."""

    unheard: tuple[tuple[str, str], ...]
    waiting: Mapping[tuple[str, str], int]
    endpoints: Mapping[tuple[str, str], tuple[Address | None, Address]]
    """For each pair (of, to): where `of` would send now, and where `to` is."""
    lost: tuple[int, ...] = ()
    """Packets that should have come out by now, and have not."""
    lost_by_bystanders: tuple[int, ...] = ()
    """Packets from before the calm that have not come out, between two nodes that no fault has touched."""
    lost_unforetold: tuple[int, ...] = ()
    """Packets from before the calm that have not come out, and were in no record that somebody forged a piece of."""
    lost_on_narrow_paths: tuple[int, ...] = ()
    """Packets that have not come out, though their path had been narrow for `NARROW_NS` already."""
    paths: Mapping[tuple[str, str], Path] = field(default_factory=dict)
    """For each pair (of, to): how long datagrams may be."""
    record_sizes: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """For each pair (of, to): how many datagrams the records of `of` may have."""
    published: tuple[str, ...] = ()
    """Nodes whose records the registry has."""
    known: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """For each node that meets the others in a registry, and was not revoked: whom it takes for its peers."""
    floating: tuple[Afloat, ...] = ()
    lost_in_outages: tuple[int, ...] = ()
    """Packets that have not come out, though they were made while the registry was away and nodes had had time to meet."""
    lanes: Lanes = field(default_factory=Lanes)


def all_pairs_reachable(calm: Calm) -> str | None:
    """Every node gets a packet through to each of its peers, both ways."""
    if not calm.unheard:
        return None
    named = ", ".join(f"{first} to {second}" for first, second in calm.unheard[:3])
    more = f" and {len(calm.unheard) - 3} more" if len(calm.unheard) > 3 else ""
    return f"nothing came through from {named}{more}"


def nothing_waits(calm: Calm) -> str | None:
    """No packet waits for a key any more."""
    for pair, count in calm.waiting.items():
        if count:
            return f"{count} packets wait for a key in the session of {pair[0]} with {pair[1]}"
    return None


def endpoints_are_true(calm: Calm) -> str | None:
    """Every session sends to where its peer really is."""
    for (first, second), (believed, true) in calm.endpoints.items():
        if believed != true:
            return f"{first} sends to {believed}, but {second} is at {true}"
    return None


def nothing_is_lost(calm: Calm) -> str | None:
    """From then on, and until shortly before the end, every packet comes out: new keys cost none."""
    return f"{len(calm.lost)} packets never came out, the first is packet {calm.lost[0]}" if calm.lost else None


def bystanders_lose_nothing(calm: Calm) -> str | None:
    """Whatever befalls others, between two nodes that no fault touches every packet comes out."""
    lost = calm.lost_by_bystanders
    return f"{len(lost)} packets of bystanders never came out, the first is packet {lost[0]}" if lost else None


def forgers_cost_what_they_foretold(calm: Calm) -> str | None:
    """Forged pieces cost at most the records whose counters they have: every other packet comes out."""
    lost = calm.lost_unforetold
    return f"{len(lost)} packets of other records never came out, the first is packet {lost[0]}" if lost else None


def records_grow(calm: Calm) -> str | None:
    """Where nothing is lost any more, every session is told so, and its records have several datagrams."""
    for (first, second), size in calm.record_sizes.items():
        if size < 2:
            return f"the records of {first} for {second} still have one datagram"
    return None


def narrow_paths_are_noticed(calm: Calm) -> str | None:
    """`NARROW_NS` after a path has begun to lose long datagrams, packets of every length come out."""
    lost = calm.lost_on_narrow_paths
    return f"{len(lost)} packets were lost on a narrow path, the first is packet {lost[0]}" if lost else None


def paths_are_wide(calm: Calm) -> str | None:
    """Where long datagrams pass, every session has found out."""
    for (first, second), path in calm.paths.items():
        if path.size < path.most:
            return f"{first} sends {second} datagrams of {path.size} bytes at most, {path.most} would pass"
    return None


def membership_is_equal(calm: Calm) -> str | None:
    """Every node has its record in the registry, and takes exactly the other nodes for its peers; whoever was revoked counts as
    no node.
    """
    nodes = tuple(calm.known)
    for node, known in calm.known.items():
        if node not in calm.published:
            return f"the registry has no record of {node}"
        missing = [name for name in nodes if name != node and name not in known]
        if missing:
            return f"{node} does not know {', '.join(missing[:3])}"
        strange = [name for name in known if name not in nodes]
        if strange:
            return f"{node} takes {', '.join(strange[:3])} for peers"
    return None


def outages_cost_nothing(calm: Calm) -> str | None:
    """While the registry is away, and from `MEET_NS` after nodes were restarted, every packet between nodes comes out: those
    who knew each other meet again without it.
    """
    lost = calm.lost_in_outages
    return f"{len(lost)} packets were lost without the registry, the first is packet {lost[0]}" if lost else None


def floating_addresses_are_held(calm: Calm) -> str | None:
    """Of the nodes that may have a floating address one of the best has it, and every node takes that one for the holder."""
    return next((broken for broken in map(is_held, calm.floating) if broken is not None), None)


def addresses_have_one_holder(members: Mapping[str, bytes], addresses: Mapping[str, bytes]) -> str | None:
    """Every address entry names a node whose own record is the same and has that address.

    A node's entries come and go in one transaction and on one lease, so this breaks only when something is lost between
    them. It may not hold after a node was restarted with other addresses, until the lease of its earlier life is over.
    """
    for address, value in addresses.items():
        holder = decode_record(None, value)
        if not isinstance(holder, NodeRecord):
            return f"the entry of address {address} cannot be read: {holder.value}"
        if members.get(holder.name) != value:
            return f"the entry of address {address} names {holder.name}, whose record is another or none"
        if address not in [str(each.ip) for each in holder.addresses]:
            return f"the entry of address {address} names {holder.name}, whose record does not have it"
    return None


def strangers_gain_nothing(balance: int, node: str) -> str | None:
    """A stranger is sent no more bytes than he sent, so nobody is flooded through us."""
    return f"{node} sent a stranger {-balance} bytes more than came from him" if balance < 0 else None


def stopping_ends(since_ns: int | None, now_ns: int, node: str) -> str | None:
    """A node that is told to stop has stopped within `STOPS_WITHIN_NS`."""
    if since_ns is None or now_ns - since_ns <= STOPS_WITHIN_NS:
        return None
    return f"{node} is still stopping after {(now_ns - since_ns) / 1e9:.0f} s"


def leaving_frees_the_name(left_ns: int | None, now_ns: int, node: str, members: Mapping[str, bytes]) -> str | None:
    """The record of a node that left in order is gone within `LEAVES_WITHIN_NS`, and does not wait for its lease."""
    if left_ns is None or now_ns - left_ns <= LEAVES_WITHIN_NS or node not in members:
        return None
    return f"the record of {node} is still there {(now_ns - left_ns) / 1e9:.0f} s after it left"


def deadlines_are_kept(due_s: float | None, now_s: float, node: str) -> str | None:
    """Whoever owns a session looks at its deadline when it has come, and no later."""
    return f"{node} let a deadline pass, {now_s - due_s:.3f} s ago" if due_s is not None and due_s < now_s else None


def no_actor_crashes(path: str, error: Exception, has_cause: bool) -> str | None:
    """An actor ends by an error of its surroundings, which is a `PortError`, and only after a fault that is the cause."""
    if not has_cause:
        return f"{path} ended and nothing had befallen it: {brief(error)}"
    if all(isinstance(leaf, PortError | ChildStartError | IntensityExceeded) for leaf in leaves(error)):
        return None
    return f"{path} crashed: {brief(error)}"


ALWAYS: Mapping[str, Callable[..., str | None]] = MappingProxyType(
    {
        promise.__name__: promise
        for promise in (
            no_plaintext_on_the_wire,
            terms_are_what_both_ask_for,
            unpacking_is_bounded,
            no_nonce_used_twice,
            nothing_delivered_twice,
            nothing_altered_or_invented,
            delivered_to_the_addressee,
            inner_source_belongs_to_sender,
            inner_destination_is_ours,
            forgery_changes_nothing,
            initiation_answered_once,
            answers_are_no_longer_than_questions,
            unconfirmed_key_is_not_used,
            expired_keys_are_forgotten,
            keys_are_few,
            queues_are_bounded,
            tables_are_bounded,
            transitions_are_legal,
            waiting_ends,
            records_begin_at_their_first_counter,
            records_are_cut_evenly,
            record_size_is_within_bounds,
            loss_shortens_records,
            reassembly_is_bounded,
            old_pieces_are_forgotten,
            reports_tell_what_was_sent,
            idle_sessions_fall_silent,
            time_moves,
            addresses_have_one_holder,
            deadlines_are_kept,
            strangers_gain_nothing,
            stopping_ends,
            leaving_frees_the_name,
            no_actor_crashes,
            nobody_is_impersonated,
            nobody_is_enrolled_by_another,
            only_named_nodes_are_obeyed,
            addresses_are_certified,
            revoked_stay_out,
            no_older_record_is_believed,
            one_owner_of_a_floating_address,
            fences_are_followed,
            a_fence_has_one_holder,
            only_the_owner_answers,
            earlier_holders_are_not_heard,
            what_is_given_up_leaves_the_device,
            lost_holders_are_replaced,
            one_node_takes_nothing,
            *DTLS_ALWAYS,
        )
    }
    | {promise.__name__: promise for promise in (*CLAIMS_ALWAYS, *CONTROL_ALWAYS)}
)
"""Checked in every run; what cannot happen at a depth cannot break there."""

EVENTUALLY: Mapping[str, Callable[..., str | None]] = MappingProxyType(
    {
        promise.__name__: promise
        for promise in (
            all_pairs_reachable,
            nothing_waits,
            endpoints_are_true,
            nothing_is_lost,
            bystanders_lose_nothing,
            forgers_cost_what_they_foretold,
            records_grow,
            narrow_paths_are_noticed,
            paths_are_wide,
            membership_is_equal,
            outages_cost_nothing,
            floating_addresses_are_held,
        )
    }
    | {promise.__name__: promise for promise in CONTROL_EVENTUALLY}
    | dict(LANES_EVENTUALLY)
)
"""Checked by the time that a scenario sets."""

CONTROL_ONLY = tuple(promise.__name__ for promise in CONTROL_EVENTUALLY)
"""Those that only a control plane can keep, which keeps no other."""

ACTORS_ONLY = (membership_is_equal.__name__, outages_cost_nothing.__name__)
"""Those that only whole nodes can keep."""
FLOATING_ONLY = (floating_addresses_are_held.__name__,)
"""Those that take a floating address."""
AUTHORITY_ONLY = (outages_cost_nothing.__name__,)
"""And of these, those that take an authority: without one nothing is kept."""


def hold(promise: Callable[..., str | None], *facts: object) -> None:
    """Raises `PropertyViolated` when `promise` is broken."""
    broken = promise(*facts)
    if broken is not None:
        raise PropertyViolated(promise.__name__, broken)
