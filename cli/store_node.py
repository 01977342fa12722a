"""A node of a network whose store is believed, made on this machine: what `init --trust store` and `join` of such a token do.

Not responsible for the settings and the address (`holloway.actors.store_settling`), nor for options.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from holloway.cli.announced import announced, say_announced
from holloway.cli.exit_codes import ExitCode
from holloway.cli.failures import CommandFailedError
from holloway.cli.registry_files import pack
from holloway.cli.state_option import Made, refuse_second_node, write_config

if TYPE_CHECKING:
    from holloway.actors.state_directory import StateDirectory
    from holloway.actors.store_member import StoreMember
    from holloway.protocols.membership import Prefix
    from holloway.protocols.network_settings import NetworkSettings

SETTLE_S = 30.0
BELIEVED = "trust store: whoever can write to this registry is believed, and can read along, impersonate and redirect"


def make_store_node(
    folder: StateDirectory,
    network: str,
    url: str,
    *,
    name: str,
    address: IPv4Address | None,
    seed: NetworkSettings | None,
    prefixes: Iterable[Prefix] = (),
    entropy: Callable[[int], bytes],
) -> StoreMember:
    """Settle in the network and write down what `holloway up` needs. `seed`: the settings of a network that has none yet. `prefixes`:
    networks behind the node.

    Raises `CommandFailedError` when there is a node already or the registry does not answer; `RegistryError` for a name or an
    address that is taken.
    """
    import trio

    from holloway.actors.enrolled import ensure_session_key, session_key_in
    from holloway.protocols.network_settings import NetworkSettings, random_network6

    refuse_second_node(folder)
    folder.create()
    ensure_session_key(folder, entropy(32))
    public_key = session_key_in(folder).public
    seed = seed or NetworkSettings(network6=random_network6(entropy(16)))
    member = trio.run(_settle, folder, network, url, name, public_key, address, seed)
    member.keep()
    fixed = () if address is None else (str(member.addresses[0]),)
    behind = announced(prefixes, member.settings)
    made = Made(
        name,
        network,
        trust="store",
        registry=url,
        addresses=fixed,
        port=member.settings.port,
        prefixes=tuple(map(str, behind)),
    )
    say_announced(behind)
    write_config(folder, made)  # last: from then on there is a node, which needs all the rest
    return member


def store_token(network: str, registry: str, *, name: str | None = None, address: IPv4Address | None = None) -> str:
    """An invitation into such a network. Raises `LocalError` when a file that the URL names cannot be read."""
    from holloway.protocols.store_tokens import StoreToken, encode_store_token

    url, files = pack(registry)
    return encode_store_token(StoreToken(network=network, registry=url, files=files, name=name, address=address))


async def _settle(
    folder: StateDirectory,
    network: str,
    url: str,
    name: str,
    public_key: bytes,
    address: IPv4Address | None,
    seed: NetworkSettings,
) -> StoreMember:
    import trio

    from holloway.actors.registry import open_registry
    from holloway.actors.store_member import StoreMember, kept_address
    from holloway.actors.store_settling import agree_on_settings, refuse_taken_name, take_address
    from holloway.protocols.address_claims import Holder, fingerprint_of

    us = Holder(name, fingerprint_of(public_key))
    with trio.move_on_after(SETTLE_S):
        async with open_registry(url, wall_ns=time.time_ns) as registry:
            settings = await agree_on_settings(registry, network, seed)
            await refuse_taken_name(registry, network, us, public_key)
            found = await take_address(
                registry,
                network,
                settings,
                us,
                lambda: time.time_ns() / 10**9,
                wish=address,
                former=kept_address(folder),
            )
        return StoreMember(folder, network, us, settings, found)
    raise CommandFailedError(
        "this machine is not in the network",
        f"the registry did not answer within {SETTLE_S:g} s",
        "look whether it runs and can be reached from here; then repeat the command",
        ExitCode.TIMEOUT,
    )
