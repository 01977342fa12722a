"""The table of every section and key: how it is read, its default, and what it means.

Validation, the environment's variable names, `config show`, and docs/config.md all come from this one table. Not
responsible for relations between keys (`rules`) or for where values come from (`loading`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Final

from holloway.actors.config.fields import Absent, Field, Section
from holloway.actors.config.kinds import (
    choice_kind,
    flag_kind,
    integer_kind,
    interface_name_kind,
    list_kind,
    name_kind,
    path_kind,
    seconds_kind,
    size_kind,
    whole_seconds_kind,
)
from holloway.actors.config.kinds_network import (
    endpoint_kind,
    interface_address_kind,
    ip_address_kind,
    overlay_address_kind,
    prefix_kind,
    public_key_kind,
    registry_url_kind,
)
from holloway.actors.config.model import (
    BACKENDS,
    COMPRESSION,
    DEFAULT_LEASE_S,
    DEFAULT_MEMORY,
    DEFAULT_MTU,
    DEFAULT_NETWORK,
    DEFAULT_PORT,
    DTLS_MTU,
    MAX_FLOATING,
    MAX_PRIORITY,
    MAX_QUEUES,
    SECURITY,
    SUITES,
    TRUST_MODES,
    TimersConfig,
)

ENVIRONMENT_PREFIX = "HOLLOWAY_"

ENVIRONMENT_OTHERS: Final = {
    "HOLLOWAY_PYTHON": "the interpreter that the `run` script builds its environment with",
    "HOLLOWAY_VENV": "where the `run` script keeps that environment",
}
"""Variables with the prefix that are not configuration. None begins like a section's, so none is taken for a mistake."""

SECRET_KEYS: Final = {
    "private_key": "private_key_file",
    "private_key_env": "private_key_file",
    "passphrase": "passphrase_file",
    "passphrase_env": "passphrase_file",
    "preshared_key": "preshared_key_file",
    "preshared_key_env": "preshared_key_file",
}
"""Keys that others' configurations have and ours refuses, with the key to use: a secret is never in this file."""

MIN_MTU, MAX_MTU = 576, 65000  # RFC 791, section 3.1, and what a record still carries
MAX_DTLS_MTU = 1 << 14  # RFC 6347, section 4.1
MIN_MTU_IPV6 = 1280  # RFC 8200, section 5
MAX_TIMER_S = 3600.0
MAX_LEASE_S = 604800.0
MIN_MEMORY = 8 << 20
"""No queue may hold more than an eighth of it, and that is to be as much as its own bound allows (`staging.STAGED_BYTES`,
`reassembly.MAX_BYTES`): with less, a node that nobody floods would lose packets for want of memory."""
MAX_MEMORY = 256 << 30  # more than the queues of as many peers as there can be will ever hold
TIMER_KEYS = tuple(field.name for field in fields(TimersConfig))
_TIMERS = TimersConfig()

SECTIONS: Final = (
    Section(
        "node",
        "Who this node is.",
        (
            Field("name", name_kind(), "The node's name; no peer may have the same.", Absent.REQUIRED, example='"a"'),
            Field(
                "network",
                name_kind(),
                "The network's name. It salts the passphrase, so all nodes of a network must agree.",
                DEFAULT_NETWORK,
            ),
            Field(
                "prefixes",
                list_kind(prefix_kind()),
                "Networks behind this node: peers send packets for them here, and accept packets from them.",
                (),
                example='["192.168.5.0/24"]',
            ),
            Field(
                "backend",
                choice_kind(*BACKENDS),
                "How this node and its peers seal what they send each other: `session`; `dtls`, DTLS 1.2 with certificates; or "
                "`dtls-exporter`, keys from such a handshake for data in Holloway's records, which are faster. All nodes of a network "
                "must agree on DTLS; a peer that has the one speaks to a peer that has the other in records of DTLS.",
                None,
                "what the settings of the network say (`holloway init --backend`), else `session`",
                example='"dtls"',
            ),
            Field(
                "peers_directory",
                path_kind(),
                "A folder of files with further [[peer]] sections, and nothing else in them.",
                example='"peers"',
            ),
        ),
    ),
    Section(
        "interface",
        "The TUN device that the node makes.",
        (
            Field("name", interface_name_kind(), "The device's name.", Absent.REQUIRED, example='"hw0"'),
            Field(
                "addresses",
                list_kind(interface_address_kind(), least=1),
                "The node's addresses in the private network, each with the length of its network's prefix. A node with an "
                "[identity] has those of its certificate, or one that the registry has for it, and needs none here.",
                Absent.REQUIRED,
                example='["10.99.0.1/24", "fd99::1/64"]',
                unless="identity",
            ),
            Field(
                "mtu",
                integer_kind(MIN_MTU, MAX_MTU),
                f"Largest inner packet in bytes; at least {MIN_MTU_IPV6} with an IPv6 address.",
                None,
                f"{DEFAULT_MTU}; with DTLS, whose records are longer, {DTLS_MTU}",
                example="1400",
            ),
            Field(
                "offloads",
                flag_kind(),
                "Let the kernel cut, join and check packets and datagrams where it can (TSO, USO, GSO, GRO).",
                True,
            ),
            Field(
                "queues",
                integer_kind(1, MAX_QUEUES),
                "With more than 1, the kernel spreads the flows of this machine over so many queues of the device, and what comes "
                "from the network over so many sockets of each family, by its source: what floods one of them leaves the others "
                "alone (docs/operations.md).",
                1,
                example="4",
            ),
            Field(
                "sparse_first",
                flag_kind(),
                "Carry flows that send little past those that fill queues, where the kernel grants what that takes; not with several "
                "queues (docs/operations.md).",
                True,
            ),
        ),
    ),
    Section(
        "listen",
        "The UDP socket that peers reach this node at.",
        (
            Field("port", integer_kind(0, 65535), "UDP port; 0 takes any free one.", DEFAULT_PORT),
            Field(
                "address", ip_address_kind(), "Bind to this address only.", None, "every address", example='"192.0.2.1"'
            ),
            Field(
                "advertise",
                list_kind(endpoint_kind()),
                "Endpoints that this node's registry record tells the others.",
                (),
                example='["192.0.2.1:1099"]',
            ),
        ),
    ),
    Section(
        "session",
        "Keys, always by file, and how sessions go.",
        (
            Field(
                "private_key_file",
                path_kind(),
                "File with this node's private key (`holloway keygen`), mode 0600 or stricter.",
                Absent.REQUIRED,
                example='"a.key"',
            ),
            Field(
                "passphrase_file",
                path_kind(),
                "File with the network's passphrase, mode 0600 or stricter: only nodes that know it can meet.",
                example='"network.pass"',
            ),
            Field(
                "compression",
                choice_kind(*COMPRESSION),
                "Compress what is sent to peers that are configured for the same. It needs the extra `compression`. Off, because the "
                "length of what is compressed tells something of what is in it (docs/operations.md).",
                COMPRESSION[0],
                example='"lz4"',
            ),
            Field(
                "rekey_after_s",
                seconds_kind(120.0),
                "A new key is agreed on after this long.",
                _TIMERS.rekey_after_s,
                advanced=True,
            ),
            Field(
                "reject_after_s",
                seconds_kind(180.0),
                "A key is refused after this long; more than `rekey_after_s` + `rekey_timeout_s`.",
                _TIMERS.reject_after_s,
                advanced=True,
            ),
            Field(
                "keepalive_timeout_s",
                seconds_kind(MAX_TIMER_S),
                "Silence after which a received packet is answered with a keepalive.",
                _TIMERS.keepalive_timeout_s,
                advanced=True,
            ),
            Field(
                "rekey_timeout_s",
                seconds_kind(MAX_TIMER_S),
                "An unanswered handshake is tried again after this long.",
                _TIMERS.rekey_timeout_s,
                advanced=True,
            ),
            Field(
                "rekey_attempt_s",
                seconds_kind(MAX_TIMER_S),
                "Handshakes are given up after this long without an answer.",
                _TIMERS.rekey_attempt_s,
                advanced=True,
            ),
        ),
    ),
    Section(
        "security",
        "How the data of each pair of nodes is protected.",
        (
            Field(
                "require",
                choice_kind(*SECURITY),
                "The least that is accepted; of what both sides offer the strongest is used. `session`: encrypted. `dtls`: by DTLS and "
                "nothing else. `none` asks for plain text: with peers that ask for it, too, data can be "
                "read by everybody on the way, though not altered; with all others it is encrypted.",
                SECURITY[0],
            ),
        ),
    ),
    Section(
        "limits",
        "What the node may use.",
        (
            Field(
                "memory",
                size_kind(MIN_MEMORY, MAX_MEMORY),
                "For packets and datagrams that wait, for a key or for the rest of their record, those of all peers together: "
                "half of it for those of this host, half for those of the network. No queue holds more than a quarter of what "
                "the others leave of its half; what finds no room is dropped as `memory_full`.",
                DEFAULT_MEMORY,
                example='"64 MiB"',
            ),
        ),
    ),
    Section(
        "gateway",
        "Where the default route of this machine leads, and whether that of others ends here (docs/operations.md).",
        (
            Field(
                "through",
                name_kind(),
                "Send everything that is for no nearer network to this peer, which must offer a default route: 0.0.0.0/0, ::/0, or "
                "both among its prefixes. While it is away nothing leaves in another way.",
                None,
                "the default route of this machine stays as it is",
                example='"exit"',
            ),
            Field(
                "strict",
                flag_kind(),
                "Nothing leaves in another way either when the device is taken down, or this node dies, until it runs again.",
                False,
            ),
            Field(
                "masquerade",
                flag_kind(),
                "Packets of other nodes that leave this machine for the networks behind it do so under its own address (nftables).",
                False,
            ),
        ),
    ),
    Section(
        "peer",
        "One other node whose key is known, a section for each.",
        (
            Field("name", name_kind(), "The peer's name in `status`, `ping` and logs.", Absent.REQUIRED, example='"b"'),
            Field(
                "public_key",
                public_key_kind(),
                "The peer's public key (`holloway pubkey`).",
                Absent.REQUIRED,
                example='"3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08="',
            ),
            Field(
                "endpoint",
                endpoint_kind(),
                "Where the peer listens: `host:port`, `[v6]:port`.",
                None,
                "learnt from its first packet",
                example='"192.0.2.7:1099"',
            ),
            Field(
                "allowed",
                list_kind(prefix_kind(), least=1),
                "Inner prefixes that are sent to this peer, and that it may send from.",
                Absent.REQUIRED,
                example='["10.99.0.2/32", "fd99::2/128"]',
            ),
            Field(
                "suite",
                choice_kind(*SUITES),
                "The session's suite; `wireguard` speaks to any WireGuard program.",
                SUITES[0],
            ),
            Field(
                "preshared_key_file",
                path_kind(),
                "File with a key that both sides share, mode 0600 or stricter.",
                example='"b.psk"',
            ),
            Field(
                "keepalive_s",
                whole_seconds_kind(0, 65535),
                "Send a keepalive after this many silent seconds, to hold a NAT mapping open; 0 is off.",
                0,
            ),
            Field(
                "plain_dtls",
                flag_kind(),
                "The peer is a DTLS server that knows nothing of Holloway, such as `openssl s_server -dtls1_2`: it is dialled with nothing "
                "before its datagrams, and sent no probes. Needs a DTLS back end and an `endpoint`; `public_key` is any that no other "
                "peer has, and is not used.",
                False,
            ),
        ),
        repeated=True,
    ),
    Section(
        "control",
        "The local socket that `holloway status`, `peers`, `routes` and `ping` speak to.",
        (
            Field(
                "socket",
                path_kind(socket=True),
                "Path of the socket; it is made with mode 0600.",
                Absent.COMPUTED,
                "`/run/holloway/INTERFACE.sock` for root, else `$XDG_RUNTIME_DIR/holloway/INTERFACE.sock`",
                example='"/run/holloway/hw0.sock"',
            ),
        ),
    ),
    Section(
        "registry",
        "Where peers are found that are not listed. Static peers may be listed too.",
        (
            Field(
                "url",
                registry_url_kind(),
                "The store: an etcd, with what it takes to reach it (docs/operations.md), or a file for the nodes of one machine.",
                Absent.REQUIRED,
                example='"sqlite:///var/lib/holloway/net.db"',
            ),
            Field(
                "trust",
                choice_kind(*TRUST_MODES),
                "Who is believed. `authority`: whoever has a certificate of the network's authority (needs an [identity]). "
                "`pinned`: the listed peers alone; the store tells where they are. `store`: whoever can write the store. It has "
                "no default because it must be asked for.",
                Absent.REQUIRED,
                example='"authority"',
            ),
            Field(
                "lease_s",
                seconds_kind(MAX_LEASE_S),
                "How long this node's record outlives its silence.",
                DEFAULT_LEASE_S,
            ),
        ),
        optional=True,
    ),
    Section(
        "identity",
        "What this node keeps of its network: the certificate that the authority gave it, with its keys; or, where the store is believed, "
        "its address and the network's settings.",
        (
            Field(
                "directory",
                path_kind(),
                "The folder that `holloway init` or `holloway join` filled; nobody else may enter it.",
                Absent.REQUIRED,
                example='"/var/lib/holloway"',
            ),
        ),
        optional=True,
    ),
    Section(
        "dtls",
        "A certificate for DTLS that does not come from the network's authority. It names the node as `holloway://NETWORK/NODE` "
        "or by its overlay addresses, in its subject alternative names, and may be used for both sides of a connection.",
        (
            Field(
                "cert_file",
                path_kind(),
                "The node's certificate in PEM, followed by those between it and the authority.",
                Absent.REQUIRED,
                example='"node.crt"',
            ),
            Field(
                "key_file",
                path_kind(),
                "Its private key in PEM, EC or RSA, mode 0600 or stricter.",
                Absent.REQUIRED,
                example='"node.pem"',
            ),
            Field("ca_file", path_kind(), "The authorities whose certificates are believed.", None, example='"ca.crt"'),
            Field(
                "skip_verify",
                flag_kind(),
                "Believe every certificate, whoever signed it: then anybody can pretend to be any node. `status` says so.",
                False,
            ),
        ),
        optional=True,
    ),
    Section(
        "floating",
        "An address that one node has at a time, of all that have such a section for it; when that node dies, another one has "
        f"it. At most {MAX_FLOATING}, and only with a [registry].",
        (
            Field(
                "address",
                overlay_address_kind(),
                "The address, one of the network's floating range. In a network with an authority this node's certificate has it "
                "as a prefix (`holloway invite --prefix 10.99.2.1/32`).",
                Absent.REQUIRED,
                example='"10.99.2.1"',
            ),
            Field(
                "priority",
                integer_kind(0, MAX_PRIORITY),
                "Who has it when several could: the greatest. Equals do not take turns.",
                0,
            ),
        ),
        repeated=True,
        optional=True,
    ),
)


BY_NAME: Final = {each.name: each for each in SECTIONS}


def variable(section_name: str, key: str) -> str:
    """The environment variable of a key: `HOLLOWAY_LISTEN_PORT`."""
    return f"{ENVIRONMENT_PREFIX}{section_name}_{key}".upper()


def single_fields() -> Iterator[tuple[Section, Field]]:
    """Every key of every section that is not repeated: those that the environment and flags can set."""
    for each in SECTIONS:
        if not each.repeated:
            for field in each.fields:
                yield each, field
