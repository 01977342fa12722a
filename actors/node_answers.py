"""What a node says of itself: the answers to status, peers and ping, and the control socket's requests.

It reads what the actors hold and changes nothing. Not responsible for running them, which is `node`'s, nor for the socket.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING, Any

import trio

from holloway.actors.config import Config
from holloway.actors.control import Answer
from holloway.actors.control_claims import ControlClaims
from holloway.actors.control_claims_answers import CONTROL_OPS, answer_control
from holloway.actors.enrolled import Enrolled
from holloway.actors.gateway import Gateway
from holloway.actors.membership import Membership
from holloway.actors.pair_terms import policy_of
from holloway.actors.peers import child_name
from holloway.actors.ports import Ports
from holloway.actors.registry_plane import floating_name
from holloway.actors.roster import Roster
from holloway.actors.route_answers import gateway_status, routes_answer
from holloway.actors.router import Router
from holloway.actors.running_peer import RunningPeer
from holloway.actors.status import (
    PEERS_SCHEMA,
    PING_SCHEMA,
    STATUS_SCHEMA,
    certificate_status,
    dtls_status,
    floating_status,
    host_prefixes,
    memory_status,
    peer_details,
    peer_drops,
    peer_status,
    program_version,
    queues_status,
    security_status,
    settings_status,
    summary,
)
from holloway.actors.store_member import StoreMember
from holloway.actors.tun_reader import TunReader
from holloway.actors.udp_endpoint import UdpEndpoint
from holloway.actors.wanted import Peer
from holloway.protocols.addresses import format_address
from holloway.protocols.errors import HollowayError
from holloway.protocols.floating_table import FloatingTable
from holloway.protocols.keys import encode_key
from holloway.protocols.memory import MemoryBudget
from holloway.supervisor import Pool

if TYPE_CHECKING:
    from holloway.actors.dtls_credentials import Credentials
    from holloway.actors.dtls_handshaker import DtlsHandshaker

MAX_PING_COUNT = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeAnswers:
    """What a node answers; made of what it shows and shares with its actors."""

    config: Config
    ports: Ports
    public_key: bytes
    enrolled: Enrolled | None
    member: StoreMember | None
    router: Router
    roster: Roster
    pool: Pool[Peer, RunningPeer]
    floating: FloatingTable
    gateway: Gateway
    memory: MemoryBudget
    credentials: Credentials | None
    problems: Counter[str]
    past_drops: Counter[str]
    started_at: float
    running: Callable[[str], Any]
    """The handle of an actor by its path below the root, or `None` between two lives."""
    claims: ControlClaims

    def status(self) -> dict[str, object]:
        """The object that `holloway status --json` prints."""
        config, now, problems = self.config, trio.current_time(), self._peer_problems()
        return {
            "schema": STATUS_SCHEMA,
            "node": {
                "name": config.node.name,
                "public_key": encode_key(self.public_key),
                "network": config.node.network,
                "interface": config.interface.name,
                "addresses": [str(address) for address in config.interface.addresses],
                "mtu": config.interface.device_mtu,
                "listen": self._listening(),
                "uptime_s": round(now - self.started_at, 3),
                "pid": os.getpid(),
                "version": program_version(),
                "backend": config.node.backend or "session",
                "dtls": None
                if self.credentials is None
                else dtls_status(self.credentials, self.running("dataplane.dtls")),
                "security": security_status(policy_of(config)),
                "offloads": self._offloads(),
                "refused_runs": self._refused_runs(),
                "superseded_acknowledgements": self.router.superseded,
                "sparse_first": self._sparse_first(),
                "queues": self._queues(),
                "memory": memory_status(self.memory),
                "registry": self._registry_status(),
                "certificate": None
                if self.enrolled is None
                else certificate_status(self.enrolled, self.ports.wall_ns()),
                "floating": self._floating_status(),
                "settings": settings_status(
                    self.enrolled or self.member, None if self.member is None else self.member.problem
                ),
                "gateway": gateway_status(self.gateway),
            },
            "peers": [
                peer_status(peer, self.roster.running.get(name), problems.get(name), now)
                for name, peer in sorted(self.roster.plan.peers.items())
            ],
            "drops": dict(sorted(self.drops().items())),
        }

    def peers(self) -> dict[str, object]:
        """The object that `holloway peers --json` prints."""
        now, problems = trio.current_time(), self._peer_problems()
        return {
            "schema": PEERS_SCHEMA,
            "peers": [
                peer_details(peer, self.roster.running.get(name), problems.get(name), now)
                for name, peer in sorted(self.roster.plan.peers.items())
            ],
        }

    def routes(self) -> dict[str, object]:
        """The object that `holloway routes --json` prints."""
        return routes_answer(self.config, self.roster, self.gateway)

    def _listening(self) -> list[str]:
        udp: UdpEndpoint | None = self.running("dataplane.udp")
        return [format_address(address) for address in udp.listening] if udp else []

    def _offloads(self) -> list[str]:
        tun: TunReader | None = self.running("dataplane.tun")
        udp: UdpEndpoint | None = self.running("dataplane.udp")
        return [*(tun.port.offloads if tun else ()), *(udp.offloads if udp else ())]

    def _sparse_first(self) -> list[str]:
        """Where flows that send little are carried past others."""
        tun: TunReader | None = self.running("dataplane.tun")
        udp: UdpEndpoint | None = self.running("dataplane.udp")
        has_queue = tun is not None and getattr(tun.port, "sparse", None) is not None
        has_socket = udp is not None and any(getattr(each, "sparse", None) is not None for each in udp.sockets)
        return ["device"] * has_queue + ["sockets"] * has_socket

    def _refused_runs(self) -> dict[str, int]:
        udp: UdpEndpoint | None = self.running("dataplane.udp")
        return dict(sorted(udp.refused_runs().items())) if udp else {}

    def _queues(self) -> list[dict[str, object]]:
        tun: TunReader | None = self.running("dataplane.tun")
        udp: UdpEndpoint | None = self.running("dataplane.udp")
        return queues_status(tun.port if tun else None, udp.sockets if udp else ())

    def _registry_status(self) -> dict[str, object] | None:
        if self.config.registry is None:
            return None
        found: Membership | None = self.running("registry.membership")
        refused = {each.name: each.reason.value for each in self.roster.plan.refused if each.prefix is None}
        return {
            "trust": self.config.registry.trust,
            "in_touch": found is not None and found.is_in_touch,
            "nodes": len(self.roster.found),
            "refused": dict(sorted((refused | (found.records.refused() if found is not None else {})).items())),
        }

    def _floating_status(self) -> list[dict[str, object]]:
        candidates = {
            each.address: self.running(f"registry.{floating_name(each.address)}") for each in self.config.floating
        }
        priorities = {each.address: each.priority for each in self.config.floating}
        return floating_status(self.floating, priorities, candidates)

    def drops(self) -> Counter[str]:
        """Everything that was dropped since the node started, by reason."""
        drops = self.router.drops + self.problems + self.past_drops
        udp: UdpEndpoint | None = self.running("dataplane.udp")
        if udp is not None:
            drops += udp.drops()
        tun: TunReader | None = self.running("dataplane.tun")
        if tun is not None:
            drops += tun.port.drops
        dtls: DtlsHandshaker | None = self.running("dataplane.dtls")
        if dtls is not None:
            drops += dtls.drops
        for peer in self.roster.running.values():
            drops += peer_drops(peer)
        return drops

    def _peer_problems(self) -> dict[str, str]:
        """By name, what keeps wanted peers from being all that was wanted."""
        plan, roster = self.roster.plan, self.roster
        problems = {refused.name: str(refused) for refused in reversed(plan.refused)}
        refused_routes = roster.routes.refused if roster.routes is not None else {}
        if refused_routes:
            for name, peer in plan.peers.items():
                for prefix in peer.allowed:
                    if prefix in refused_routes:
                        problems[name] = f"no kernel route for {prefix}: {refused_routes[prefix]}"
        problems |= {name: found.problem for name, found in roster.running.items() if found.problem is not None}
        absent = [peer for name, peer in plan.peers.items() if name not in roster.running]
        if absent:
            crashes = {info.name: info.error for info in self.pool.children()}
            for peer in absent:
                failure = roster.failures.get(peer.identity)
                crash = crashes.get(child_name(peer.name))
                if failure is not None:
                    problems[peer.name] = f"it cannot be used, and is tried again: {failure.why}"
                else:
                    problems[peer.name] = f"it failed and will be back: {crash}" if crash else "it is not running yet"
        return problems

    async def ping(
        self, name: str, *, count: int = 4, interval_s: float = 1.0, timeout_s: float = 2.0
    ) -> AsyncGenerator[Answer, None]:
        """Ping a peer, by name or inner address, through the tunnel: yields each answer, last the summary.

        Raises `HollowayError` for a peer that we do not have, that does not run, or that has no address of a family of
        ours.
        """
        peer_name, target = self._find(name)
        source = next(
            (address.ip for address in self.config.interface.addresses if address.version == target.version), None
        )
        if source is None:
            raise HollowayError(f"cannot ping {target}", f"this node has no IPv{target.version} address of its own")
        times: list[float] = []
        for sequence in range(1, count + 1):
            began = trio.current_time()
            peer = self.router.routes.lookup(target.packed)  # each time, since its actor may have been restarted
            pong = None if peer is None else await peer.ping(source.packed, target.packed, timeout_s)
            if pong is None:
                yield {"event": {"sequence": sequence, "error": "down" if peer is None else "timeout"}}
            else:
                times.append(pong.round_trip_s * 1000)
                yield {
                    "event": {
                        "sequence": sequence,
                        "rtt_ms": round(times[-1], 3),
                        "path": pong.path,
                        "epoch": pong.epoch,
                    }
                }
            if sequence < count:
                await trio.sleep_until(began + interval_s)
        yield {
            "result": {
                "schema": PING_SCHEMA,
                "peer": peer_name,
                "address": str(target),
                "sent": count,
                "received": len(times),
                "rtt_ms": summary(times),
            }
        }

    def _find(self, name: str) -> tuple[str, IPv4Address | IPv6Address]:
        """The peer of that name or inner address, which runs, and the address to ping."""
        ours = {address.version for address in self.config.interface.addresses}
        peer = self.roster.plan.peers.get(name)
        if peer is not None:
            hosts = [prefix.network_address for prefix in host_prefixes(peer.allowed)]
            target = next((address for address in hosts if address.version in ours), None)
            if target is None:
                raise HollowayError(
                    f"cannot ping {name}",
                    "none of its allowed prefixes is a single address of a family of ours",
                    "ping one of its addresses instead of its name",
                )
            if name not in self.roster.running:
                raise HollowayError(f"cannot ping {name}", self._peer_problems().get(name, "it is not running"))
            return name, target
        try:
            target = ip_address(name)
        except ValueError:
            target = None
        found = None if target is None else self.router.routes.lookup(target.packed)
        if target is None or found is None:
            raise HollowayError(f"no peer {name[:100]}", "no peer has that name or address", "holloway peers")
        return found.peer.name, target

    async def serve(self, request: Answer) -> AsyncGenerator[Answer, None]:
        """Answer one request of the control socket. Raises `HollowayError` for one that makes no sense."""
        match request:
            case {"op": "status"}:
                yield {"result": self.status()}
            case {"op": "peers"}:
                yield {"result": self.peers()}
            case {"op": "routes"}:
                yield {"result": self.routes()}
            case {"op": "ping", "peer": str(name)}:
                count = _number(request, "count", 4, 1, MAX_PING_COUNT)
                if not count.is_integer():
                    raise HollowayError(f"count cannot be {count}", "it must be a whole number")
                interval_s = _number(request, "interval_s", 1.0, 0.001, 3600.0)
                timeout_s = _number(request, "timeout_s", 2.0, 0.001, 3600.0)
                pings = self.ping(name, count=int(count), interval_s=interval_s, timeout_s=timeout_s)
                async with aclosing(pings):
                    async for answer in pings:
                        yield answer
            case {"op": str(op)} if op in CONTROL_OPS:
                async with aclosing(answer_control(request, self.config, self.roster, self.claims)) as answers:
                    async for answer in answers:
                        yield answer
            case _:
                raise HollowayError("an unknown request", "this version knows status, peers, routes and ping")


def _number(request: Answer, key: str, default: float, least: float, most: float) -> float:
    value = request.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise HollowayError(f"{key} cannot be {value!r}"[:200], f"it must be a number from {least} to {most}")
    return float(value)
