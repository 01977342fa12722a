"""The settings that all nodes of a network share: its ranges of addresses, how long they are held, the back end and the port.

They stand in the registry as JSON, `{"v":1,"number":N,...}`, and whoever reads them takes them for hostile input. What is
encoded here is decoded by the others, or not encoded at all. Not responsible for who may write them: the text is wrapped,
signed and compared by number elsewhere. Nor for who gets which address: that is `issuer`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from enum import Enum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final, NoReturn, TypeVar

from holloway.protocols.errors import LocalError
from holloway.protocols.membership import NAME, network_prefix

SETTINGS_VERSION = 1
MAX_SETTINGS_BYTES = 4 * 1024
MAX_NUMBER = 2**53 - 1
"""The last integer that every reader of JSON keeps exactly (RFC 8259, section 6)."""
MIN_NETWORK_BITS, MAX_NETWORK_BITS = 8, 29
"""No private network is larger (RFC 1918, section 3); six hosts are the fewest worth the name."""
RANGE_BITS = 7
"""The static and the floating range take each one part in 2^7 of a network, as 10.99.0.0/23 is of 10.99.0.0/16."""
NETWORK6_BITS = 64
ULA: Final = IPv6Network("fd00::/8")  # RFC 4193, section 3.1, with the L bit
MIN_ULA_ENTROPY_BYTES = 16
MIN_LEASE_S, MAX_LEASE_S = 10, 31_536_000
MAX_REST_S = 31_536_000
MAX_BROKERS = 16
AT_NEXT_START = ("network", "network6", "floating_range", "backend")
"""What a node is made of when it starts: changes of these wait for that."""
_DAY_S = 86_400
_NETWORK, _STATIC, _FLOATING = (IPv4Network(each) for each in ("10.99.0.0/16", "10.99.0.0/23", "10.99.2.0/23"))

Read = TypeVar("Read")


class Backend(Enum):
    """How the nodes of a network seal what they send each other; the value is the word in the settings."""

    SESSION = "session"
    DTLS = "dtls"
    DTLS_EXPORTER = "dtls-exporter"
    """The handshake of DTLS, and its keys for data in records of our own."""

    @property
    def is_dtls(self) -> bool:
        """Whether nodes shake hands over DTLS."""
        return self is not Backend.SESSION


class SettingsProblem(Enum):
    """Why settings are refused; the value is the name under which it is counted."""

    TOO_BIG = "settings_too_big"
    NOT_JSON = "settings_not_json"
    WRONG_VERSION = "settings_wrong_version"
    BAD_FIELD = "settings_bad_field"
    UNUSABLE = "settings_unusable"


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSettings:
    """One network. Raises `LocalError` when it cannot be one.

    `number` grows with every change. `network6` is a /64 of unique local addresses (RFC 4193), or None for no IPv6.
    Addresses of `static_range` are given to those alone who ask for them by name, those of `floating_range` belong to no
    node for long; None reserves nothing. `lease_s`: how long an address is held for a node that is away, where the
    store is believed; with an authority it is held until the node is revoked or released. `rest_s`: how long a freed address rests before another
    node may have it. `port`: UDP, of every node that has no other. `brokers`: names of the nodes whose brokers agents obey, where an
    authority says so.
    """

    number: int = 1
    network: IPv4Network = _NETWORK
    network6: IPv6Network | None = None
    static_range: IPv4Network | None = _STATIC
    floating_range: IPv4Network | None = _FLOATING
    lease_s: int = 2 * _DAY_S
    rest_s: int = 3_600
    backend: Backend = Backend.SESSION
    port: int = 1099
    brokers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_number("number", self.number, 1, MAX_NUMBER, "count changes from 1")
        _check_network(self.network)
        _check_network6(self.network6)
        self._check_ranges()
        _check_number("lease_s", self.lease_s, MIN_LEASE_S, MAX_LEASE_S, "choose seconds between these")
        _check_number("rest_s", self.rest_s, 0, MAX_REST_S, "choose seconds between these; 0 is no rest")
        _check_number("port", self.port, 1, 65_535, "choose a UDP port")
        _check_brokers(self.brokers)

    def _check_ranges(self) -> None:
        ranges = {"static_range": self.static_range, "floating_range": self.floating_range}
        for name, each in ranges.items():
            if each is not None and not each.subnet_of(self.network):
                _refuse(
                    f"{name} {each}", f"it is not inside the network {self.network}", f"move it into {self.network}"
                )
        if self.static_range and self.floating_range and self.static_range.overlaps(self.floating_range):
            _refuse(
                f"static_range {self.static_range}",
                f"it overlaps with floating_range {self.floating_range}: an address would be both",
                "move one of them",
            )
        reserved = sum(each.num_addresses for each in ranges.values() if each is not None)
        if self.network.num_addresses - reserved <= 2:  # the two that no host may have
            _refuse(
                f"the network {self.network}",
                "static_range and floating_range leave no address for those who ask for none",
                "make the ranges smaller, or the network larger",
            )

    def is_host(self, address: IPv4Address) -> bool:
        """Whether a node of this network may have the address: inside, and neither the first nor the last."""
        network = self.network
        return address in network and address not in (network.network_address, network.broadcast_address)

    def is_floating(self, address: IPv4Address) -> bool:
        return self.floating_range is not None and address in self.floating_range

    def is_floating_prefix(self, prefix: IPv4Network | IPv6Network) -> bool:
        """Whether that is a floating address, as certificates have it: alone."""
        return (
            isinstance(prefix, IPv4Network) and prefix.num_addresses == 1 and self.is_floating(prefix.network_address)
        )

    def is_static(self, address: IPv4Address) -> bool:
        return self.static_range is not None and address in self.static_range

    def address6(self, address: IPv4Address) -> IPv6Address | None:
        """The IPv6 address that goes with an IPv4 one: `network6`, and the 32 bits of the IPv4 address as its last.

        So one claim covers both, and nobody chooses twice. None in a network without IPv6.
        """
        return None if self.network6 is None else self.network6.network_address + int(address)


def ranges_of(network: IPv4Network) -> tuple[IPv4Network | None, IPv4Network | None]:
    """The static and the floating range that a network has when nobody chooses: its first parts in 2^`RANGE_BITS`.

    None, None for a network too small to reserve in.
    """
    bits = network.prefixlen + RANGE_BITS
    if bits >= MAX_NETWORK_BITS:
        return None, None
    first = IPv4Network((int(network.network_address), bits))
    return first, IPv4Network((int(first.network_address) + first.num_addresses, bits))


def random_network6(entropy: bytes) -> IPv6Network:
    """A /64 for one network, drawn as RFC 4193, section 3.2, wants it: fd, 40 random bits, subnet 0.

    Raises `LocalError` for fewer than `MIN_ULA_ENTROPY_BYTES` bytes: two networks that join one day must not collide.
    """
    if len(entropy) < MIN_ULA_ENTROPY_BYTES:
        raise LocalError(
            "no IPv6 network",
            f"{len(entropy)} random bytes are too few to be alone with it",
            f"give {MIN_ULA_ENTROPY_BYTES}",
        )
    global_id = hashlib.sha256(b"holloway network6\0" + entropy).digest()[-5:]
    return IPv6Network((b"\xfd" + global_id + bytes(10), NETWORK6_BITS))


def settings_key(network: str) -> bytes:
    """The registry key of a network's settings."""
    return network_prefix(network) + b"config"


def differences(old: NetworkSettings, new: NetworkSettings) -> tuple[str, ...]:
    """The names of what the two say differently, their numbers left aside."""
    names = (each.name for each in fields(NetworkSettings) if each.name != "number")
    return tuple(name for name in names if getattr(old, name) != getattr(new, name))


def words_of(changed: Iterable[str]) -> str:
    """What has changed, by the names of `differences`, and from when on it counts for a node that runs."""
    since = dict.fromkeys(AT_NEXT_START, " (takes effect at the next start)") | {
        "port": " (for nodes that join from now on)"
    }
    return ", ".join(each + since.get(each, "") for each in changed)


def encode_settings(settings: NetworkSettings) -> bytes:
    """The settings as JSON; always the same bytes for the same settings."""
    said: dict[str, object] = {
        "v": SETTINGS_VERSION,
        "number": settings.number,
        "network": str(settings.network),
        "network6": _written(settings.network6),
        "static_range": _written(settings.static_range),
        "floating_range": _written(settings.floating_range),
        "lease_s": settings.lease_s,
        "rest_s": settings.rest_s,
        "backend": settings.backend.value,
        "port": settings.port,
    }
    if (
        settings.brokers
    ):  # left out where there is none: such settings are those that were written before there were any
        said["brokers"] = list(settings.brokers)
    return json.dumps(said, separators=(",", ":")).encode()


def decode_settings(value: bytes) -> NetworkSettings | SettingsProblem:
    """The settings, or why they are refused. Takes any bytes.

    Every field must be there but `brokers`: what one node takes for the standard and another does not would be two networks. Fields
    that this version does not know are left alone.
    """
    if len(value) > MAX_SETTINGS_BYTES:
        return SettingsProblem.TOO_BIG
    try:
        said = json.loads(value)
    except (ValueError, RecursionError):
        return SettingsProblem.NOT_JSON
    if not isinstance(said, dict):
        return SettingsProblem.NOT_JSON
    version = said.get("v")
    if type(version) is not int or version != SETTINGS_VERSION:
        return SettingsProblem.WRONG_VERSION
    try:
        return NetworkSettings(
            number=_whole(said["number"]),
            network=IPv4Network(_text(said["network"])),
            network6=_optional(IPv6Network, said["network6"]),
            static_range=_optional(IPv4Network, said["static_range"]),
            floating_range=_optional(IPv4Network, said["floating_range"]),
            lease_s=_whole(said["lease_s"]),
            rest_s=_whole(said["rest_s"]),
            backend=Backend(said["backend"]),
            port=_whole(said["port"]),
            brokers=_names(said.get("brokers", [])),
        )
    except (KeyError, ValueError):
        return SettingsProblem.BAD_FIELD
    except LocalError:
        return SettingsProblem.UNUSABLE


def _check_number(name: str, value: int, low: int, high: int, fix: str) -> None:
    if not low <= value <= high:
        _refuse(f"{name} {value}", f"it is {low} to {high}", fix)


def _check_network(network: IPv4Network) -> None:
    if not MIN_NETWORK_BITS <= network.prefixlen <= MAX_NETWORK_BITS:
        _refuse(
            f"the network {network}",
            f"its prefix has {network.prefixlen} bits, and {MIN_NETWORK_BITS} to {MAX_NETWORK_BITS} are possible",
            "choose a part of 10.0.0.0/8, for example",
        )
    if network.is_loopback or network.is_multicast or network.is_link_local or network.is_reserved:
        _refuse(f"the network {network}", "its addresses are no addresses of hosts", "choose a part of 10.0.0.0/8")
    if network.overlaps(IPv4Network("0.0.0.0/8")):  # "this network" (RFC 1122, section 3.2.1.3)
        _refuse(f"the network {network}", "addresses in 0.0.0.0/8 cannot be sent to", "choose a part of 10.0.0.0/8")


def _check_network6(network6: IPv6Network | None) -> None:
    if network6 is not None and (network6.prefixlen != NETWORK6_BITS or not network6.subnet_of(ULA)):
        _refuse(
            f"network6 {network6}",
            f"it is a /{NETWORK6_BITS} of unique local addresses, inside {ULA} (RFC 4193)",
            "leave it out, and one is drawn",
        )


def _check_brokers(brokers: tuple[str, ...]) -> None:
    if len(brokers) > MAX_BROKERS or len(set(brokers)) != len(brokers) or not all(map(NAME.match, brokers)):
        _refuse("the list of brokers", f"it has at most {MAX_BROKERS} names of nodes, each once", "name fewer nodes")


def _refuse(what: str, why: str, fix: str) -> NoReturn:
    raise LocalError(f"{what} cannot be used", why, fix)


def _written(network: IPv4Network | IPv6Network | None) -> str | None:
    return None if network is None else str(network)


def _text(value: object) -> str:
    if type(value) is not str or "%" in value:
        raise ValueError("no text, or an address of one link")  # `ipaddress` takes integers and zones, too
    return value


def _names(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > MAX_BROKERS:
        raise ValueError("not a short list")
    return tuple(map(_text, value))


def _optional(read: Callable[[str], Read], value: object) -> Read | None:
    return None if value is None else read(_text(value))


def _whole(value: object) -> int:
    if type(value) is not int:
        raise ValueError("not a whole number")
    return value
