"""The configuration of a node as values: what `open_node` takes, whether read from a file or built by a program.

Not responsible for files, defaults that depend on the environment, or for judging the values: `verify_config` does that.
Suites are plain words here so that reading a configuration needs no cryptography. `repr` shows no key.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Interface, IPv6Network
from pathlib import Path
from typing import TypeAlias

InterfaceAddress: TypeAlias = IPv4Interface | IPv6Interface
Prefix: TypeAlias = IPv4Network | IPv6Network

DEFAULT_NETWORK = "holloway"
DEFAULT_MTU = 1420  # room for the outer IPv6 and UDP headers and the record within 1500
DTLS_MTU = 1400  # as holloway.protocols.dtls_wire has it, which a test holds to this
DEFAULT_PORT = 1099
DEFAULT_LEASE_S = 30.0
SIZE_UNITS = {"GiB": 1 << 30, "MiB": 1 << 20, "KiB": 1 << 10, "B": 1}
SUITES = ("aes-gcm", "wireguard")
BACKENDS = (
    "session",
    "dtls",
    "dtls-exporter",
)  # as holloway.protocols.network_settings has them, which a test holds to this
SECURITY = ("session", "dtls", "none")
COMPRESSION = ("none", "lz4")
TRUST_MODES = ("authority", "pinned", "store")
MAX_QUEUES = 16
MAX_FLOATING = 16
"""Floating addresses that one node may be a candidate for: each costs the registry five reads a second."""
MAX_PRIORITY = 1000  # as holloway.protocols.floating_claims has it, which a test holds to this


class Size(int):
    """A number of bytes that reads as it is written in a file: `64 MiB`."""

    def __str__(self) -> str:
        for unit, factor in SIZE_UNITS.items():
            if self and not self % factor:
                return f"{self // factor} {unit}"
        return f"{int(self)} B"


DEFAULT_MEMORY = Size(64 << 20)  # as holloway.protocols.memory has it, which a test holds to this


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a peer listens: a host name or an address without brackets, and a UDP port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """Who this node is. `prefixes` are networks behind it: peers accept inner packets from them. `backend`: how it seals what it
    sends; None is what the settings of the network say, and `session` where there are none. `peers_directory`: the folder that
    `load_config` has read further peers from.
    """

    name: str
    network: str = DEFAULT_NETWORK
    prefixes: tuple[Prefix, ...] = ()
    backend: str | None = None
    peers_directory: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InterfaceConfig:
    """The TUN device: its name, its overlay addresses with their prefix lengths (none: those of the node's certificate), its
    MTU in bytes (None: what the back end leaves of 1500); `offloads`: the kernel may cut, join and check packets for us, on this
    device and on the sockets; `queues`: how many of each family's sockets, and of this device's queues;
    `sparse_first`: carry flows that send little past those that fill queues, where there is one of each.
    """

    name: str
    addresses: tuple[InterfaceAddress, ...] = ()
    mtu: int | None = None
    offloads: bool = True
    queues: int = 1
    sparse_first: bool = True

    @property
    def device_mtu(self) -> int:
        """The MTU that the device gets."""
        return DEFAULT_MTU if self.mtu is None else self.mtu


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenConfig:
    """The UDP socket: port (0 = any free one), address (None = every one), and what the registry tells the others."""

    port: int = DEFAULT_PORT
    address: str | None = None
    advertise: tuple[Endpoint, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TimersConfig:
    """Session timers in seconds; the defaults are WireGuard's (paper, section 6.1)."""

    rekey_after_s: float = 120.0
    reject_after_s: float = 180.0
    keepalive_timeout_s: float = 10.0
    rekey_timeout_s: float = 5.0
    rekey_attempt_s: float = 90.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionConfig:
    """The node's X25519 private key (32 raw bytes, or the file that holds its base64: exactly one of the two), the
    network's passphrase if it has one (bytes or file, never both), the timers, and what compresses: `none` or `lz4`."""

    private_key: bytes | None = field(default=None, repr=False)
    private_key_file: Path | None = None
    passphrase: bytes | None = field(default=None, repr=False)
    passphrase_file: Path | None = None
    timers: TimersConfig = TimersConfig()
    compression: str = COMPRESSION[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerConfig:
    """One static peer. `allowed` are the inner prefixes that are sent to it and accepted from it; `keepalive_s` 0 is off.
    `plain_dtls`: it is a program that speaks DTLS and knows nothing of Holloway.

    `public_key` and `preshared_key` are 32 raw bytes; the pre-shared key may instead lie in a file, never in both.
    """

    name: str
    public_key: bytes
    allowed: tuple[Prefix, ...]
    endpoint: Endpoint | None = None
    suite: str = SUITES[0]
    preshared_key: bytes | None = field(default=None, repr=False)
    preshared_key_file: Path | None = None
    keepalive_s: int = 0
    plain_dtls: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SecurityConfig:
    """The policy for every pair: `session` and `dtls` are the least that is accepted; `none` asks for plain text."""

    require: str = SECURITY[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlConfig:
    """The local control socket."""

    socket: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitsConfig:
    """What the node may use: `memory` in bytes for packets and datagrams that wait, those of all peers together."""

    memory: int = DEFAULT_MEMORY


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityConfig:
    """Where the node keeps what it has of its network: the folder that `holloway init` or `join` filled. With an authority its
    certificate and all that belongs to it; where the store is believed its address, which it has from there."""

    directory: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class DtlsConfig:
    """A certificate for DTLS from elsewhere than the network's authority, in PEM: ours, with what lies between it and the
    authority; its key; and the authorities of the others. With `skip_verify` nobody looks who signed those.
    """

    cert_file: Path
    key_file: Path
    ca_file: Path | None = None
    skip_verify: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryConfig:
    """Where peers are found: `etcd://`, `sqlite://` and an absolute path, or `memory:` (embedding only). `trust` says who is
    believed: `authority` is whoever has a certificate of the network's authority, `pinned` the listed peers alone, `store`
    whoever can write the store. `lease_s` is how long a record outlives a silent node, in seconds."""

    url: str
    trust: str
    lease_s: float = DEFAULT_LEASE_S


@dataclass(frozen=True, slots=True, kw_only=True)
class FloatingConfig:
    """An address that this node has whenever it is its turn: of all nodes with such a section one has it at a time, and when
    that one dies another follows. `priority`: more is better, and equals do not take turns."""

    address: IPv4Address
    priority: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayConfig:
    """Where the default route of this host leads: `through` the peer of that name, or as it was. `strict`: while that peer's node
    is chosen nothing leaves otherwise, even when this node dies. `masquerade`: others' packets leave under our own address."""

    through: str | None = None
    strict: bool = False
    masquerade: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Everything a node needs to know. Without `control` it opens no socket; `path` is the file it came from, if any."""

    node: NodeConfig
    interface: InterfaceConfig
    session: SessionConfig
    listen: ListenConfig = ListenConfig()
    peers: tuple[PeerConfig, ...] = ()
    registry: RegistryConfig | None = None
    identity: IdentityConfig | None = None
    dtls: DtlsConfig | None = None
    floating: tuple[FloatingConfig, ...] = ()
    gateway: GatewayConfig = GatewayConfig()
    control: ControlConfig | None = None
    limits: LimitsConfig = LimitsConfig()
    security: SecurityConfig = SecurityConfig()
    path: Path | None = None
