"""A node that believes the keys in its files and nobody else, made on this machine: what `init --trust pinned` does.

Not responsible for reading those files (`holloway.actors.config.peer_files`).
"""

from __future__ import annotations

import os
import socket
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_interface
from typing import TYPE_CHECKING

from holloway.cli.announced import say_announced
from holloway.cli.failures import CommandFailedError
from holloway.cli.new_node import Wanted, document
from holloway.cli.printing import print_json, say
from holloway.cli.state_option import Made, write_config

if TYPE_CHECKING:
    from holloway.protocols.membership import Prefix
    from holloway.protocols.network_settings import NetworkSettings

PEERS = "peers"
_FAR_AWAY = ((socket.AF_INET6, "2001:db8::1"), (socket.AF_INET, "192.0.2.1"))
"""Addresses that nobody has (RFC 3849, RFC 5737): nothing is sent there, the kernel only says where from it would be."""


def init_pinned(wanted: Wanted, settings: NetworkSettings, prefixes: tuple[Prefix, ...]) -> None:
    """Make the key and the configuration, and print what the others need to know. `prefixes`: networks behind the node.

    Raises `CommandFailedError` without an address, and for one outside the network.
    """
    from holloway.actors.enrolled import ensure_session_key, session_key_in
    from holloway.protocols.keys import encode_key

    network, folder = settings.network, wanted.folder
    if wanted.address is None or not settings.is_host(wanted.address):
        raise CommandFailedError(
            "this node needs an address" if wanted.address is None else f"the address {wanted.address} cannot be had",
            f"nobody hands out addresses where keys are pinned; one of {network} is needed, another one for each node",
            f"holloway init {wanted.network} --trust pinned --address {network.network_address + 1}",
        )
    folder.create()
    ensure_session_key(folder, os.urandom(32))  # noqa: TID251 - a verb is where randomness comes in
    (folder.file(PEERS)).mkdir(mode=0o700, exist_ok=True)
    public_key = encode_key(session_key_in(folder).public)
    interface = ip_interface(f"{wanted.address}/{network.prefixlen}")
    made = Made(
        wanted.name,
        wanted.network,
        trust="pinned",
        registry=wanted.registry,
        addresses=(str(interface),),
        port=settings.port,
        peers=PEERS,
        prefixes=tuple(map(str, prefixes)),
        has_identity=False,
    )
    write_config(folder, made)
    say_announced(prefixes)
    endpoint = _endpoint(settings.port)
    block = f'[[peer]]\nname = "{wanted.name}"\npublic_key = "{public_key}"\n'
    block += f'# endpoint = "HOST:{settings.port}"\n' if endpoint is None else f'endpoint = "{endpoint}"\n'
    allowed = ", ".join(f'"{each}"' for each in (f"{wanted.address}/32", *prefixes))
    block += f"allowed = [{allowed}]\n"
    if wanted.as_json:
        print_json(document(wanted, [str(wanted.address)]) | {"peer": block})
        return
    say(f"network {wanted.network}: node {wanted.name} has {wanted.address}")
    say(f"what follows goes to every other node, as the file {PEERS}/{wanted.name}.toml in its state directory;")
    say(f"theirs come here, to {folder.file(PEERS)}. Look at `endpoint`: there the others call this machine")
    say(f"then:  holloway up{wanted.where}")
    print(block, end="")


def _endpoint(port: int) -> str | None:
    """Where this host can be called, as far as its routes say; None when they lead nowhere. Of two the one that is public, and of equals
    IPv4: not every other host has IPv6."""
    found: list[IPv4Address | IPv6Address] = []
    for family, address in _FAR_AWAY:
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((address, 9))
                found.append(ip_address(probe.getsockname()[0]))
        except OSError:  # the host has no such family, or no route
            continue
    if not found:
        return None
    best = min(found, key=lambda each: (not each.is_global, each.version))
    return f"[{best}]:{port}" if best.version == 6 else f"{best}:{port}"
