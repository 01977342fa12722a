"""`holloway release`: let go of a node that is gone, or of its address.

Not responsible for who may have the name and the address afterwards (`holloway.protocols.issuer`, `holloway.protocols.address_plan`).
"""

from __future__ import annotations

import time
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING

import click

from holloway.cli.authority_desk import open_desk, out_option
from holloway.cli.failures import CommandFailedError
from holloway.cli.printing import say
from holloway.cli.publishing import PUBLISH_S, member_config
from holloway.cli.state_option import state_option

if TYPE_CHECKING:
    from holloway.cli.authority_desk import Desk


@click.command()
@click.argument("what", metavar="NODE|ADDRESS")
@out_option
@state_option
def command(what: str, out: Path | None, state: Path | None) -> None:
    """Let go of a node that is gone, or of its address.

    Its name is free at once, and its addresses rest for as long as the network says; then another machine can have them. Other than after
    `revoke`, the machine may come back. Runs where the authority's key is; where the store is believed, on any node, for a node that is not up.
    """
    try:
        address = IPv4Address(what)
    except ValueError:
        address = None
    desk = open_desk(state, out)
    if not isinstance(desk, str):
        _release_by_authority(what, address, desk)
        return
    config, registry = member_config(state)
    _refuse_own(what, config.node.name)
    if desk != "store":
        raise CommandFailedError(
            "nothing can be let go of", "keys are pinned in this network", "remove the file of that peer"
        )
    import trio

    trio.run(_release_in_store, what, address, config.node.network, registry.url)


def _refuse_own(what: str, own: str | None) -> None:
    if own == what:
        raise CommandFailedError(
            f"node {what} cannot be let go from here",
            "it is this node",
            "run it on another one, or stop it and remove its state",
        )


def _release_by_authority(what: str, address: IPv4Address | None, desk: Desk) -> None:
    _refuse_own(what, desk.own)
    node = what if address is None else desk.authority.holder_of(address)
    if node is None or node == desk.own:
        why = "nobody has it" if node is None else "it is this node's"
        raise CommandFailedError(f"{what} cannot be let go of", why, "holloway status   shows who has what")
    desk.publish(desk.authority.release(node, time.time_ns() // 10**9), f"node {node} is let go")
    say(f"node {node} is let go: its certificate counts no more, its name is free, its addresses rest")


async def _release_in_store(what: str, address: IPv4Address | None, network: str, url: str) -> None:
    import trio

    from holloway.actors.registry import open_registry
    from holloway.actors.store_settling import agree_on_settings, claims, give_back
    from holloway.protocols.address_claims import claim_suffix
    from holloway.protocols.membership import node_key
    from holloway.protocols.network_settings import NetworkSettings

    with trio.move_on_after(PUBLISH_S):
        async with open_registry(url, wall_ns=time.time_ns) as registry:
            found = {
                place: (holder, value)
                for place, (holder, value) in (await claims(registry, network)).items()
                if place == address or (address is None and holder.name == what)
            }
            if not found:
                raise CommandFailedError(
                    f"{what} cannot be let go of", "no machine holds it", "holloway status   shows who has what"
                )
            settings = await agree_on_settings(registry, network, NetworkSettings())
            for place, (holder, value) in found.items():
                key = node_key(network, holder.name)
                if key in (await registry.snapshot(key)).entries:
                    raise CommandFailedError(
                        f"{what} cannot be let go of", f"node {holder.name} is up", f"stop node {holder.name} first"
                    )
                if not await give_back(registry, network, settings, place, value, lambda: time.time_ns() / 10**9):
                    raise CommandFailedError(
                        f"{what} was not let go of", "its claim has just changed", "look again, and repeat the command"
                    )
                say(
                    f"{claim_suffix(place).decode()} of node {holder.name} is let go, and rests for {settings.rest_s} s"
                )
        return
    raise CommandFailedError(
        "nothing was let go of", f"the registry did not answer within {PUBLISH_S:g} s", "look whether it can be reached"
    )
