"""The authority of a network, at work: its key, its ledger, and what follows from them. Files in a state directory.

    authority.key      P-256, PEM. Whoever has it can let in and impersonate anybody: keep a copy where nobody finds it
    authority.pem      its certificate, signed by itself; `authority.next.*` while another one follows it (`authority_keys`)
    invitation.key     32 random bytes, hexadecimal: what invitations are made with
    ledger.json        who has which name and addresses, what was taken back, what was used

The ledger is the truth, and there is one: every operation reads it, decides, and writes it before anything that follows is
published, with nobody else in between (`StateDirectory.alone`). So `holloway invite`, `holloway revoke` and the running node get on.

Not responsible for decisions (`holloway.protocols.issuer`), nor for the registry: what is to be published is returned.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address

from holloway.actors.authority_keys import AUTHORITY_KEY, authorities_at_hand, drop_former, keep_authority, keep_next
from holloway.actors.enrolled import AUTHORITIES, SETTINGS, settings_of
from holloway.actors.state_directory import StateDirectory
from holloway.protocols.authorities import Bundle, authorities_key, kept_bundle, make_bundle
from holloway.protocols.certificates import AuthorityCertificate, NodeCertificate
from holloway.protocols.enrolment import grant_key
from holloway.protocols.envelopes import Opened, open_text
from holloway.protocols.errors import LocalError
from holloway.protocols.identity import ENTROPY_BYTES, Identity
from holloway.protocols.invitations import INVITATION_KEY_BYTES, Invitation, Terms, invite
from holloway.protocols.issuer import Decision, Issuer
from holloway.protocols.issuing import SERIAL_ENTROPY_BYTES, Authority
from holloway.protocols.ledger import Ledger
from holloway.protocols.ledger_text import read_ledger, write_ledger
from holloway.protocols.membership import NAME, Prefix, network_prefix
from holloway.protocols.network_settings import NetworkSettings, encode_settings, settings_key
from holloway.protocols.renewal import renewed_key
from holloway.protocols.revocation import LIST_LIFETIME_S, RevocationList, read_list
from holloway.protocols.signed_records import LABEL
from holloway.protocols.statements import SETTINGS as SETTINGS_LABEL
from holloway.protocols.statements import make_statement
from holloway.protocols.trust import Trust, revoked_key

INVITATION_KEY = "invitation.key"
LEDGER = "ledger.json"
LIST = "issued.crl"
ID_BYTES = 16
_INVITATION = re.compile(rb"[0-9a-f]{32}\Z")

Entropy = Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class Asked:
    """What stands in the registry for the authority: the request of a machine under its `invitation`, or that of node `name` for
    another certificate."""

    value: bytes = field(repr=False)
    invitation: bytes | None = None
    name: str = ""

    @property
    def who(self) -> str:
        """Who asks, for people."""
        return f"node {self.name}" if self.invitation is None else "a machine that wants to join"


def asked_under(network: str, key: bytes, value: bytes) -> Asked | None:
    """What stands in the registry under `key`, if that is a place for requests."""
    prefix = network_prefix(network)
    if key.startswith(prefix + b"enrol/") and _INVITATION.match(invitation := key.removeprefix(prefix + b"enrol/")):
        return Asked(value, bytes.fromhex(invitation.decode("ascii")))
    name = key.removeprefix(prefix + b"renew/").decode("ascii", "replace")
    if key.startswith(prefix + b"renew/") and NAME.match(name):
        return Asked(value, name=name)
    return None


@dataclass(frozen=True, slots=True)
class Settled:
    """A decision that has been written down. `publish`: by registry key. `admitted`: the certificate of somebody new."""

    decision: Decision
    publish: dict[bytes, bytes] = field(repr=False)
    admitted: NodeCertificate | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    """Who is trusted: `bundle`, of which the last one issues; `nodes`: by name, the fingerprint of who certified each."""

    bundle: Bundle
    nodes: dict[str, bytes]

    @property
    def waiting(self) -> list[str]:
        """The nodes that do not have a certificate of the one that issues yet."""
        issuer = self.bundle.authorities[-1].key.fingerprint
        return sorted(name for name, authority in self.nodes.items() if authority != issuer)

    def still_old(self, records: Mapping[str, bytes], now: int) -> list[str]:
        """Of these records, as they stand in the store under the names of nodes, those that go with another authority's certificate.
        Whoever has not published the new one yet would not be believed by the others."""
        trust, issuer = Trust(self.bundle), self.bundle.authorities[-1].key.fingerprint
        opened = {name: open_text(LABEL, value, trust, now) for name, value in records.items()}
        return sorted(
            name for name, each in opened.items() if isinstance(each, Opened) and each.signer.authority != issuer
        )


@dataclass(frozen=True, slots=True)
class _Desk:
    """The authority with its books open."""

    authority: Authority
    issuer: Issuer
    invitation_key: bytes
    bundle: Bundle
    at_hand: list[Authority]
    """Whose keys are here, of those in the bundle: they all sign what is said to everybody."""


class AuthorityFiles:
    """The authority whose files lie in a state directory."""

    def __init__(self, state: StateDirectory, network: str, entropy: Entropy) -> None:
        self.state, self.network, self._entropy = state, network, entropy
        self._books: tuple[str, Ledger] | None = None
        """The text of the ledger, and what it says."""

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
        state.write(INVITATION_KEY, entropy(INVITATION_KEY_BYTES).hex() + "\n")
        state.write(LEDGER, write_ledger(Ledger(network)))
        keep_authority(state, authority)
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

    def certify(self, name: str, prefixes: Collection[Prefix], now: int) -> dict[bytes, bytes]:
        """A certificate for a node that is in, with these prefixes as well. What to publish, by registry key. Raises LocalError as
        `Issuer.certify` does.
        """
        with self._open() as desk:
            decision = desk.issuer.certify(name, prefixes, now, self._entropy(SERIAL_ENTROPY_BYTES))
            publish = self._keep(desk, now) if decision.has_changed else {}
            return publish | ({} if decision.answer is None else {renewed_key(self.network, name): decision.answer})

    def release(self, name: str, now: int) -> dict[bytes, bytes]:
        """Let go of a node's name and addresses; its certificates are taken back, and its key may come again. What to publish, by
        registry key. Raises LocalError for an unknown name.
        """
        with self._open() as desk:
            desk.issuer.release(name, now)
            return self._new_list(desk, now)

    def holder_of(self, address: IPv4Address) -> str | None:
        """The name of the node that has an address."""
        with self._open() as desk:
            return desk.issuer.ledger.holder_of(address)

    def change_settings(self, change: Callable[[NetworkSettings], NetworkSettings]) -> dict[bytes, bytes]:
        """Say other settings from now on. What to publish, by registry key. Raises what `change` does."""
        with self._open() as desk:
            old = settings_of(self._must_have(SETTINGS))
            new = replace(change(old), number=old.number + 1)
            signed = make_statement(SETTINGS_LABEL, self.network, encode_settings(new).decode("ascii"), desk.at_hand)
            self.state.write(SETTINGS, signed)
            return {settings_key(self.network): signed}

    # How one authority follows another.

    def standing(self) -> Standing:
        """Who is trusted now, and whose certificates are whose."""
        with self._open() as desk:
            nodes = {each.certificate.name: each.certificate.authority for each in desk.issuer.ledger.holdings}
            return Standing(desk.bundle, nodes)

    def begin_rollover(self, now: int) -> dict[bytes, bytes]:
        """Let another authority follow this one: from now on it issues, and both are trusted. What to publish, by registry key.

        Raises LocalError while one follows already.
        """
        with self._open() as desk:
            if len(desk.bundle.authorities) > 1:
                raise LocalError(
                    "another authority follows this one already",
                    "one change has to end before another begins",
                    "holloway authority rollover --finish",
                )
            drop_former(self.state, desk.authority)  # what an interrupted change has left
            identity = Identity.from_entropy(self._entropy(ENTROPY_BYTES))
            following = Authority.create(self.network, identity, now=now, serial=self._entropy(SERIAL_ENTROPY_BYTES))
            keep_next(self.state, following)
            signers = [*desk.at_hand, following]
            self._sign_anew(desk, [each.certificate for each in signers], signers)
        return self.statements(now)

    def finish_rollover(self, now: int) -> dict[bytes, bytes]:
        """Trust the one that has followed alone. What to publish, by registry key. Whoever has no certificate of it is not believed
        any more. Raises LocalError when none follows.
        """
        with self._open() as desk:
            if len(desk.bundle.authorities) < 2:
                raise LocalError("no authority follows another", "there is one", "holloway authority rollover")
            self._sign_anew(desk, [desk.authority.certificate], desk.at_hand)
            drop_former(self.state, desk.authority)
        return self.statements(now)

    def _sign_anew(
        self, desk: _Desk, authorities: Sequence[AuthorityCertificate], signers: Sequence[Authority]
    ) -> None:
        """The settings, so that they are believed before and after; then the bundle: with it, it has happened."""
        settings = encode_settings(settings_of(self._must_have(SETTINGS))).decode("ascii")
        self.state.write(SETTINGS, make_statement(SETTINGS_LABEL, self.network, settings, signers))
        bundle = make_bundle(self.network, desk.bundle.number + 1, authorities, signers)
        self.state.write(AUTHORITIES, bundle.value)

    # What the registry asks for.

    def settle(self, requests: Sequence[Asked], now: int) -> list[Settled]:
        """Decide about requests in their order, and write down once what was decided. Ends before one that cannot be decided about,
        and raises the LocalError when that is the first.
        """
        with self._open() as desk:
            decisions: list[Decision] = []
            for asked in requests:
                try:
                    decisions.append(self._decide(desk.issuer, asked, now))
                except LocalError:
                    if not decisions:
                        raise
                    break
            publish = self._keep(desk, now) if any(decision.has_changed for decision in decisions) else {}
            settled = []
            for asked, decision in zip(requests, decisions, strict=False):
                answer = {} if decision.answer is None else {self._place(asked): decision.answer}
                settled.append(Settled(decision, answer | publish, self._admitted(desk, asked, decision)))
                publish = {}  # once is enough
            return settled

    def enrol(self, invitation: bytes, value: bytes, now: int) -> Settled:
        """Decide about a request."""
        return self.settle([Asked(value, invitation)], now)[0]

    def renew(self, name: str, value: bytes, now: int) -> Settled:
        """Decide about a request for another certificate."""
        return self.settle([Asked(value, name=name)], now)[0]

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
            bundle = kept_bundle(self._must_have(AUTHORITIES), self.network)
            at_hand = authorities_at_hand(self.state, bundle)
            invitation_key = self._invitation_key()
            signed = self._must_have(SETTINGS)
            books = self._read()
            issuer = Issuer(at_hand[-1], invitation_key, books[1], bundle, settings_of(signed), signed)
            yield _Desk(at_hand[-1], issuer, invitation_key, bundle, at_hand)
            if self._books is None:  # nothing was written, so nothing has changed
                self._books = books

    def _decide(self, issuer: Issuer, asked: Asked, now: int) -> Decision:
        serial = self._entropy(SERIAL_ENTROPY_BYTES)
        if asked.invitation is not None:
            return issuer.enrol(asked.invitation, asked.value, now, serial)
        return issuer.renew(asked.name, asked.value, now, serial)

    def _place(self, asked: Asked) -> bytes:
        """Where the answer goes."""
        if asked.invitation is not None:
            return grant_key(self.network, asked.invitation)
        return renewed_key(self.network, asked.name)

    def _admitted(self, desk: _Desk, asked: Asked, decision: Decision) -> NodeCertificate | None:
        if asked.invitation is None or not decision.has_changed:
            return None
        holdings = desk.issuer.ledger.holdings
        return next((each.certificate for each in holdings if each.invitation == asked.invitation), None)

    def _keep(self, desk: _Desk, now: int) -> dict[bytes, bytes]:
        """Write the ledger down, and what follows from it. What to publish, by registry key."""
        if desk.issuer.ledger.is_list_due:
            return self._new_list(desk, now)
        self._write(desk.issuer.ledger)
        return {}

    def _write(self, ledger: Ledger) -> None:
        text = write_ledger(ledger)
        self.state.write(LEDGER, text)
        self._books = text, ledger

    def _read(self) -> tuple[str, Ledger]:
        """The ledger as it stands in the file; its text is taken apart only when somebody else has written it."""
        text, books = self._text(LEDGER), self._books
        self._books = None  # until whoever uses it has come to the end
        return books if books is not None and books[0] == text else (text, read_ledger(text))

    def _new_list(self, desk: _Desk, now: int) -> dict[bytes, bytes]:
        revocations = desk.issuer.revocation_list(now)
        self._write(desk.issuer.ledger)
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
