"""Looks at who has which address in a network whose nodes claim them in the registry, and lets go of some.

Not responsible for the promises (`claim_oracles`), nor for when to look (`actor_world`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from holloway.protocols.address_claims import Holder, decode_claim, freed_claim
from holloway.protocols.membership import addresses_prefix
from holloway.protocols.network_settings import encode_settings, settings_key
from holloway.simulations.claim_oracles import (
    freed_addresses_rest,
    machines_keep_their_addresses,
    observers_agree_on_addresses,
    one_machine_has_an_address,
)
from holloway.simulations.clocks import WALL_START_NS
from holloway.simulations.faults import Fault
from holloway.simulations.office import SETTINGS

if TYPE_CHECKING:
    from holloway.simulations.actor_host import ActorHost
    from holloway.simulations.plan import Meeting
    from holloway.simulations.store import Store

SECOND_NS = 10**9


class ClaimWatch:
    """The addresses of one run."""

    def __init__(
        self, meeting: Meeting, network: str, store: Store, check: Callable[..., None], reach: Callable[[str], None]
    ) -> None:
        self._network, self._store, self._check, self._reach = network, store, check, reach
        self._settings = replace(SETTINGS, lease_s=meeting.claim_ns // SECOND_NS, rest_s=meeting.rest_ns // SECOND_NS)
        self._addresses: dict[str, IPv4Address] = {}
        """By node: the address that it has, or had while its claim stood."""
        self._resting: dict[IPv4Address, tuple[str, int]] = {}
        """Addresses that were let go of: by whom, and until when."""

    def begin(self) -> None:
        """The network has its settings before any node comes."""
        self._store.overwrite({settings_key(self._network): encode_settings(self._settings)})

    def has_booted(self, host: ActorHost) -> None:
        """A life of a node has begun, with its address."""
        address = self._address_of(host)
        assert address is not None, "a node without an address does not begin"
        self._check(machines_keep_their_addresses, self._addresses.get(host.name), address, host.name)
        self._addresses[host.name] = address

    def release(self, fault: Fault, hosts: Iterable[ActorHost], now_ns: int) -> None:
        """Somebody lets go of the addresses of nodes that are not in the registry."""
        members, claims = self._store.members(self._network), self._store.addresses(self._network)
        for host in hosts:
            address = self._addresses.get(host.name)
            claim = None if address is None else decode_claim(claims.get(str(address), b""))
            if host.name not in fault.nodes or host.name in members or address is None:
                continue
            if isinstance(claim, Holder) and claim.name == host.name and claim.free_from is None:
                value = freed_claim(claim, (WALL_START_NS + now_ns) / SECOND_NS, self._settings.rest_s)
                self._store.overwrite({addresses_prefix(self._network) + str(address).encode(): value})
                freed = decode_claim(value)
                assert isinstance(freed, Holder)
                assert freed.free_from is not None
                self._resting[address] = host.name, freed.free_from * SECOND_NS - WALL_START_NS
                self._reach("address_rested")

    def look(self, hosts: Iterable[ActorHost], now_ns: int) -> None:
        """Hold the promises."""
        held = {host.name: address for host in hosts if (address := self._address_of(host)) is not None}
        self._check(one_machine_has_an_address, held)
        claimed_by = {
            address: claim.name
            for address, value in self._store.addresses(self._network).items()
            if isinstance(claim := decode_claim(value), Holder)
        }
        for address, (name, until_ns) in list(self._resting.items()):
            if now_ns < until_ns:
                self._check(freed_addresses_rest, name, claimed_by.get(str(address)), address)
            else:
                del self._resting[address]
        for host in hosts:
            if host.node is not None:
                self._check(observers_agree_on_addresses, host.node.roster.plan.peers, self._addresses, host.name)
            elif (address := self._addresses.get(host.name)) and claimed_by.get(str(address)) != host.name:
                del self._addresses[host.name]  # it may be somebody else's by now

    def _address_of(self, host: ActorHost) -> IPv4Address | None:
        if host.node is None:
            return None
        found = (each.ip for each in host.node.config.interface.addresses)
        return next(each for each in found if isinstance(each, IPv4Address))
