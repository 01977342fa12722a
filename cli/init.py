"""`holloway init`: make a network, and its first node on this machine; or a node of a network that needs no invitation.

Not responsible for what an authority is (`holloway.actors.founding`), nor for settling where the store is believed (`store_node`).
"""

from __future__ import annotations

import os
import shlex
import time
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import click
from click.core import ParameterSource

from holloway.cli.announced import announced, say_announced
from holloway.cli.failures import CommandFailedError
from holloway.cli.invite import DEFAULT_TTL, invitation_text
from holloway.cli.new_node import Wanted, report
from holloway.cli.option_types import ADDRESS, DURATION, NETWORK, PREFIX
from holloway.cli.printing import json_option, say
from holloway.cli.state_option import Made, host_name, refuse_second_node, state_directory, state_option, write_config

if TYPE_CHECKING:
    from holloway.protocols.membership import Prefix
    from holloway.protocols.network_settings import NetworkSettings


@click.command()
@click.argument("network")
@click.option(
    "--trust",
    type=click.Choice(["authority", "pinned", "store"]),
    default="authority",
    show_default=True,
    help="Who is believed: whoever the authority certified, the keys that each node has in files, or whoever can write to the registry.",
)
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
@click.option(
    "--backend",
    type=click.Choice(["session", "dtls", "dtls-exporter"]),
    default="session",
    show_default=True,
    help="How its nodes seal what they send: Holloway's sessions; DTLS with certificates; or keys from DTLS for Holloway's records.",
)
@click.option("--port", type=click.IntRange(1, 65535), default=1099, show_default=True, help="UDP port of every node.")
@state_option
@json_option
@click.pass_context
def command(
    context: click.Context,
    network: str,
    trust: str,
    registry: str | None,
    name: str | None,
    address: IPv4Address | None,
    prefixes: tuple[Prefix, ...],
    overlay: IPv4Network,
    backend: str,
    port: int,
    state: Path | None,
    as_json: bool,
) -> None:
    """Make a network, and its first node on this machine.

    The key of the network's authority is made here, and stays here. An invitation for the next machine is printed.

    With --trust store there is no authority: the settings of the network lie in the registry, the first node writes them, and the
    same command makes every other node, too. With --trust pinned each node knows the others' keys from files; what the others
    need to know of this one is printed.
    """
    from holloway.actors.registry import open_registry
    from holloway.protocols.membership import NAME
    from holloway.protocols.network_settings import Backend

    own_name = name or host_name()
    if own_name is None:
        raise CommandFailedError("this node needs a name", "this machine has none", "holloway init NETWORK --name NODE")
    if backend != "session" and trust != "authority":
        why = f"--backend {backend} needs certificates: use --trust authority, or name others under [dtls] in each configuration"
        raise click.UsageError(why, context)
    folder = state_directory(state)
    refuse_second_node(folder)
    url = registry
    if url is None and trust != "pinned":
        url = f"sqlite://{quote(str(folder.file('registry.db')))}"
    if url is not None:
        open_registry(url, wall_ns=time.time_ns)  # a mistake in the URL is told before anything is made
    where = "" if state is None else f" --state {shlex.quote(str(state))}"
    wanted = Wanted(network, own_name, address, url, folder, where, as_json)
    settings = _settings(overlay, port, with_ipv6=trust != "pinned")
    match trust:
        case "store":
            given = [each for each in ("overlay", "port", "registry") if _is_given(context, each)]
            _init_store(wanted, settings, prefixes, given)
        case "pinned":
            from holloway.cli.pinned_node import init_pinned

            init_pinned(wanted, settings, prefixes)
        case _:
            # Who has the authority's key lets everybody in, so its node may have the broker; `holloway network` names another.
            brokers = (own_name,) if NAME.match(own_name) else ()
            _init_authority(wanted, replace(settings, backend=Backend(backend), brokers=brokers), prefixes)


def _is_given(context: click.Context, parameter: str) -> bool:
    return context.get_parameter_source(parameter) is not ParameterSource.DEFAULT


def _settings(overlay: IPv4Network, port: int, *, with_ipv6: bool) -> NetworkSettings:
    from holloway.protocols.network_settings import NetworkSettings, random_network6, ranges_of

    static, floating = ranges_of(overlay)
    return NetworkSettings(
        network=overlay,
        network6=random_network6(os.urandom(16)) if with_ipv6 else None,  # noqa: TID251 - a verb is where randomness comes in
        static_range=static,
        floating_range=floating,
        port=port,
    )


def _init_authority(wanted: Wanted, settings: NetworkSettings, prefixes: tuple[Prefix, ...]) -> None:
    from holloway.actors.enrolled import ensure_session_key, keep_granted
    from holloway.actors.founding import found_network

    entropy, folder, url = os.urandom, wanted.folder, wanted.registry  # noqa: TID251 - a verb is where randomness comes in
    assert url is not None
    folder.create()
    granted = found_network(
        folder,
        wanted.network,
        settings,
        name=wanted.name,
        address=wanted.address,
        prefixes=prefixes,
        registry=url,
        entropy=entropy,
        now=time.time_ns() // 10**9,
    )
    ensure_session_key(folder, entropy(32))
    behind = announced(granted.certificate.prefixes, settings)
    made = Made(wanted.name, wanted.network, "authority", url, settings.port, prefixes=tuple(map(str, behind)))
    write_config(folder, made)
    say_announced(behind)
    keep_granted(folder, granted)  # last: from then on there is a node, which needs all the rest
    token = invitation_text(folder, wanted.network, url, DURATION.convert(DEFAULT_TTL, None, None))
    found = sorted(granted.certificate.addresses, key=lambda each: (each.version, int(each)))
    report(wanted, [str(each) for each in found], token, f"this token is good for {DEFAULT_TTL}, once")


def _init_store(wanted: Wanted, settings: NetworkSettings, prefixes: tuple[Prefix, ...], given: list[str]) -> None:
    from holloway.cli.store_node import BELIEVED, make_store_node, store_token

    assert wanted.registry is not None
    member = make_store_node(
        wanted.folder,
        wanted.network,
        wanted.registry,
        name=wanted.name,
        address=wanted.address,
        seed=settings,
        prefixes=prefixes,
        entropy=os.urandom,  # noqa: TID251 - a verb is where randomness comes in
    )
    for option, ours, theirs in (
        ("overlay", settings.network, member.settings.network),
        ("port", settings.port, member.settings.port),
    ):
        if option in given and ours != theirs:
            flag = "--range" if option == "overlay" else "--port"
            say(f"{flag} {ours} does not count: network {wanted.network} is there already, and has {theirs}")
    token = store_token(wanted.network, wanted.registry)
    # Without --registry the same command makes another network there, in a file of its own.
    again = "or this command once more; " if "registry" in given else ""
    report(wanted, [str(each.ip) for each in member.addresses], token, f"{again}the token does not expire")
    say(BELIEVED)
