"""The daemon's answers as typed values.

The control protocol's objects are checked field by field: one that does not fit raises `CommandFailedError`, which names
the field. Further fields are let through, so that a newer daemon may say more. Not responsible for transport or printing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from holloway.cli.failures import CommandFailedError
from holloway.cli.plain_text import Json, one_line

SECURITY = ("session", "dtls", "none")
COMPRESSION = ("lz4", "none")
STATES = ("ok", "handshaking", "stale", "down")
FLOATING_STATES = ("out", "waiting", "holding", "leaving", "followed")
GATEWAY_STATES = (*STATES, "absent", "unwilling")
ROUTE_KINDS = ("local", "announced", "peer", "gateway")
ROUTE_STATES = ("installed", "connected", "refused", "unreachable", "unused", "none")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Traffic:
    """Inner packets and their bytes in one direction since the node started."""

    packets: int
    size: int


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """One peer in `status`: addresses as text; the age of its last handshake in seconds and its round trip in ms, None
    when there has been none."""

    name: str
    addresses: list[str]
    endpoint: str | None
    state: str
    suite: str
    security: str | None
    """How data is protected now: `session`, `dtls`, or `none`, which is not at all; None while there is no key."""
    compression: str | None
    epoch: int
    last_handshake_s: float | None
    rtt_ms: float | None
    received: Traffic
    sent: Traffic
    problem: str | None
    """What keeps the peer from being all that was wanted, in words."""

    @property
    def protection(self) -> str:
        """The suite, and what becomes of data, in words."""
        suite = "NOT ENCRYPTED" if self.security == "none" else self.suite
        return suite if self.compression in (None, "none") else f"{suite}, {self.compression}"


@dataclass(frozen=True, slots=True)
class Compressed:
    """Bytes before and after compression, and those that were sent as they were."""

    received_plain: int
    received_packed: int
    sent_plain: int
    sent_packed: int
    sent_skipped: int


@dataclass(frozen=True, slots=True)
class PeerDetail:
    """One peer in `peers`: what `status` says, and its settings and counters."""

    status: PeerStatus
    public_key: str
    allowed: list[str]
    keepalive_s: float
    handshakes: int
    compressed: Compressed | None
    drops: dict[str, int]


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes that packets and datagrams take which wait: now, at the most so far, at the most ever."""

    held: int
    peak: int
    cap: int


@dataclass(frozen=True, slots=True)
class RegistryStatus:
    """The registry as the node sees it: `refused` are records that are not believed, by node, and why."""

    trust: str
    is_in_touch: bool
    nodes: int
    refused: dict[str, str]


@dataclass(frozen=True, slots=True)
class CertificateStatus:
    """The node's certificate, and what is wrong with the revocation list by which it judges others."""

    expires_in_s: float
    problem: str | None
    list_problem: str | None


@dataclass(frozen=True, slots=True)
class FloatingStatus:
    """A floating address as the node sees it: who has it, and where this node stands with it."""

    address: str
    holder: str | None
    is_ours: bool
    priority: int | None
    state: str


@dataclass(frozen=True, slots=True)
class GatewayStatus:
    """What the node does with default routes: `through` which peer its own leads, and how that is; None for neither."""

    through: str | None
    state: str | None
    problem: str | None
    masquerades: bool


@dataclass(frozen=True, slots=True)
class Route:
    """One prefix in `routes`: to whom it leads (None: to this node), why, what the kernel has, and why it has not."""

    prefix: str
    via: str | None
    kind: str
    kernel: str
    why: str | None


@dataclass(frozen=True, slots=True)
class NodeSecurity:
    """What the node requires of every peer, what it offers, and what it compresses with."""

    require: str
    offers: list[str]
    compression: str


@dataclass(frozen=True, slots=True)
class QueueStatus:
    """What came by one of several queues: from the network, and from the host; `drops` are those of both."""

    datagrams: int
    packets: int
    drops: int


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """The node in `status`."""

    name: str
    public_key: str
    network: str
    interface: str
    addresses: list[str]
    mtu: int
    listen: list[str]
    uptime_s: float
    pid: int
    version: str
    backend: str
    is_verifying: bool
    """False: over DTLS, every certificate is believed."""
    security: NodeSecurity | None
    offloads: list[str]
    refused_runs: dict[str, int]
    sparse_first: list[str]
    queues: list[QueueStatus]
    memory: Memory
    registry: RegistryStatus | None
    certificate: CertificateStatus | None
    floating: list[FloatingStatus]
    waiting: list[str]
    """Settings of the network that the node obeys from its next start on."""
    address_problem: str | None
    """Why the registry does not give it its address any more."""
    gateway: GatewayStatus | None


@dataclass(frozen=True, slots=True)
class Status:
    """The whole answer to `status`; `drops` are packets lost, by reason."""

    node: NodeStatus
    peers: list[PeerStatus]
    drops: dict[str, int]


@dataclass(frozen=True, slots=True)
class PingEvent:
    """One ping: answered (`rtt_ms`, `path`, `epoch`) or not (`error`)."""

    sequence: int
    rtt_ms: float | None = None
    path: str = ""
    epoch: int = 0
    error: str | None = None


@dataclass(frozen=True, slots=True)
class PingResult:
    """The sum of a ping; `rtt_ms` is (min, avg, max), None without any reply."""

    peer: str
    address: str
    sent: int
    received: int
    rtt_ms: tuple[float, float, float] | None


class Fields:
    """One JSON object, read field by field; `place` names it in complaints."""

    def __init__(self, content: Json, place: str) -> None:
        if not isinstance(content, dict):
            raise misfit(place, "is not an object")
        self._content: Mapping[str, Json] = content
        self._place = place

    def text(self, key: str) -> str:
        return self._typed(key, str, "text")

    def integer(self, key: str) -> int:
        value = self._typed(key, int, "an integer")
        if value < 0:
            raise misfit(f"{self._place}.{key}", "is negative")
        return value

    def number(self, key: str) -> float:
        value = self._content.get(key)
        # The bound keeps arithmetic and formatting safe: JSON integers have no end.
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e15:
            raise misfit(f"{self._place}.{key}", "is not a number of 0 or more")
        return float(value)

    def optional(self, key: str, read: Callable[[str], T]) -> T | None:
        """None when the field is null; it must be there."""
        if key in self._content and self._content[key] is None:
            return None
        return read(key)

    def has(self, key: str) -> bool:
        return key in self._content

    def is_null(self, key: str) -> bool:
        if key not in self._content:
            raise misfit(f"{self._place}.{key}", "is missing")
        return self._content[key] is None

    def names(self) -> list[str]:
        return list(self._content)

    def flag(self, key: str) -> bool:
        value = self._content.get(key)
        if not isinstance(value, bool):
            raise misfit(f"{self._place}.{key}", "is neither true nor false")
        return value

    def texts(self, key: str) -> list[str]:
        items = self._typed(key, list, "a list")
        for item in items:
            if not isinstance(item, str):
                raise misfit(f"{self._place}.{key}", "is not a list of texts")
        return [item for item in items if isinstance(item, str)]

    def inners(self, key: str) -> list[Fields]:
        items = self._typed(key, list, "a list")
        return [Fields(item, f"{self._place}.{key}[{position}]") for position, item in enumerate(items)]

    def inner(self, key: str) -> Fields:
        return Fields(self._content.get(key), f"{self._place}.{key}")

    def counters(self, key: str) -> dict[str, int]:
        counts = self.inner(key)
        return {name: counts.integer(name) for name in counts._content}

    def one_of(self, key: str, words: tuple[str, ...]) -> str:
        word = self.text(key)
        if word not in words:
            raise misfit(f"{self._place}.{key}", f"is not one of {', '.join(words)}")
        return word

    def _typed(self, key: str, kind: type[T], words: str) -> T:
        value = self._content.get(key)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise misfit(f"{self._place}.{key}", f"is not {words}")
        return value


def misfit(place: str, how: str) -> CommandFailedError:
    """The failure of an answer that does not fit this version."""
    return CommandFailedError(
        "the daemon's answer does not fit this version of holloway",
        f"{one_line(place)} {how}",
        "holloway version   and compare it with the daemon's; restart the daemon after an update",
    )


def read_status(answer: Json) -> Status:
    """The answer to `status`."""
    fields = _versioned(answer, "holloway.status/1")
    node = fields.inner("node")
    memory = node.inner("memory")
    settings = None if node.is_null("settings") else node.inner("settings")
    return Status(
        node=NodeStatus(
            name=node.text("name"),
            public_key=node.text("public_key"),
            network=node.text("network"),
            interface=node.text("interface"),
            addresses=node.texts("addresses"),
            mtu=node.integer("mtu"),
            listen=node.texts("listen"),
            uptime_s=node.number("uptime_s"),
            pid=node.integer("pid"),
            version=node.text("version"),
            backend=node.text("backend"),
            is_verifying=node.is_null("dtls") or node.inner("dtls").flag("verified"),
            security=_node_security(node.inner("security")) if node.has("security") else None,
            offloads=node.texts("offloads"),
            refused_runs=node.counters("refused_runs"),
            sparse_first=node.texts("sparse_first"),
            queues=[_queue_status(each) for each in node.inners("queues")] if node.has("queues") else [],
            memory=Memory(*(memory.integer(f"{key}_bytes") for key in ("held", "peak", "cap"))),
            registry=None if node.is_null("registry") else _registry_status(node.inner("registry")),
            certificate=None if node.is_null("certificate") else _certificate_status(node.inner("certificate")),
            floating=[_floating_status(each) for each in node.inners("floating")],
            waiting=[] if settings is None else settings.texts("waiting"),
            address_problem=None if settings is None else settings.optional("problem", settings.text),
            gateway=None if node.is_null("gateway") else _gateway_status(node.inner("gateway")),
        ),
        peers=[_peer_status(each) for each in fields.inners("peers")],
        drops=fields.counters("drops"),
    )


def _queue_status(queue: Fields) -> QueueStatus:
    udp, tun = queue.inner("udp"), queue.inner("tun")
    drops = sum(udp.counters("drops").values()) + sum(tun.counters("drops").values())
    return QueueStatus(udp.integer("datagrams"), tun.integer("packets"), drops)


def _registry_status(registry: Fields) -> RegistryStatus:
    refused = registry.inner("refused")
    return RegistryStatus(
        trust=registry.text("trust"),
        is_in_touch=registry.flag("in_touch"),
        nodes=registry.integer("nodes"),
        refused={name: refused.text(name) for name in refused.names()},
    )


def _certificate_status(certificate: Fields) -> CertificateStatus:
    revocations = certificate.inner("revocations") if certificate.has("revocations") else None
    return CertificateStatus(
        expires_in_s=certificate.number("expires_in_s"),
        problem=None if certificate.is_null("problem") else certificate.text("problem"),
        list_problem=None if revocations is None else revocations.optional("problem", revocations.text),
    )


def _floating_status(floating: Fields) -> FloatingStatus:
    return FloatingStatus(
        address=floating.text("address"),
        holder=floating.optional("holder", floating.text),
        is_ours=floating.flag("ours"),
        priority=floating.optional("priority", floating.integer),
        state=floating.one_of("state", FLOATING_STATES),
    )


def _gateway_status(gateway: Fields) -> GatewayStatus:
    return GatewayStatus(
        through=gateway.optional("through", gateway.text),
        state=gateway.optional("state", lambda key: gateway.one_of(key, GATEWAY_STATES)),
        problem=gateway.optional("problem", gateway.text),
        masquerades=gateway.flag("masquerade"),
    )


def read_routes(answer: Json) -> tuple[GatewayStatus | None, list[Route]]:
    """The answer to `routes`."""
    fields = _versioned(answer, "holloway.routes/1")
    routes = [
        Route(
            prefix=each.text("prefix"),
            via=each.optional("via", each.text),
            kind=each.one_of("kind", ROUTE_KINDS),
            kernel=each.one_of("kernel", ROUTE_STATES),
            why=each.optional("why", each.text),
        )
        for each in fields.inners("routes")
    ]
    return None if fields.is_null("gateway") else _gateway_status(fields.inner("gateway")), routes


def read_peers(answer: Json) -> list[PeerDetail]:
    """The answer to `peers`."""
    return [
        PeerDetail(
            status=_peer_status(each),
            public_key=each.text("public_key"),
            allowed=each.texts("allowed"),
            keepalive_s=each.number("keepalive_s"),
            handshakes=each.integer("handshakes"),
            compressed=_compressed(each.inner("compressed")) if each.has("compressed") else None,
            drops=each.counters("drops"),
        )
        for each in _versioned(answer, "holloway.peers/1").inners("peers")
    ]


def _compressed(fields: Fields) -> Compressed:
    rx, tx = fields.inner("rx"), fields.inner("tx")
    return Compressed(
        rx.integer("plain_bytes"),
        rx.integer("packed_bytes"),
        tx.integer("plain_bytes"),
        tx.integer("packed_bytes"),
        tx.integer("skipped_bytes"),
    )


def _node_security(fields: Fields) -> NodeSecurity:
    return NodeSecurity(
        require=fields.one_of("require", SECURITY),
        offers=fields.texts("offers"),
        compression=fields.one_of("compression", COMPRESSION),
    )


def read_ping_event(event: Json) -> PingEvent:
    """One event of `ping`."""
    fields = Fields(event, "event")
    sequence = fields.integer("sequence")
    if fields.has("error"):
        return PingEvent(sequence, error=fields.text("error"))
    return PingEvent(sequence, fields.number("rtt_ms"), fields.text("path"), fields.integer("epoch"))


def read_ping(answer: Json) -> PingResult:
    """The result of `ping`."""
    fields = _versioned(answer, "holloway.ping/1")
    spread = fields.optional("rtt_ms", fields.inner)
    times = None if spread is None else (spread.number("min"), spread.number("avg"), spread.number("max"))
    return PingResult(
        fields.text("peer"), fields.text("address"), fields.integer("sent"), fields.integer("received"), times
    )


def _versioned(answer: Json, schema: str) -> Fields:
    fields = Fields(answer, "result")
    if fields.text("schema") != schema:
        raise misfit("result.schema", f"is {fields.text('schema')}, not {schema}")
    return fields


def _peer_status(fields: Fields) -> PeerStatus:
    return PeerStatus(
        name=fields.text("name"),
        addresses=fields.texts("addresses"),
        endpoint=fields.optional("endpoint", fields.text),
        state=fields.one_of("state", STATES),
        suite=fields.text("suite"),
        security=_optional_word(fields, "security", SECURITY),
        compression=_optional_word(fields, "compression", COMPRESSION),
        epoch=fields.integer("epoch"),
        last_handshake_s=fields.optional("last_handshake_s", fields.number),
        rtt_ms=fields.optional("rtt_ms", fields.number),
        received=_traffic(fields.inner("rx")),
        sent=_traffic(fields.inner("tx")),
        problem=fields.optional("problem", fields.text) if fields.has("problem") else None,
    )


def _optional_word(fields: Fields, key: str, words: tuple[str, ...]) -> str | None:
    """One of some words, null, or nothing at all."""
    return fields.optional(key, lambda key: fields.one_of(key, words)) if fields.has(key) else None


def _traffic(fields: Fields) -> Traffic:
    return Traffic(fields.integer("packets"), fields.integer("bytes"))
