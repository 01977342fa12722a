"""`holloway invite`: an invitation for one more machine.

Not responsible for what an invitation is (`holloway.protocols.invitations`).
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from holloway.cli.authority_desk import is_offline
from holloway.cli.failures import CommandFailedError
from holloway.cli.option_types import ADDRESS, DURATION, PREFIX
from holloway.cli.printing import json_option, print_json
from holloway.cli.registry_files import pack
from holloway.cli.state_option import node_config, state_directory, state_option
from holloway.cli.store_node import store_token

if TYPE_CHECKING:
    from ipaddress import IPv4Address

    from holloway.actors.state_directory import StateDirectory
    from holloway.protocols.membership import Prefix

SCHEMA = "holloway.invite/1"
DEFAULT_TTL = "1h"


@click.command()
@click.option("--name", metavar="NODE", help="What the machine will be called.  [default: as it wishes]")
@click.option(
    "--address", type=ADDRESS, metavar="A", help="Its overlay address.  [default: as it wishes, or the lowest free one]"
)
@click.option(
    "--prefix",
    "prefixes",
    type=PREFIX,
    metavar="CIDR",
    multiple=True,
    help="A network that may lie behind it, or a floating address that it may have; may be repeated.",
)
@click.option(
    "--ttl",
    "ttl_s",
    type=DURATION,
    default=DEFAULT_TTL,
    show_default=True,
    metavar="TIME",
    help="How long it is good: 30m, 1h, 2d.",
)
@click.option(
    "--registry",
    metavar="URL",
    help="Where the machine finds the others, for an authority that is kept offline.  [default: where this node does]",
)
@state_option
@json_option
@click.pass_context
def command(
    context: click.Context,
    name: str | None,
    address: IPv4Address | None,
    prefixes: tuple[Prefix, ...],
    ttl_s: int,
    registry: str | None,
    state: Path | None,
    as_json: bool,
) -> None:
    """Print an invitation for one more machine.

    It is one word, and good once. Whoever has the token can join in that machine's place: treat it like a password. Runs where the authority's key is.

    Where the store is believed any node can print one. It says where the registry is and what it takes to reach it, and does not expire.
    """
    from holloway.actors.authority_keys import network_in
    from holloway.actors.registry import open_registry

    if registry is not None:
        open_registry(registry, wall_ns=time.time_ns)  # a mistake in the URL is told before anything is made
    made = partial(
        invitation_text,
        state_directory(state),
        ttl_s=ttl_s,
        name=name,
        addresses=() if address is None else (address,),
        prefixes=prefixes,
    )
    if is_offline(state):
        if registry is None:
            what, why = (
                "nobody can be invited",
                "this authority is kept offline, and does not know where the others meet",
            )
            raise CommandFailedError(what, why, "holloway invite --registry URL")
        network = network_in(state_directory(state))
        _print(network, made(network=network, registry=registry), ttl_s, as_json=as_json)
        return
    config = node_config(state)
    trust = "pinned" if config.registry is None else config.registry.trust
    if config.registry is None or trust == "pinned":
        raise CommandFailedError(
            "nobody can be invited",
            "keys are pinned in this network",
            "holloway init NETWORK --trust pinned   on each machine",
        )
    if trust == "store":
        if prefixes or context.get_parameter_source("ttl_s") is not ParameterSource.DEFAULT:
            raise click.UsageError("--prefix and --ttl need a network with an authority", context)
        token = store_token(config.node.network, registry or config.registry.url, name=name, address=address)
        _print(config.node.network, token, None, as_json=as_json)
        return
    token = made(network=config.node.network, registry=registry or config.registry.url)
    _print(config.node.network, token, ttl_s, as_json=as_json)


def _print(network: str, token: str, expires_s: int | None, *, as_json: bool) -> None:
    if as_json:
        print_json({"schema": SCHEMA, "network": network, "expires_s": expires_s, "invitation": token})
    else:
        print(token)


def invitation_text(
    state: StateDirectory,
    network: str,
    registry: str,
    ttl_s: int,
    *,
    name: str | None = None,
    addresses: tuple[IPv4Address, ...] = (),
    prefixes: tuple[Prefix, ...] = (),
) -> str:
    """The token. Raises `LocalError` where there is no authority."""
    import os

    from holloway.actors.authority_files import AuthorityFiles
    from holloway.protocols.invitations import encode_token

    url, files = pack(registry)
    authority = AuthorityFiles(state, network, os.urandom)  # noqa: TID251 - a verb is where randomness comes in
    return encode_token(
        authority.invite(
            expires=time.time_ns() // 10**9 + ttl_s,
            registry=url,
            files=files,
            name=name,
            addresses=addresses,
            prefixes=prefixes,
        )
    )
