"""`holloway network`: the settings that all nodes of a network share.

Not responsible for what they mean (`holloway.protocols.network_settings`), nor for when a running node obeys them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from ipaddress import IPv4Network
from pathlib import Path
from typing import TYPE_CHECKING

import click

from holloway.cli.authority_desk import open_desk, out_option
from holloway.cli.failures import CommandFailedError
from holloway.cli.option_types import DURATION, Parsed
from holloway.cli.printing import json_option, print_json, say
from holloway.cli.publishing import PUBLISH_S, member_config
from holloway.cli.state_option import state_directory, state_option

if TYPE_CHECKING:
    from holloway.protocols.network_settings import NetworkSettings

SCHEMA = "holloway.network/1"


def _range(text: str) -> IPv4Network | str:
    """A range, or the word that takes it away."""
    return text if text == "none" else IPv4Network(text)


_RANGE = Parsed("range", _range)


@click.command()
@click.option("--static-range", type=_RANGE, metavar="CIDR|none", help="Addresses for those alone who ask for them.")
@click.option("--floating-range", type=_RANGE, metavar="CIDR|none", help="Where floating addresses lie.")
@click.option(
    "--lease",
    "lease_s",
    type=DURATION,
    metavar="TIME",
    help="How long an address is held for a node that is away: 48h, 2d.",
)
@click.option(
    "--broker",
    "brokers",
    multiple=True,
    metavar="NODE|none",
    help="Whose broker the agents of the network obey; replaces those before, may be repeated.",
)
@click.option("--rest", "rest_s", type=DURATION, metavar="TIME", help="How long an address that was let go rests: 1h.")
@out_option
@state_option
@json_option
def command(
    static_range: IPv4Network | str | None,
    floating_range: IPv4Network | str | None,
    lease_s: int | None,
    brokers: tuple[str, ...],
    rest_s: int | None,
    out: Path | None,
    state: Path | None,
    as_json: bool,
) -> None:
    """Show the settings of the network, or change them.

    Every node that is up hears of a change at once, and says in its log and in `status` what waits for its next start. Changes are made where
    the authority's key is; where the store is believed, on any node.
    """
    from dataclasses import replace

    given = {"static_range": static_range, "floating_range": floating_range, "lease_s": lease_s, "rest_s": rest_s}
    changes: dict[str, object] = {
        key: None if value == "none" else value for key, value in given.items() if value is not None
    }
    if brokers:
        changes["brokers"] = tuple(dict.fromkeys(each for each in brokers if each != "none"))

    def change(old: NetworkSettings) -> NetworkSettings:
        return replace(old, **changes)  # type: ignore[arg-type]  # each of its own kind, by its option

    desk = open_desk(state, out, decides=bool(changes))
    if not isinstance(desk, str):
        from holloway.actors.enrolled import SETTINGS, settings_of

        if changes:
            if lease_s is not None:
                raise CommandFailedError(
                    "--lease would change nothing",
                    "in a network with an authority an address is held until its node is revoked or released",
                    "leave --lease out",
                )
            desk.publish(desk.authority.change_settings(change), "the settings are changed")
        network, settings = desk.authority.network, settings_of(state_directory(state).read(SETTINGS) or b"")
    else:
        if brokers and desk == "store":
            raise CommandFailedError(
                "--broker would change nothing",
                "where the store is believed its owner could name himself, so no agent obeys a broker that it finds there",
                "give each agent --host and the broker's key: holloway client create",
            )
        network, settings = _without_authority(desk, change if changes else None, state)
    _print(network, settings, as_json=as_json)
    if changes:
        say("changed; `holloway status` says on each node what waits for its next start")


def _without_authority(
    trust: str, change: Callable[[NetworkSettings], NetworkSettings] | None, state: Path | None
) -> tuple[str, NetworkSettings]:
    import trio

    config, registry = member_config(state)
    if trust != "store" or config.identity is None:
        raise CommandFailedError(
            "this network has no settings", "each node goes by its own configuration", "holloway config show -c FILE"
        )
    return config.node.network, trio.run(_in_store, registry.url, config.node.network, change)


async def _in_store(
    url: str, network: str, change: Callable[[NetworkSettings], NetworkSettings] | None
) -> NetworkSettings:
    """The settings in the store, after the change."""
    from dataclasses import replace

    import trio

    from holloway.actors.registry import ValueIs, open_registry
    from holloway.protocols.network_settings import NetworkSettings, decode_settings, encode_settings, settings_key

    why = f"the registry did not answer within {PUBLISH_S:g} s"
    key = settings_key(network)
    with trio.move_on_after(PUBLISH_S):
        async with open_registry(url, wall_ns=time.time_ns) as registry:
            while True:
                entry = (await registry.snapshot(key)).entries.get(key)
                old = None if entry is None else decode_settings(entry.value)
                if entry is None or not isinstance(old, NetworkSettings):
                    why = (
                        "there are none: the first node that is up writes them" if entry is None else f"refused: {old}"
                    )
                    break
                if change is None:
                    return old
                new = replace(change(old), number=old.number + 1)
                if (await registry.transact((ValueIs(key, entry.value),), {key: encode_settings(new)})).succeeded:
                    return new
    raise CommandFailedError(f"the settings of network {network} cannot be read", why, "look at the registry")


def _print(network: str, settings: NetworkSettings, *, as_json: bool) -> None:
    from holloway.protocols.network_settings import encode_settings

    said = json.loads(encode_settings(settings))
    del said["v"]
    if as_json:
        print_json({"schema": SCHEMA, "name": network, "settings": said})
        return
    for key, value in said.items():
        text = ", ".join(value) if isinstance(value, list) else value
        print(f"{key:<15} {'none' if text is None else text}")
