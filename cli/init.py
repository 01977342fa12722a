"""`holloway init`: make a network, and its first node on this machine.

Not responsible for what an authority is (`holloway.actors.founding`).
"""

from __future__ import annotations

import shlex
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import click

from holloway.cli.failures import CommandFailedError
from holloway.cli.invite import DEFAULT_TTL, invitation_text
from holloway.cli.option_types import ADDRESS, DURATION, NETWORK, PREFIX
from holloway.cli.printing import json_option, print_json, say
from holloway.cli.state_option import host_name, state_directory, state_option, write_config

if TYPE_CHECKING:
    from holloway.protocols.membership import Prefix

SCHEMA = "holloway.init/1"


@click.command()
@click.argument("network")
@click.option("--registry", metavar="URL", help="Where its nodes find each other.  [default: a file, for this machine]")
@click.option("--name", metavar="NODE", help="What this node is called.  [default: the name of this machine]")
@click.option(
    "--address", type=ADDRESS, metavar="A", help="This node's overlay address.  [default: the lowest free one]"
)
@click.option(
    "--prefix",
    "prefixes",
    type=PREFIX,
    metavar="CIDR",
    multiple=True,
    help="A network that may lie behind this node, or a floating address that it may have; may be repeated.",
)
@click.option(
    "--range",
    "overlay",
    type=NETWORK,
    metavar="CIDR",
    default="10.99.0.0/16",
    show_default=True,
    help="The overlay network.",
)
@click.option("--port", type=click.IntRange(1, 65535), default=1099, show_default=True, help="UDP port of every node.")
@state_option
@json_option
def command(
    network: str,
    registry: str | None,
    name: str | None,
    address: IPv4Address | None,
    prefixes: tuple[Prefix, ...],
    overlay: IPv4Network,
    port: int,
    state: Path | None,
    as_json: bool,
) -> None:
    """Make a network, and its first node on this machine.

    The key of the network's authority is made here, and stays here. An invitation for the next machine is printed.
    """
    import os
    import time

    from holloway.actors.enrolled import ensure_session_key, keep_granted
    from holloway.actors.founding import found_network
    from holloway.actors.registry import open_registry
    from holloway.protocols.network_settings import NetworkSettings, random_network6, ranges_of

    entropy = os.urandom  # noqa: TID251 - a verb is where randomness comes in
    own_name = name or host_name()
    if own_name is None:
        raise CommandFailedError("this node needs a name", "this machine has none", "holloway init NETWORK --name NODE")
    folder = state_directory(state)
    url = registry or f"sqlite://{quote(str(folder.file('registry.db')))}"
    open_registry(url, wall_ns=time.time_ns)  # a mistake in the URL is told before anything is made
    static, floating = ranges_of(overlay)
    settings = NetworkSettings(
        network=overlay,
        network6=random_network6(entropy(16)),
        static_range=static,
        floating_range=floating,
        port=port,
    )
    folder.create()
    now = int(time.time_ns() // 10**9)
    granted = found_network(
        folder,
        network,
        settings,
        name=own_name,
        address=address,
        prefixes=prefixes,
        registry=url,
        entropy=entropy,
        now=now,
    )
    ensure_session_key(folder, entropy(32))
    write_config(folder, name=own_name, network=network, registry=url, settings=settings)
    keep_granted(folder, granted)  # last: from then on there is a node, which needs all the rest
    token = invitation_text(folder, network, url, DURATION.convert(DEFAULT_TTL, None, None))
    addresses = [
        str(each) for each in sorted(granted.certificate.addresses, key=lambda each: (each.version, int(each)))
    ]
    if as_json:
        print_json(
            {
                "schema": SCHEMA,
                "network": network,
                "node": own_name,
                "addresses": addresses,
                "state": str(folder.path),
                "invitation": token,
            }
        )
        return
    where = "" if state is None else f" --state {shlex.quote(str(state))}"
    say(f"network {network}: node {own_name} has {', '.join(addresses)}")
    say(f"start it:                holloway up{where}")
    say(f"on the next machine:     holloway join TOKEN        (this token is good for {DEFAULT_TTL}, once)")
    print(token)
