"""The names in a certificate: who somebody is, and what he may have.

A node has all of this in the subject alternative names of its certificate:

    URI   holloway://NETWORK/NODE                          exactly once: who it is
    IP    10.99.0.1                                        each overlay address it may have
    URI   holloway://NETWORK/NODE?prefix=10.1.0.0/16       each network that may lie behind it

A prefix is authorised by a URI with a query because that is a name of the same node (RFC 3986, section 3.4: the query
narrows down what the path names) which every tool prints, needs no object identifier of our own and no parser of DER.
The extension for address blocks (RFC 3779) would do as well in principle; TLS libraries check it up to the root in their own
way, merge neighbouring prefixes, and take a block to contain the blocks within: here a prefix is certified exactly or not at all,
so a default route certified to one node gives it no address of another.

Not responsible for whether a certificate may be believed (`certificates`).
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address
from typing import TypeAlias

from cryptography import x509

from holloway.protocols.membership import NAME, Prefix, read_prefix

HostAddress: TypeAlias = IPv4Address | IPv6Address

MAX_NAMES = 129  # the URI of the node, 64 addresses and 64 prefixes: what a record may have
_URI = re.compile(r"holloway://([^/?#]+)/([^/?#]+)(?:\?prefix=([0-9a-f.:]+/[0-9]+))?\Z")


def node_uri(network: str, name: str, prefix: Prefix | None = None) -> str:
    """The name of a node in its certificate, or of a prefix behind it."""
    return f"holloway://{network}/{name}" + ("" if prefix is None else f"?prefix={prefix}")


def authority_uri(network: str) -> str:
    """The name of a network in the certificates of its authorities."""
    return f"holloway://{network}"


def read_names(
    names: x509.SubjectAlternativeName,
) -> tuple[str, str, frozenset[HostAddress], frozenset[Prefix]]:
    """Network, node, addresses and prefixes in the certificate of a node. Raises ValueError."""
    owners: set[tuple[str, str]] = set()
    plain = 0
    addresses: set[HostAddress] = set()
    prefixes: set[Prefix] = set()
    if len(names) > MAX_NAMES:
        raise ValueError("too many names")
    for general in names:
        if isinstance(general, x509.IPAddress) and isinstance(general.value, IPv4Address | IPv6Address):
            addresses.add(general.value)
        elif isinstance(general, x509.UniformResourceIdentifier) and (found := _URI.match(general.value)):
            owners.add((found[1], found[2]))
            if found[3] is None:
                plain += 1
            else:
                prefix = read_prefix(found[3])
                if str(prefix) != found[3]:
                    raise ValueError("not the usual text of the prefix")
                prefixes.add(prefix)
        else:
            raise ValueError("a name of another kind")
    if plain != 1 or len(owners) != 1:
        raise ValueError("names of more nodes than one, or of none")
    ((network, name),) = owners
    if not NAME.match(network) or not NAME.match(name):
        raise ValueError("a name that no node can have")
    return network, name, frozenset(addresses), frozenset(prefixes)
