"""What a node says of itself: the objects behind `status` and `peers`, in the form that the command line prints.

Not responsible for asking nor for printing. A peer that is wanted and does not run is told of like any other, with its
`problem`: nothing that was configured is missing from the answer.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from holloway.actors.tun_queues import TunQueues
from holloway.actors.udp_queues import UdpQueues
from holloway.protocols.addresses import format_address
from holloway.protocols.compression import Packing
from holloway.protocols.keys import encode_key
from holloway.protocols.network_settings import AT_NEXT_START, differences, encode_settings
from holloway.protocols.offers import Policy

if TYPE_CHECKING:
    from holloway.actors.config.model import Prefix
    from holloway.actors.dtls_credentials import Credentials
    from holloway.actors.dtls_handshaker import DtlsHandshaker
    from holloway.actors.enrolled import Enrolled
    from holloway.actors.floating import Candidate
    from holloway.actors.ports import DatagramPort, TunPort
    from holloway.actors.running_peer import RunningPeer
    from holloway.actors.store_member import StoreMember
    from holloway.actors.wanted import Peer
    from holloway.protocols.errors import HollowayError
    from holloway.protocols.floating_table import FloatingTable
    from holloway.protocols.memory import MemoryBudget

STATUS_SCHEMA = "holloway.status/1"
PEERS_SCHEMA = "holloway.peers/1"
PING_SCHEMA = "holloway.ping/1"


def program_version() -> str:
    """The version of the installed program."""
    return version("holloway")


def memory_status(memory: MemoryBudget) -> dict[str, int]:
    """The part `node.memory` of `status`."""
    return {"held_bytes": memory.held, "peak_bytes": memory.peak, "cap_bytes": memory.cap}


def queues_status(device: TunPort | None, sockets: Sequence[DatagramPort]) -> list[dict[str, object]]:
    """The part `node.queues` of `status`: what came by each queue, of the device and of all sockets of that number; nothing with
    only one, where it would say what the sums over the peers say.
    """
    tun = device.queues if isinstance(device, TunQueues) else []
    families = [family.queues for family in sockets if isinstance(family, UdpQueues)]
    return [
        {
            "udp": {
                "datagrams": sum(queue.datagrams for queue in queues),
                "bytes": sum(queue.bytes for queue in queues),
                "drops": _by_reason(queue.drops for queue in queues),
            },
            "tun": {"packets": mine.packets, "bytes": mine.bytes, "drops": _by_reason([mine.drops])},
        }
        for mine, *queues in zip(tun, *families, strict=False)  # between two lives one of them may be missing
    ]


def _by_reason(drops: Iterable[Counter[str]]) -> dict[str, int]:
    return dict(sorted(sum(drops, Counter[str]()).items()))


def certificate_status(enrolled: Enrolled, wall_ns: int) -> dict[str, object]:
    """The part `node.certificate` of `status`: for how long it is good, and why the others do not believe it, if so; and the newest
    revocation list, by which this node judges theirs."""
    now = wall_ns // 10**9
    trust = enrolled.trust
    problem, overdue = trust.own_problem(enrolled.certificate, now), trust.list_problem(now)
    return {
        "fingerprint": enrolled.identity.public.fingerprint.hex(),
        "expires_in_s": enrolled.certificate.not_after - now,
        "problem": None if problem is None else problem.value,
        "revocations": {
            "number": trust.list_number,
            "next_in_s": None if trust.revocations is None else trust.revocations.next_update - now,
            "problem": None if overdue is None else overdue.value,
        },
    }


def settings_status(member: Enrolled | StoreMember | None, problem: HollowayError | None) -> dict[str, object] | None:
    """The part `node.settings` of `status`: the newest settings of the network, and which of them wait for the next start. `problem`:
    why the registry does not give us our address any more, if so."""
    if member is None:
        return None
    said: dict[str, object] = json.loads(encode_settings(member.newest))
    del said["v"]
    waiting = [each for each in differences(member.settings, member.newest) if each in AT_NEXT_START]
    return said | {"waiting": waiting, "problem": None if problem is None else str(problem)}


def dtls_status(credentials: Credentials, handshaker: DtlsHandshaker | None) -> dict[str, object]:
    """The part `node.dtls` of `status`: whether the certificates of others are verified, and how many associations are up."""
    return {
        "verified": credentials.is_verifying,
        "associations": 0 if handshaker is None else handshaker.associations,
    }


def floating_status(
    table: FloatingTable, priorities: Mapping[IPv4Address, int], candidates: Mapping[IPv4Address, Candidate | None]
) -> list[dict[str, object]]:
    """The part `node.floating` of `status`: the addresses that this node may have, and all that somebody holds."""
    found: list[dict[str, object]] = []
    for address in sorted({*table.holders(), *priorities}):
        holder, candidate = table.holder(address), candidates.get(address)
        state = "out" if address in priorities else "followed"
        found.append(
            {
                "address": str(address),
                "holder": None if holder is None else holder.name,
                "ours": candidate is not None and candidate.owns(),
                "priority": priorities.get(address),
                "state": state if candidate is None else candidate.phase.name.lower(),
            }
        )
    return found


def security_status(policy: Policy) -> dict[str, object]:
    """The part `node.security` of `status`: what is required of every peer, and what this node offers."""
    return {
        "require": policy.require.word,
        "offers": list(policy.offers.security),
        "compression": policy.compression,
    }


def packing_status(packing: Packing) -> dict[str, dict[str, int]]:
    """The part `compressed` of `peers`: bytes before and after, and those that went as they were."""
    return {
        "rx": {"plain_bytes": packing.received_plain, "packed_bytes": packing.received_packed},
        "tx": {
            "plain_bytes": packing.sent_plain,
            "packed_bytes": packing.sent_packed,
            "skipped_bytes": packing.sent_skipped,
        },
    }


def peer_status(peer: Peer, running: RunningPeer | None, problem: str | None, now: float) -> dict[str, object]:
    """One element of `peers` in `status`. Times are seconds ago, round trips milliseconds, as of monotonic `now`.

    `running`: the peer's actor, if it runs. `problem`: what keeps the peer from being all that was wanted, if anything.
    """
    status: dict[str, object] = {
        "name": peer.name,
        "addresses": [str(prefix.network_address) for prefix in host_prefixes(peer.allowed)],
        "endpoint": None,
        "state": "down",
        "suite": peer.suite,
        "security": None,
        "compression": None,
        "epoch": 0,
        "last_handshake_s": None,
        "rtt_ms": None,
        "rx": {"packets": 0, "bytes": 0},
        "tx": {"packets": 0, "bytes": 0},
        "problem": problem,
    }
    if running is None:
        return status
    session = running.session
    return status | {
        "endpoint": format_address(session.endpoint) if session.endpoint else None,
        "state": running.health(),
        "suite": running.suite,
        "security": None if running.security is None else running.security.word,
        "compression": running.compression,
        "epoch": session.epoch,
        "last_handshake_s": _since(session.last_handshake_at, now),
        "rtt_ms": None if session.round_trip_s is None else round(session.round_trip_s * 1000, 3),
        "rx": {"packets": session.received.packets, "bytes": session.received.bytes},
        "tx": {"packets": session.transmitted.packets, "bytes": session.transmitted.bytes},
    }


def peer_details(peer: Peer, running: RunningPeer | None, problem: str | None, now: float) -> dict[str, object]:
    """One element of `peers`: the same and more."""
    return peer_status(peer, running, problem, now) | {
        "public_key": encode_key(peer.public_key),
        "allowed": [str(prefix) for prefix in peer.allowed],
        "keepalive_s": peer.keepalive_s,
        "handshakes": running.session.handshakes_total if running else 0,
        "last_received_s": _since(running.session.last_received_at, now) if running else None,
        "compressed": packing_status((running.packing if running else None) or Packing()),
        "drops": dict(sorted(peer_drops(running).items())) if running else {},
    }


def peer_drops(peer: RunningPeer) -> Counter[str]:
    """Everything dropped at one peer, by reason."""
    drops = Counter(peer.drops)
    for reason, count in peer.session.drops.items():
        drops[reason.value] += count
    return drops


def host_prefixes(prefixes: Iterable[Prefix]) -> list[Prefix]:
    """Those of one address."""
    return [prefix for prefix in prefixes if prefix.prefixlen == prefix.max_prefixlen]


def summary(times_ms: Sequence[float]) -> dict[str, float] | None:
    """Least, mean and greatest of some round trips, to a microsecond; `None` of none."""
    if not times_ms:
        return None
    mean = sum(times_ms) / len(times_ms)
    return {"min": round(min(times_ms), 3), "avg": round(mean, 3), "max": round(max(times_ms), 3)}


def _since(at: float | None, now: float) -> float | None:
    return None if at is None else round(now - at, 3)
