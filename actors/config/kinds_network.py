"""The kinds of value that name places in a network: addresses, prefixes, endpoints, public keys, stores.

As in `kinds`, a value of the right type passes and anything else is read from text or raises `UnfitError`. Key material is
never quoted in a message. Not responsible for relations between values.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from collections.abc import Callable

from holloway.actors.config.kinds import Kind, Reading, UnfitError, expect_text, quoted, type_word
from holloway.actors.config.model import Endpoint, InterfaceAddress, Prefix
from holloway.protocols.errors import ConfigError

KEY_BYTES = 32
MAX_HOST_NAME = 253  # RFC 1035, section 2.3.4, without the final dot

_HOST_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")


def ip_address_kind() -> Kind:
    """One IP address of this machine, kept as text: that is what a socket binds to."""

    def read(value: object, reading: Reading) -> str:
        text = expect_text(value, "192.0.2.1")
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            raise UnfitError(
                f"{quoted(text)} is not an IP address", 'write an address of this machine, like "192.0.2.1"'
            ) from None
        if address.is_multicast:
            raise UnfitError(f"{text} is a multicast address", "use one of this machine's own addresses")
        return text

    return Kind("IP address", read)


def overlay_address_kind() -> Kind:
    """One IPv4 address of the overlay: `10.99.2.1`."""

    def read(value: object, reading: Reading) -> ipaddress.IPv4Address:
        if isinstance(value, ipaddress.IPv4Address):
            address = value
        else:
            text = expect_text(value, "10.99.2.1")
            try:
                address = ipaddress.IPv4Address(text)
            except ValueError:
                raise UnfitError(f"{quoted(text)} is not an IPv4 address", 'write one like "10.99.2.1"') from None
        if address.is_multicast or address.is_unspecified or address.is_loopback:
            raise UnfitError(f"{address} cannot be a node's address", 'use a private one, like "10.99.2.1"')
        return address

    return Kind("IPv4 address", read)


def interface_address_kind() -> Kind:
    """An overlay address with its prefix length: `10.99.0.1/24`."""

    def read(value: object, reading: Reading) -> InterfaceAddress:
        if isinstance(value, (ipaddress.IPv4Interface, ipaddress.IPv6Interface)):
            address: InterfaceAddress = value
        else:
            address = _slashed(value, ipaddress.ip_interface, "an address with a prefix length", "10.99.0.1/24")
        ip, network = address.ip, address.network
        if ip.is_multicast or ip.is_unspecified or ip.is_loopback:
            raise UnfitError(f"{address} cannot be a node's address", 'use a private one, like "10.99.0.1/24"')
        if network.num_addresses > 2 and ip == network.network_address:
            raise UnfitError(
                f"{address} is the network itself, not an address in it",
                f"use the address of this node, such as {network.network_address + 1}/{network.prefixlen}",
            )
        return address

    return Kind("address/length", read)


def prefix_kind() -> Kind:
    """A network prefix without host bits: `10.99.0.0/24`, or `10.99.0.2/32` for one address."""

    def read(value: object, reading: Reading) -> Prefix:
        if isinstance(value, (ipaddress.IPv4Network, ipaddress.IPv6Network)):
            return value
        inside = _slashed(value, ipaddress.ip_interface, "a prefix", "10.99.0.0/24")
        if inside.ip != inside.network.network_address:
            alone = f"{inside.ip}/{inside.max_prefixlen}"
            raise UnfitError(
                f"{quoted(value)} has host bits set", f'write "{inside.network}", or "{alone}" for that address alone'
            )
        return inside.network

    return Kind("prefix", read)


def _slashed(value: object, parse: Callable[[str], InterfaceAddress], expected: str, example: str) -> InterfaceAddress:
    """Reads `address/length`; the length is asked for, because leaving it out means different things to different tools."""
    text = expect_text(value, example)
    address, slash, length = text.partition("/")
    if not slash:
        try:
            lone = ipaddress.ip_address(text)
        except ValueError:
            raise UnfitError(f"{quoted(text)} is not {expected}", f'write one like "{example}"') from None
        raise UnfitError(
            f"{quoted(text)} has no prefix length", f'write "{text}/{lone.max_prefixlen}" for that address alone'
        )
    # A mask (10.0.0.0/255.0.0.0) or a scope (fe80::1%eth0/64) would be understood by Python but by few readers.
    if not (length.isascii() and length.isdigit()) or "%" in address:
        raise UnfitError(f"{quoted(text)} is not {expected}", f'write one like "{example}"')
    try:
        return parse(text)
    except ValueError:
        raise UnfitError(f"{quoted(text)} is not {expected}", f'write one like "{example}"') from None


def endpoint_kind() -> Kind:
    """`192.0.2.7:1099`, `[fd00::1]:1099` or `host.example:1099`."""

    def read(value: object, reading: Reading) -> Endpoint:
        if isinstance(value, Endpoint):
            value = str(value)
        text = expect_text(value, "192.0.2.7:1099")
        if text.count(":") > 1 and not text.startswith("["):
            raise UnfitError(f"{quoted(text)} is not host:port", f"put an IPv6 address in brackets: {_bracketed(text)}")
        host, colon, port = text.rpartition(":")
        if not colon:
            raise UnfitError(f"{quoted(text)} has no port", f"write {quoted(f'{text}:1099')}")
        if not (port.isascii() and port.isdigit() and len(port) <= 5 and 1 <= int(port) <= 65535):
            raise UnfitError(f"{quoted(port)} is not a port", "use 1 to 65535 after the colon")
        return Endpoint(_host(host, text), int(port))

    return Kind("host:port", read)


def _bracketed(text: str) -> str:
    host, _, port = text.rpartition(":")
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return '"[fd00::1]:1099"'
    return f'"[{host}]:{port}"'


def _host(host: str, text: str) -> str:
    if host.startswith("[") and host.endswith("]"):
        try:
            return str(ipaddress.IPv6Address(host[1:-1]))
        except ValueError:
            raise UnfitError(f"{quoted(host)} is not an IPv6 address", 'write one like "[fd00::1]:1099"') from None
    labels = host.removesuffix(".").split(".")
    if labels[-1].isdigit():  # a name's last label is never all digits (RFC 3696, section 2): this is an address
        try:
            return str(ipaddress.IPv4Address(host))
        except ValueError:
            raise UnfitError(f"{quoted(host)} is not an IPv4 address", 'write one like "192.0.2.7:1099"') from None
    if len(host) > MAX_HOST_NAME or not all(_HOST_LABEL.fullmatch(label) for label in labels):
        raise UnfitError(f"{quoted(text)} does not begin with a host", 'write "192.0.2.7:1099" or "host.example:1099"')
    return host


def public_key_kind() -> Kind:
    """A public key: 32 bytes in WireGuard's base64, never repeated in a message (it may be a private one, mispasted)."""
    fix = "paste what `holloway pubkey` printed for that peer: 44 characters ending in ="

    def read(value: object, reading: Reading) -> bytes:
        if isinstance(value, bytes):
            key = value
        else:
            if not isinstance(value, str):
                raise UnfitError(f"expected a public key as text, found {type_word(value)}", fix)
            key = _decode_key(value.strip(), fix)
        if len(key) != KEY_BYTES:
            raise UnfitError(f"the key has {len(key)} bytes, not {KEY_BYTES}", fix)
        if not any(key):
            raise UnfitError("the key is all zero", fix)
        return key

    return Kind("public key (base64)", read)


def _decode_key(text: str, fix: str) -> bytes:
    try:
        key = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise UnfitError(f"not a key: {len(text)} characters that are not base64", fix) from None
    if base64.b64encode(key).decode() != text:  # leftover bits: two texts must not name one key
        raise UnfitError("not a key: its base64 is not the canonical form", fix)
    return key


def registry_url_kind() -> Kind:
    """`etcd://` and hosts, or `sqlite://` and an absolute path; `memory:` only for programs that embed a node."""
    example = "sqlite:///var/lib/holloway/net.db"

    def read(value: object, reading: Reading) -> str:
        text = expect_text(value, example)
        if text == "memory:":
            if reading.embedded:
                return text
            raise UnfitError("memory: is for programs that embed a node", f'use a store on disk, like "{example}"')
        if text.startswith("etcd:"):
            from holloway.actors.registry.etcd_url import parse_etcd_url

            try:
                parse_etcd_url(text)
            except ConfigError as error:
                raise UnfitError(f"{error.what}: {error.why}", error.fix) from None
            return text
        if not text.startswith("sqlite:"):
            raise UnfitError(f"{quoted(text)} is not a store that this version knows", f'write one like "{example}"')
        path = text.removeprefix("sqlite://")
        if path == text or not path.startswith("/") or path.endswith("/") or "\0" in path:
            raise UnfitError(f"{quoted(text)} is not an absolute path", f'write three slashes and a file: "{example}"')
        if "?" in path or "#" in path:
            raise UnfitError(f"{quoted(text)} has a query or a fragment", "in a path, write ? as %3F and # as %23")
        return text

    return Kind("etcd://host:port/prefix, or sqlite:///absolute/path", read)
