"""A node of a network whose store is believed: the settings that it obeys, the address that it has, and what it keeps of both.

    network.json     the settings of the network, as they stand in the registry
    address          the IPv4 address that this machine had last

Settings that change while the node runs count at once where they can; what its own device is made of counts from the next start
on, and is named until then. Not responsible for the store (`store_settling`, `address_keeper`).
"""

from __future__ import annotations

import logging
from dataclasses import replace
from ipaddress import IPv4Address, ip_interface

import trio

from holloway.actors.config import Config, ConfigProblems
from holloway.actors.config.model import InterfaceAddress
from holloway.actors.config.problems import Problem
from holloway.actors.ports import Ports
from holloway.actors.registry import RegistryPort
from holloway.actors.state_directory import StateDirectory
from holloway.actors.store_settling import agree_on_settings, take_address
from holloway.actors.store_visits import OpenStore, first_of
from holloway.protocols.address_claims import Holder, fingerprint_of
from holloway.protocols.errors import RegistryError
from holloway.protocols.network_settings import (
    NetworkSettings,
    SettingsProblem,
    decode_settings,
    differences,
    encode_settings,
    random_network6,
)

SETTINGS = "network.json"
ADDRESS = "address"
SECOND_NS = 10**9
SETTLE_S = 30.0
"""How long the registry may take at the first start; a node that has an address waits no longer than `KNOWN_S`."""
KNOWN_S = 5.0

log = logging.getLogger("holloway.node")


class StoreMember:
    """Such a node."""

    def __init__(
        self, state: StateDirectory, network: str, us: Holder, settings: NetworkSettings, address: IPv4Address
    ) -> None:
        """`us`: as whom we claim our address."""
        self.state, self.network, self.us = state, network, us
        self.settings = settings
        """Those that count since the start."""
        self.newest = settings
        self.address = address
        self.problem: RegistryError | None = None
        """Why our address is not ours, as far as we know."""
        self.is_without_store = False
        """Whether we have started with what was known, because the registry was away."""

    def __repr__(self) -> str:
        return f"<StoreMember {self.us.name} with {self.address} in {self.network}>"

    @property
    def addresses(self) -> tuple[InterfaceAddress, ...]:
        """Our overlay addresses, each with the length of its network's prefix; IPv4 first."""
        return with_lengths(self.settings, self.address)

    def keep(self) -> None:
        """Write down what we know. Raises `PortError`."""
        for name, value in ((SETTINGS, encode_settings(self.newest)), (ADDRESS, f"{self.address}\n".encode())):
            if self.state.read(name) != value:
                self.state.write(name, value)

    def hear(self, value: bytes) -> SettingsProblem | tuple[str, ...]:
        """What the store says of the network now: what it changes, or why it is not taken. Takes any bytes."""
        found = decode_settings(value)
        if isinstance(found, SettingsProblem):
            return found
        changed = differences(self.newest, found)
        self.newest = found
        return changed


def with_lengths(settings: NetworkSettings, address: IPv4Address) -> tuple[InterfaceAddress, ...]:
    """An IPv4 address and the IPv6 address that goes with it, each with the length of its network's prefix."""
    both: list[InterfaceAddress] = [ip_interface(f"{address}/{settings.network.prefixlen}")]
    address6 = settings.address6(address)
    if address6 is not None and settings.network6 is not None:
        both.append(ip_interface(f"{address6}/{settings.network6.prefixlen}"))
    return tuple(both)


def kept_settings(state: StateDirectory) -> NetworkSettings | None:
    """The settings that were obeyed last, if they are known. What cannot be read is not known."""
    value = state.read(SETTINGS)
    found = None if value is None else decode_settings(value)
    return found if isinstance(found, NetworkSettings) else None


def kept_address(state: StateDirectory) -> IPv4Address | None:
    """The address that this machine had last, if it is known."""
    try:
        return IPv4Address((state.read(ADDRESS) or b"").decode("ascii", "replace").strip())
    except ValueError:
        return None


async def settled_node(
    config: Config,
    ports: Ports,
    public_key: bytes,
    open_store: OpenStore,
) -> tuple[Config, StoreMember]:
    """The node's configuration with the addresses that it has in its network, and what it keeps of that.

    With the registry away it goes on with what it had before, unless the network has moved away from that. Raises `RegistryError` when there is nothing before, or no
    address for us; `ConfigProblems` for addresses that no node of the network may have.
    """
    assert config.identity is not None
    state = ports.open_state(config.identity.directory)
    wish = _wish(config)
    kept, former = kept_settings(state), kept_address(state)
    us = Holder(config.node.name, fingerprint_of(public_key))
    settings, address = kept, wish or former
    seed = kept or NetworkSettings(network6=random_network6(ports.entropy(16)))
    is_known = _is_possible(address, kept)
    failure: RegistryError | None = RegistryError("the registry did not answer", f"{SETTLE_S:g} s have passed")
    with trio.move_on_after(KNOWN_S if is_known else SETTLE_S):
        try:
            async with open_store() as registry:
                settings = await _agreed(registry, config.node.network, seed, kept)
                address = await take_address(
                    registry,
                    config.node.network,
                    settings,
                    us,
                    lambda: ports.wall_ns() / SECOND_NS,
                    wish=wish,
                    former=former,
                )
            failure = None
        except* RegistryError as group:
            failure = first_of(group)
    if failure is not None and (failure.kind == "denied" or not (is_known and _is_possible(address, settings))):
        raise failure
    assert settings is not None
    assert address is not None
    if failure is not None:
        log.warning("registry: %s; going on with %s, which this node had before", failure, address)
    _refuse_floating(config, settings)
    member = StoreMember(state, config.node.network, us, settings, address)
    member.is_without_store = failure is not None
    member.keep()
    _tell_what_is_overruled(config, member)
    return replace(config, interface=replace(config.interface, addresses=member.addresses)), member


async def _agreed(
    registry: RegistryPort, network: str, seed: NetworkSettings, kept: NetworkSettings | None
) -> NetworkSettings:
    """The settings of the network; those that we know while what stands in the store are none."""
    try:
        return await agree_on_settings(registry, network, seed)
    except RegistryError as error:
        if error.kind != "denied" or kept is None:
            raise
        log.warning("registry: %s; going on with those that this node had before", error)
        return kept


def _is_possible(address: IPv4Address | None, settings: NetworkSettings | None) -> bool:
    """Whether both are known, and the address is one that a node of the network may have for itself."""
    if settings is None or address is None:
        return False
    return settings.is_host(address) and not settings.is_floating(address)


def _wish(config: Config) -> IPv4Address | None:
    """The IPv4 address in the configuration. Raises `ConfigProblems` for more than one."""
    wished = [each.ip for each in config.interface.addresses if isinstance(each.ip, IPv4Address)]
    if len(wished) > 1 or (config.interface.addresses and not wished):
        what = "a node of this network has one IPv4 address, and the IPv6 address that follows from it"
        raise ConfigProblems(
            [Problem(config.path, None, "interface.addresses", what, "name one, or leave it to the network")],
            config.path,
        )
    return wished[0] if wished else None


def _refuse_floating(config: Config, settings: NetworkSettings) -> None:
    """Raises `ConfigProblems` for floating addresses that are none in this network."""
    problems = []
    for position, each in enumerate(config.floating):
        if not (settings.is_floating(each.address) and settings.is_host(each.address)):
            what = f"{each.address} is not in the floating range of the network"
            fix = (
                "the network has none"
                if settings.floating_range is None
                else f"choose one of {settings.floating_range}"
            )
            problems.append(Problem(config.path, None, f"floating[{position}].address", what, fix))
    if problems:
        raise ConfigProblems(problems, config.path)


def _tell_what_is_overruled(config: Config, member: StoreMember) -> None:
    """What the configuration says of the network does not count, and that is said."""
    for given in config.interface.addresses:
        if given not in member.addresses:
            is_ours = given.ip in {each.ip for each in member.addresses}
            why = f"its network is {member.settings.network if given.version == 4 else member.settings.network6}"
            log.warning(
                "[interface] addresses says %s: %s, says the registry, which all nodes of %s obey",
                given,
                why if is_ours else f"the addresses are {', '.join(map(str, member.addresses))}",
                member.network,
            )
