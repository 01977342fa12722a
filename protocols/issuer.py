"""The side of the authority: who is let in, under which name and with which addresses.

Every answer follows from the authority's own ledger, its own settings and what the request proves; of the store nothing is
believed, not even that a name is free. Before anything is looked at, the request must prove an invitation. After that:

* An invitation is good for one key. The same key again is a retry and gets the certificate that it has, so a machine that lost
  the answer loses nothing; another key is refused, and a key keeps one name.
* A name and an address belong to one machine until they are revoked or released; then the address rests (`rest_s` of the settings) before
  another machine gets it, unless its invitation names it. A machine that was made anew under the same
  name has another key, and gets nothing of the old one's.
* Addresses are those that the invitation names; or those wished for, if they are free and not in the floating range; or the
  lowest free one outside the reserved ranges. The IPv6 address follows from the IPv4 address.
* Prefixes are those that the invitation names, and those that the owner adds later; none lies inside the network itself, where every address is somebody's, but for
  single addresses of the floating range: that a node may have one says its certificate, when it has it the registry.

The caller keeps the ledger (`ledger_text`) before he publishes an answer, and publishes the revocation list when the ledger says
that it is due. Time and randomness come in. Not responsible for reading and writing the store.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network

from holloway.protocols.authorities import Bundle
from holloway.protocols.certificate_names import HostAddress
from holloway.protocols.certificates import CLOCK_SKEW_S, NodeCertificate, time_problem
from holloway.protocols.enrolment import EnrolProblem, Grant, Refused, Request, make_answer, open_request
from holloway.protocols.errors import LocalError
from holloway.protocols.identity import PublicKey
from holloway.protocols.invitations import INVITATION_KEY_BYTES
from holloway.protocols.issuing import NODE_LIFETIME_S, Authority
from holloway.protocols.ledger import EndReason, Holding, Ledger
from holloway.protocols.membership import Prefix
from holloway.protocols.network_settings import NetworkSettings
from holloway.protocols.renewal import is_due, make_renewed, open_renewal
from holloway.protocols.revocation import RevocationList, make_list


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do with a request. `answer`: what to publish; None for a message that proves nothing, which is counted only.

    `reason`: why it was refused. `has_changed`: the ledger is to be kept before anything is published.
    """

    answer: bytes | None = field(repr=False)
    reason: EnrolProblem | None = None
    has_changed: bool = False


class Issuer:
    """One authority at work. Methods take any bytes as messages, and `now` in seconds since 1970.

    Methods that issue raise LocalError when the authority cannot: its own certificate has run out, or a serial number comes
    twice. Then nothing has changed.
    """

    def __init__(
        self,
        authority: Authority,
        invitation_key: bytes,
        ledger: Ledger,
        bundle: Bundle,
        settings: NetworkSettings,
        signed_settings: bytes,
        *,
        lifetime_s: int = NODE_LIFETIME_S,
    ) -> None:
        """`bundle` and `signed_settings`: what is published, for those who join; the last authority of a bundle issues.

        Raises LocalError when these are not of one network.
        """
        fingerprint = authority.identity.public.fingerprint
        if bundle.authorities[-1].key.fingerprint != fingerprint:
            raise LocalError(
                "this authority does not issue", "it is not the last one of the bundle", "use the newest one"
            )
        if not authority.network == ledger.network == bundle.network or len(invitation_key) != INVITATION_KEY_BYTES:
            raise LocalError(
                "this authority cannot issue",
                "ledger, bundle and authority are of different networks, or the key is none",
            )
        self._authority, self._fingerprint = authority, fingerprint
        self._invitation_key = invitation_key
        self._ledger = ledger
        self._bundle = bundle
        self._settings, self._signed_settings = settings, signed_settings
        self._lifetime_s = lifetime_s

    @property
    def ledger(self) -> Ledger:
        return self._ledger

    def enrol(self, invitation: bytes, value: bytes, now: int, serial: bytes) -> Decision:
        """Decide about what stands under `enrol/<invitation>`. `serial`: 16 random bytes, used when a certificate is issued."""
        request = open_request(value, self._authority.network, invitation, self._invitation_key)
        if isinstance(request, EnrolProblem):
            return Decision(None, request)
        key = request.key
        if key is None:
            return self._refuse(request, EnrolProblem.BAD_KEY)
        name = self._ledger.name_of(key)
        holding = None if name is None else self._ledger.holding(name)
        if holding is not None and holding.invitation == invitation:
            return self._repeat(request, holding, now)
        if self._ledger.user_of(invitation) is not None:  # by another key, or by one that has lost what it got
            return self._refuse(request, EnrolProblem.USED)
        if now > request.terms.expires + CLOCK_SKEW_S:
            return self._refuse(request, EnrolProblem.EXPIRED)
        return self._admit(request, key, now, serial)

    def renew(self, name: str, value: bytes, now: int, serial: bytes) -> Decision:
        """Decide about what stands under `renew/<name>`. `serial`: 16 random bytes."""
        holding = self._ledger.holding(name)
        if holding is None:
            return Decision(None, EnrolProblem.UNKNOWN)
        current = holding.certificate
        asked = open_renewal(value, self._authority.network, name, current.key)
        if isinstance(asked, EnrolProblem):
            return Decision(None, asked)
        reason = None
        if asked not in {current.serial, *(each.serial for each in holding.earlier)}:
            reason = EnrolProblem.UNKNOWN
        elif time_problem(current, now) is not None:
            reason = EnrolProblem.EXPIRED
        if reason is not None:
            return Decision(make_renewed(reason), reason)
        wanted = self._with_ipv6(holding.addresses)
        if current.addresses == wanted and not is_due(current, self._fingerprint, now):
            return Decision(make_renewed(current))
        issued = self._issue(current.key, name, wanted, current.prefixes, now, serial)
        self._ledger.hold(issued, holding.invitation, now, self._settings.rest_s)
        return Decision(make_renewed(issued), has_changed=True)

    def certify(self, name: str, prefixes: Iterable[Prefix], now: int, serial: bytes) -> Decision:
        """Another certificate for a node that is in, with these prefixes as well. The answer is as to a renewal that nobody asked
        for. `serial`: 16 random bytes.

        Raises LocalError for a node that is not there, or whose certificate has run out, and for prefixes that nobody can have.
        """
        holding = self._ledger.holding(name)
        if holding is None:
            raise LocalError(
                f"no node {name} is in network {self._ledger.network}", "nobody has the name", "holloway status"
            )
        current = holding.certificate
        if time_problem(current, now) is not None:
            fix = "revoke it, and invite the machine anew"
            raise LocalError(f"node {name} cannot be certified", "its certificate has run out", fix)
        wanted = current.prefixes.union(prefixes)
        taken = next(
            (prefix for prefix in sorted(wanted - current.prefixes, key=str) if self._is_overlay(prefix)), None
        )
        if taken is not None:
            what, why = f"node {name} cannot have {taken}", "addresses inside the network are those of nodes"
            raise LocalError(what, why, "name a network outside of it, or a floating address alone")
        if wanted == current.prefixes:
            return Decision(make_renewed(current))
        issued = self._issue(current.key, name, self._with_ipv6(holding.addresses), wanted, now, serial)
        self._ledger.hold(issued, holding.invitation, now)
        return Decision(make_renewed(issued), has_changed=True)

    def revoke(self, name: str, now: int) -> Holding:
        """Take back a node's name and certificates; its key is never let in again. What follows is to be published:
        the ledger kept, then `revocation_list`. Raises LocalError when there is no such node.
        """
        return self._ledger.end(name, EndReason.REVOKED, now, self._settings.rest_s)

    def release(self, name: str, now: int) -> Holding:
        """Free a node's name and addresses for another machine: its certificates are taken back, its key may come again.

        Raises LocalError when there is no such node.
        """
        return self._ledger.end(name, EndReason.RELEASED, now, self._settings.rest_s)

    def revocation_list(self, now: int) -> RevocationList:
        """The next revocation list. Keep the ledger, which counts it, before it is published."""
        self._ledger.prune(now)
        number, revoked = self._ledger.next_list()
        return make_list(self._authority, number, revoked, now=now)

    def _repeat(self, request: Request, holding: Holding, now: int) -> Decision:
        """The grant once more, to the machine that has it."""
        if request.name != holding.certificate.name or not set(request.addresses) <= set(holding.addresses):
            return self._refuse(request, EnrolProblem.USED)
        if time_problem(holding.certificate, now) is not None:
            return self._refuse(request, EnrolProblem.EXPIRED)
        return self._grant(request, holding.certificate, has_changed=False)

    def _admit(self, request: Request, key: PublicKey, now: int, serial: bytes) -> Decision:
        name = request.name
        if name is None:
            return self._refuse(request, EnrolProblem.BAD_NAME)
        if request.terms.name not in (None, name):
            return self._refuse(request, EnrolProblem.NOT_INVITED)
        if self._ledger.is_revoked(key):
            return self._refuse(request, EnrolProblem.KEY_REVOKED)
        if self._ledger.name_of(key) not in (None, name):
            return self._refuse(request, EnrolProblem.KEY_TAKEN)
        holding = self._ledger.holding(name)
        if holding is not None and holding.certificate.key != key:
            return self._refuse(request, EnrolProblem.NAME_TAKEN)
        addresses = self._choose(request, key, name, holding, now)
        if isinstance(addresses, EnrolProblem):
            return self._refuse(request, addresses)
        if any(self._is_overlay(prefix) for prefix in request.terms.prefixes):
            return self._refuse(request, EnrolProblem.PREFIX_RESERVED)
        if self._ledger.is_full:
            return self._refuse(request, EnrolProblem.FULL)
        issued = self._issue(key, name, self._with_ipv6(addresses), request.terms.prefixes, now, serial)
        self._ledger.hold(issued, request.terms.id, now, self._settings.rest_s)
        self._ledger.use(request.terms.id, key, request.terms.expires)
        return self._grant(request, issued, has_changed=True)

    def _choose(
        self, request: Request, key: PublicKey, name: str, holding: Holding | None, now: int
    ) -> tuple[IPv4Address, ...] | EnrolProblem:
        terms = request.terms
        if terms.addresses and request.addresses not in ((), terms.addresses):
            return EnrolProblem.NOT_INVITED
        wished = terms.addresses or request.addresses
        for address in wished:
            if not self._settings.is_host(address) or self._settings.is_floating(address):
                return EnrolProblem.ADDRESS_RESERVED
            if self._ledger.holder_of(address) not in (None, name):
                return EnrolProblem.ADDRESS_TAKEN
            if not terms.addresses and self._ledger.is_resting(address, key, now):
                return EnrolProblem.ADDRESS_RESTING
        if wished:
            return wished
        if holding is not None:
            return holding.addresses
        lowest = self._lowest_free(key, now)
        return EnrolProblem.NO_ADDRESS_LEFT if lowest is None else (lowest,)

    def _is_overlay(self, prefix: Prefix) -> bool:
        """Whether a prefix lies among the addresses of nodes: it would take some of them from their owners."""
        if isinstance(prefix, IPv4Network):
            address, settings = prefix.network_address, self._settings
            if prefix.num_addresses == 1 and settings.is_floating(address) and settings.is_host(address):
                return False
            return prefix.subnet_of(settings.network)
        return self._settings.network6 is not None and prefix.subnet_of(self._settings.network6)

    def _lowest_free(self, key: PublicKey, now: int) -> IPv4Address | None:
        """Outside the reserved ranges, and not ending in .0 or .255, which some hosts take for broadcasts."""
        network = self._settings.network
        reserved = [each for each in (self._settings.static_range, self._settings.floating_range) if each is not None]
        number = int(network.network_address) + 1
        while number < int(network.broadcast_address):
            address = IPv4Address(number)
            inside = next((each for each in reserved if address in each), None)
            if inside is not None:
                number = int(inside.broadcast_address) + 1
                continue
            is_usual = 0 < number & 255 < 255
            if is_usual and self._ledger.holder_of(address) is None and not self._ledger.is_resting(address, key, now):
                return address
            number += 1
        return None

    def _with_ipv6(self, addresses: tuple[IPv4Address, ...]) -> frozenset[HostAddress]:
        both: set[HostAddress] = set(addresses)
        both.update(each for each in map(self._settings.address6, addresses) if each is not None)
        return frozenset(both)

    def _issue(
        self,
        key: PublicKey,
        name: str,
        addresses: frozenset[HostAddress],
        prefixes: frozenset[Prefix] | tuple[Prefix, ...],
        now: int,
        serial: bytes,
    ) -> NodeCertificate:
        return self._authority.issue(
            key,
            name,
            sorted(addresses, key=lambda each: (each.version, int(each))),
            sorted(set(prefixes), key=lambda each: (each.version, int(each.network_address), each.prefixlen)),
            now=now,
            serial=serial,
            lifetime_s=self._lifetime_s,
        )

    def _grant(self, request: Request, certificate: NodeCertificate, *, has_changed: bool) -> Decision:
        grant = Grant(
            certificate=certificate.der,
            authorities=self._bundle.value,
            settings=self._signed_settings,
            list_number=self._ledger.list_number,
        )
        return Decision(make_answer(request, grant), has_changed=has_changed)

    def _refuse(self, request: Request, reason: EnrolProblem) -> Decision:
        return Decision(make_answer(request, Refused(reason)), reason)
