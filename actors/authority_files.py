"""The authority of a network, at work: its key, its ledger, and what follows from them. Files in a state directory.

    authority.key      P-256, PEM. Whoever has it can let in and impersonate anybody: keep a copy where nobody finds it
    authority.pem      its certificate, signed by itself
    invitation.key     32 random bytes, hexadecimal: what invitations are made with
    ledger.json        who has which name and addresses, what was taken back, what was used

The ledger is the truth, and there is one: every operation reads it, decides, and writes it before anything that follows is
published, with nobody else in between (`StateDirectory.alone`). So `holloway invite`, `holloway revoke` and the running node get on.

Not responsible for decisions (`holloway.protocols.issuer`), nor for the registry: what is to be published is returned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from holloway.actors.enrolled import AUTHORITIES, SETTINGS, settings_of
from holloway.actors.state_directory import StateDirectory
from holloway.protocols.authorities import authorities_key, kept_bundle, make_bundle
from holloway.protocols.certificates import NodeCertificate, from_pem, to_pem
from holloway.protocols.enrolment import grant_key
from holloway.protocols.errors import LocalError
from holloway.protocols.identity import ENTROPY_BYTES, Identity
from holloway.protocols.invitations import INVITATION_KEY_BYTES, Invitation, Terms, invite
from holloway.protocols.issuer import Decision, Issuer
from holloway.protocols.issuing import SERIAL_ENTROPY_BYTES, Authority
from holloway.protocols.ledger import Ledger
from holloway.protocols.ledger_text import read_ledger, write_ledger
from holloway.protocols.membership import Prefix
from holloway.protocols.network_settings import NetworkSettings, encode_settings, settings_key
from holloway.protocols.renewal import renewed_key
from holloway.protocols.revocation import LIST_LIFETIME_S, RevocationList, read_list
from holloway.protocols.statements import SETTINGS as SETTINGS_LABEL
from holloway.protocols.statements import make_statement
from holloway.protocols.trust import revoked_key

AUTHORITY_KEY = "authority.key"
AUTHORITY_CERTIFICATE = "authority.pem"
INVITATION_KEY = "invitation.key"
LEDGER = "ledger.json"
LIST = "issued.crl"
ID_BYTES = 16

Entropy = Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class Settled:
    """A decision that has been written down. `publish`: by registry key. `admitted`: the certificate of somebody new."""

    decision: Decision
    publish: dict[bytes, bytes] = field(repr=False)
    admitted: NodeCertificate | None = None


@dataclass(frozen=True, slots=True)
class _Desk:
    """The authority with its books open."""

    authority: Authority
    issuer: Issuer
    invitation_key: bytes


class AuthorityFiles:
    """The authority whose files lie in a state directory."""

    def __init__(self, state: StateDirectory, network: str, entropy: Entropy) -> None:
        self.state, self.network, self._entropy = state, network, entropy

    @staticmethod
    def exist(state: StateDirectory) -> bool:
        """Whether the key of an authority is there."""
        return state.has(AUTHORITY_KEY)

    @classmethod
    def create(
        cls, state: StateDirectory, network: str, settings: NetworkSettings, entropy: Entropy, now: int
    ) -> AuthorityFiles:
        """A new authority for a new network. Its key is written last: with it, the network exists.

        Raises LocalError when there is one already.
        """
        if cls.exist(state):
            raise LocalError(
                f"{state.path} holds an authority already",
                "another one would not know whom it let in",
                "name another folder: --state DIR",
            )
        identity = Identity.from_entropy(entropy(ENTROPY_BYTES))
        authority = Authority.create(network, identity, now=now, serial=entropy(SERIAL_ENTROPY_BYTES))
        bundle = make_bundle(network, 1, [authority.certificate], [authority])
        state.write(AUTHORITIES, bundle.value)
        state.write(
            SETTINGS, make_statement(SETTINGS_LABEL, network, encode_settings(settings).decode("ascii"), [authority])
        )
        state.write(AUTHORITY_CERTIFICATE, to_pem(authority.certificate.der))
        state.write(INVITATION_KEY, entropy(INVITATION_KEY_BYTES).hex() + "\n")
        state.write(LEDGER, write_ledger(Ledger(network)))
        state.write(AUTHORITY_KEY, identity.pem())
        return cls(state, network, entropy)

    # What the owner wants.

    def invite(
        self,
        *,
        expires: int,
        registry: str,
        files: Mapping[str, str],
        name: str | None = None,
        addresses: tuple[IPv4Address, ...] = (),
        prefixes: tuple[Prefix, ...] = (),
    ) -> Invitation:
        """An invitation for one machine, good until `expires` (seconds since 1970). Nothing has to be published."""
        with self._open() as desk:
            terms = Terms(
                network=self.network,
                id=self._entropy(ID_BYTES),
                expires=expires,
                name=name,
                addresses=addresses,
                prefixes=prefixes,
            )
            fingerprint = desk.authority.identity.public.fingerprint
            return invite(terms, desk.invitation_key, registry=registry, authority=fingerprint, files=files)

    def revoke(self, name: str, now: int) -> dict[bytes, bytes]:
        """Take back a node's name and certificates. What to publish, by registry key. Raises LocalError for an unknown name."""
        with self._open() as desk:
            desk.issuer.revoke(name, now)
            return self._new_list(desk, now)

    # What the registry asks for.

    def enrol(self, invitation: bytes, value: bytes, now: int) -> Settled:
        """Decide about a request."""
        with self._open() as desk:
            decision = desk.issuer.enrol(invitation, value, now, self._entropy(SERIAL_ENTROPY_BYTES))
            return self._settled(desk, decision, grant_key(self.network, invitation), now, invitation)

    def renew(self, name: str, value: bytes, now: int) -> Settled:
        """Decide about a request for another certificate."""
        with self._open() as desk:
            decision = desk.issuer.renew(name, value, now, self._entropy(SERIAL_ENTROPY_BYTES))
            return self._settled(desk, decision, renewed_key(self.network, name), now)

    def statements(self, now: int) -> dict[bytes, bytes]:
        """What the authority says to everybody, by registry key: authorities, settings, and a revocation list that is not old."""
        with self._open() as desk:
            return {
                authorities_key(self.network): self._must_have(AUTHORITIES),
                settings_key(self.network): self._must_have(SETTINGS),
                revoked_key(self.network): self._current_list(desk, now),
            }

    # Inside.

    @contextmanager
    def _open(self) -> Iterator[_Desk]:
        with self.state.alone():
            identity = Identity.from_pem(self._text(AUTHORITY_KEY))
            authority = Authority(identity, from_pem(self._text(AUTHORITY_CERTIFICATE)), self.network)
            invitation_key = self._invitation_key()
            signed = self._must_have(SETTINGS)
            issuer = Issuer(
                authority,
                invitation_key,
                read_ledger(self._text(LEDGER)),
                kept_bundle(self._must_have(AUTHORITIES), self.network),
                settings_of(signed),
                signed,
            )
            yield _Desk(authority, issuer, invitation_key)

    def _settled(
        self, desk: _Desk, decision: Decision, key: bytes, now: int, invitation: bytes | None = None
    ) -> Settled:
        publish: dict[bytes, bytes] = {}
        if decision.has_changed:
            if desk.issuer.ledger.is_list_due:
                publish |= self._new_list(desk, now)
            else:
                self.state.write(LEDGER, write_ledger(desk.issuer.ledger))
        if decision.answer is not None:
            publish[key] = decision.answer
        admitted = None
        if decision.has_changed and invitation is not None:
            holdings = desk.issuer.ledger.holdings
            admitted = next((each.certificate for each in holdings if each.invitation == invitation), None)
        return Settled(decision, publish, admitted)

    def _new_list(self, desk: _Desk, now: int) -> dict[bytes, bytes]:
        revocations = desk.issuer.revocation_list(now)
        self.state.write(LEDGER, write_ledger(desk.issuer.ledger))
        self.state.write(LIST, revocations.der)
        return {revoked_key(self.network): revocations.der}

    def _current_list(self, desk: _Desk, now: int) -> bytes:
        kept = self.state.read(LIST)
        if kept is not None and not desk.issuer.ledger.is_list_due:
            found = read_list(kept, [desk.authority.certificate])
            if (
                isinstance(found, RevocationList)
                and found.number == desk.issuer.ledger.list_number
                and now < found.next_update - LIST_LIFETIME_S // 2
            ):
                return kept
        return self._new_list(desk, now)[revoked_key(self.network)]

    def _invitation_key(self) -> bytes:
        try:
            return bytes.fromhex(self._text(INVITATION_KEY).strip())
        except ValueError:
            path, why = self.state.file(INVITATION_KEY), "it holds no hexadecimal number"
            raise LocalError(f"{path} cannot be used", why, "bring it back from a copy") from None

    def _must_have(self, name: str) -> bytes:
        kept = self.state.read(name)
        if kept is None:
            raise LocalError(
                f"{self.state.path} holds no authority",
                f"{name} does not exist",
                "run it on the machine that made the network, or name its folder: --state DIR",
            )
        return kept

    def _text(self, name: str) -> str:
        return self._must_have(name).decode("ascii", "replace")
