"""The interesting places that a scenario wants its runs to reach: `sometimes` properties.

A scenario that never gets there tests less than it seems to, so that is a failure of the scenario. Each is a name, what it
means, and how it is recognised: by an event of a session, by a drop that was counted, or by the world, which calls `reach`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from holloway.protocols.events import (
    DropReason,
    EndpointMoved,
    Event,
    HandshakeCompleted,
    HandshakeGaveUp,
    HandshakeStarted,
    KeyExpired,
    PeerForgotUs,
)


@dataclass(frozen=True, slots=True)
class Milestone:
    """One place. `event` recognises it in an event of a session, `drops` in its counters or those of its node.
    `needs_actors`: only whole nodes get there; `needs_registry`: and only with one; `needs_authority`: and only
    with an authority; `needs_floating`: only where an address floats; `needs_control`: only a control plane gets there;
    `needs_dtls`: only nodes that speak DTLS.
    """

    meaning: str
    event: Callable[[Event], bool] | None = None
    drops: tuple[DropReason, ...] = ()
    needs_actors: bool = False
    needs_registry: bool = False
    needs_authority: bool = False
    needs_floating: bool = False
    needs_control: bool = False
    needs_dtls: bool = False


def _is_rekey(event: Event) -> bool:
    return isinstance(event, HandshakeCompleted) and event.epoch > 2  # two may be of one moment, when both dial


def _is_repeat(event: Event) -> bool:
    return isinstance(event, HandshakeStarted) and event.attempt > 1


def _is_roaming(event: Event) -> bool:
    return isinstance(event, EndpointMoved) and event.old is not None


def _whole(meaning: str) -> Milestone:
    return Milestone(meaning, needs_actors=True)


def _registered(meaning: str) -> Milestone:
    return Milestone(meaning, needs_actors=True, needs_registry=True)


def _certified(meaning: str) -> Milestone:
    return Milestone(meaning, needs_actors=True, needs_registry=True, needs_authority=True)


def _floating(meaning: str) -> Milestone:
    return Milestone(meaning, needs_floating=True)


def _commanded(meaning: str) -> Milestone:
    return Milestone(meaning, needs_control=True)


def _over_dtls(meaning: str) -> Milestone:
    return Milestone(meaning, needs_actors=True, needs_dtls=True)


SOMETIMES: Mapping[str, Milestone] = MappingProxyType(
    {
        "rekey_completed": Milestone("a session changed to its third key or a later one", _is_rekey),
        "dial_repeated": Milestone("an initiation was not answered and sent again", _is_repeat),
        "gave_up": Milestone("a node gave up dialling", lambda event: isinstance(event, HandshakeGaveUp)),
        "key_expired": Milestone("a key died without a successor", lambda event: isinstance(event, KeyExpired)),
        "roamed": Milestone("a node followed its peer to another address", _is_roaming),
        "peer_forgot_us": Milestone(
            "a reset told a node that its peer had restarted", lambda event: isinstance(event, PeerForgotUs)
        ),
        "both_dialled_at_once": Milestone("a node answered an initiation while its own was under way"),
        "packet_waited": Milestone("a packet waited for a key"),
        "replay_refused": Milestone("a datagram came again and was refused", drops=(DropReason.REPLAYED,)),
        "replayed_initiation_refused": Milestone(
            "an initiation came again and was refused", drops=(DropReason.REPLAYED_INITIATION,)
        ),
        "forgery_refused": Milestone(
            "an altered datagram was refused", drops=(DropReason.NOT_AUTHENTIC, DropReason.HANDSHAKE_NOT_AUTHENTIC)
        ),
        "spoof_refused": Milestone(
            "an inner address that was not the sender's was refused", drops=(DropReason.SOURCE_NOT_ALLOWED,)
        ),
        "misdirection_refused": Milestone(
            "an inner packet for somebody else was refused", drops=(DropReason.DESTINATION_NOT_OURS,)
        ),
        "cookie_demanded": Milestone("a node under load asked for cookies", drops=(DropReason.COOKIE_REQUIRED,)),
        "stranger_rate_limited": Milestone(
            "a source sent handshakes faster than it may", drops=(DropReason.RATE_LIMITED,)
        ),
        "queue_overflowed": Milestone("packets that waited made room for newer ones", drops=(DropReason.STAGING_FULL,)),
        "super_packet_went_straight": Milestone("a super-packet was sealed on the short way of a bulk flow"),
        "run_went_straight": Milestone("a run was opened on the short way of a bulk flow"),
        "record_came_as_run": Milestone("a record of several datagrams came whole, as one run"),
        "record_came_in_pieces": Milestone("a record of several datagrams was put together from its pieces"),
        "packet_went_sparse": Milestone("a packet left in a record of the sparse lane"),
        "sparse_overtook": Milestone("a record of the sparse lane overtook another that waited in a queue"),
        "key_began_sparse": Milestone("the first record that came under a key was of the sparse lane"),
        "record_lost": Milestone("a peer reported a lost record"),
        "record_size_grew": Milestone("a report without a loss made records longer"),
        "record_size_fell": Milestone("a report of a loss made records shorter"),
        "path_grew": Milestone("datagrams became longer than they had been on a narrow path"),
        "path_shrank": Milestone("a path that lost long datagrams got shorter ones"),
        "told_too_big": Milestone("a node told a program of its host that a packet was too long"),
        "piece_expired": Milestone("the rest of a record never came", drops=(DropReason.PIECE_EXPIRED,)),
        "forged_piece_refused": Milestone(
            "a piece was refused for where it came from, or for its counter",
            drops=(DropReason.PIECE_FOREIGN_SOURCE, DropReason.PIECE_OUT_OF_RANGE),
        ),
        "absurd_report_refused": Milestone(
            "a report that cannot be true was refused", drops=(DropReason.REPORT_ABSURD,)
        ),
        "sent_in_clear": Milestone("two nodes that both ask for plain text had it"),
        "record_compressed": Milestone("a record came out of its compression"),
        "bomb_refused": Milestone(
            "a record was refused that would have become too long, or was no compressed one",
            drops=(DropReason.UNPACKING_REFUSED,),
        ),
        "plain_text_refused": Milestone(
            "a record in clear was refused by a session that had not agreed on it",
            drops=(DropReason.PLAINTEXT_REFUSED,),
        ),
        "actor_restarted": _whole("a supervisor started an actor again"),
        "queue_replaced": _whole("one of several sockets broke, and who read it was started again"),
        "node_gave_up": _whole("a node ended by itself, and was started again"),
        "registry_unreachable": _registered("a call to the registry was refused or not answered"),
        "answer_lost": _registered("the registry did something, and the answer was lost"),
        "history_compacted": _registered("a watch of the registry was told that the history is gone"),
        "lease_retaken": _registered("a node took a new lease after it had lost one"),
        "store_full": _registered("the registry had no room for what a node wrote"),
        "address_rested": _registered("an address was let go of, and rested"),
        "race_lost": _registered("a node wanted to change something in the registry, and another was faster"),
        "watch_was_stale": _registered("a change in the registry was held back from a node"),
        "floating_moved": _floating("a floating address went from one node to another"),
        "dead_holder_replaced": _floating("a node took a floating address whose holder had been killed"),
        "stopped_holder_replaced": _floating("a node took a floating address whose holder was told to stop"),
        "stalled_holder_replaced": _floating("a node took a floating address whose holder stood still"),
        "holder_without_store_replaced": _floating(
            "a node took a floating address whose holder could not reach the registry"
        ),
        "unreachable_holder_replaced": _floating(
            "a node took a floating address whose holder reached the registry, and no peer"
        ),
        "floating_handed_over": _floating("a node took a floating address from a holder of lower priority"),
        "floating_answered": _floating("whoever had a floating address answered a program"),
        "record_refused": _certified("a node did not believe a record"),
        "stale_list_refused": _certified(
            "a node was shown an older revocation list than it had seen, and did not take it"
        ),
        "control_plane_seen": _certified(
            "a node believed another's agent and a broker, and not all that announced one"
        ),
        "revoked_returned_in_vain": _certified("a revoked node began another life, and nobody took it for a peer"),
        "restarted_without_store": _certified(
            "a node began another life while the registry was away, and knew the others"
        ),
        "hello_lost": _over_dtls("the first flight of a handshake was lost"),
        "cookie_lost": _over_dtls("the answer to it with a cookie was lost"),
        "server_flight_lost": _over_dtls("a datagram with the certificate of whoever was dialled was lost"),
        "client_flight_lost": _over_dtls("a datagram with the certificate of whoever dialled was lost"),
        "last_flight_lost": _over_dtls("the flight that ends a handshake was lost"),
        "repeated_hello_refused": _over_dtls("a hello came for an association that there was already"),
        "bad_certificate_refused": _over_dtls("a node did not believe a certificate"),
        "refused_by_peer": _over_dtls("a node was told that its certificate is not believed"),
        "job_ran": _commanded("a step of a job began on a node"),
        "job_ok": _commanded("a job ended well on a node"),
        "job_failed": _commanded("a job ended with another code than 0, or could not be started"),
        "job_refused": _commanded("an agent refused a job"),
        "job_unreachable": _commanded("a job surely never left for a node"),
        "job_timed_out": _commanded("an agent stopped a job at its deadline"),
        "job_cancelled": _commanded("a job was cancelled on a node, before or while it ran"),
        "job_unknown": _commanded("nobody could tell how a job ended on a node"),
        "job_answered_late": _commanded("an agent told of an end that the broker had given up"),
        "cancel_told_late": _commanded("a node that came back heard of a cancelled job that had been given up there"),
        "job_output_missed": _commanded("a job ended whose output had not all come"),
        "job_sent_again": _commanded("an agent got a job that it knew already, and did not run it again"),
        "process_waited": _commanded("a process was not read because its output could not leave"),
        "broker_returned_to_jobs": _commanded("a broker began another life while jobs were running"),
        "connection_was_gone": _commanded("a broker was told that a message could not leave"),
        "output_thrown_away": _commanded("output made room for newer output"),
        "node_refused": _commanded("what a node may not do was refused"),
        "stolen_key_refused": _commanded("an agent whose key another node had named was not taken for that one"),
        "malformed_refused": _commanded("frames that are no message were refused"),
        "file_put": _commanded("a file arrived at the broker"),
        "file_got": _commanded("a file arrived at an operator"),
        "file_synced": _commanded("a file arrived at a node that was told to sync it"),
        "file_resumed": _commanded("a file that was cut off went on where it had been"),
        "file_changed": _commanded("a file was another one in the end than in the beginning, and was not stored"),
        "file_refused": _commanded("a file was refused because too many, or the same one, were under way"),
        "nobody_meant": _commanded("a job was refused because its target fits nobody"),
        "flood_refused": _commanded("a job was refused because too many were running"),
    }
)
"""Every place by the name that scenarios use."""

_BY_EVENT = {name: place.event for name, place in SOMETIMES.items() if place.event is not None}


class Reached:
    """Which places a run has reached, and how often; also what its session machines went through."""

    def __init__(self) -> None:
        self.places: Counter[str] = Counter()
        self.transitions: Counter[str] = Counter()
        self.drops: Counter[str] = Counter()

    def reach(self, place: str) -> None:
        """The world saw one that no event tells."""
        self.places[place] += 1

    def note_event(self, event: Event) -> None:
        for name, recognises in _BY_EVENT.items():
            if recognises(event):
                self.places[name] += 1

    def note_drops(self, drops: Mapping[DropReason, int]) -> None:
        """The counters of a session or a node whose life is over."""
        for reason, count in drops.items():
            self.drops[reason.value] += count
        for name, place in SOMETIMES.items():
            count = sum(drops.get(reason, 0) for reason in place.drops)
            if count:
                self.places[name] += count

    def add(self, others: Iterable[Reached]) -> None:
        """Count what other runs have reached, too."""
        for other in others:
            self.places += other.places
            self.transitions += other.transitions
            self.drops += other.drops
