"""What a node of a network with an authority keeps: who it is, and whom it believes. Files in its state directory.

    identity.key       P-256, PEM: signs our record, and is the key of our certificate
    session.key        X25519, base64: sessions
    certificate.pem    ours
    authorities.json   the bundle of authorities, as it stands in the registry
    revoked.crl        the newest revocation list that was seen, DER; `revoked.number`: how new one must be at least
    record.serial      the serial number of our newest record
    network.json       the settings of the network, as they stand in the registry
    seen.json          the serial numbers of the newest records that were seen
    known.json         those records themselves: with the registry away, known nodes can be met again

Everything of the registry is kept as it was signed, and verified again when it is read: whoever alters a file alters nothing.
What is learned counts at once and is owed to the disk. Whoever learns it writes it next (`keep_owed`), in a thread, so that packets do
not wait for the disk; while that refuses, it stays owed. Not responsible for the registry, for the authority's
own files (`authority_files`), nor for what is believed (`holloway.protocols.trust`).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from ipaddress import IPv4Address, ip_interface
from pathlib import Path

import trio

from holloway.actors.config.model import InterfaceAddress
from holloway.actors.state_directory import StateDirectory
from holloway.protocols.authorities import Bundle, kept_bundle
from holloway.protocols.certificates import (
    CertificateProblem,
    NodeCertificate,
    from_pem,
    read_node,
    time_problem,
    to_pem,
)
from holloway.protocols.errors import LocalError
from holloway.protocols.hostile_json import MAX_INTEGER
from holloway.protocols.identity import ENTROPY_BYTES, Identity
from holloway.protocols.joiner import Granted
from holloway.protocols.keys import KEY_BYTES, StaticKey, clamp, decode_key, encode_key
from holloway.protocols.membership import MAX_SERIAL
from holloway.protocols.network_settings import NetworkSettings, SettingsProblem, decode_settings
from holloway.protocols.revocation import RevocationProblem
from holloway.protocols.signed_records import SignedRecords
from holloway.protocols.statements import Statement, StatementProblem, read_statement
from holloway.protocols.trust import Trust

IDENTITY_KEY = "identity.key"
SESSION_KEY = "session.key"
CERTIFICATE = "certificate.pem"
AUTHORITIES = "authorities.json"
REVOKED = "revoked.crl"
REVOKED_NUMBER = "revoked.number"
SETTINGS = "network.json"
SERIAL = "record.serial"
SEEN = "seen.json"
KNOWN = "known.json"
_STATEMENTS = frozenset({AUTHORITIES, SETTINGS})
_JOIN = "join the network: holloway join TOKEN; or make one: holloway init NETWORK"


def identity_in(state: StateDirectory, entropy: bytes | None = None) -> Identity:
    """The node's key pair. With `entropy` (`ENTROPY_BYTES` random bytes) one is made and kept when there is none.

    Raises LocalError when there is none or it cannot be read, `PortError` when the file cannot be used.
    """
    kept = state.read(IDENTITY_KEY)
    if kept is not None:
        return Identity.from_pem(kept.decode("ascii", "replace"))
    if entropy is None or len(entropy) < ENTROPY_BYTES:
        raise LocalError(f"{state.path} holds no identity", f"{IDENTITY_KEY} does not exist", _JOIN)
    identity = Identity.from_entropy(entropy)
    state.write(IDENTITY_KEY, identity.pem())
    return identity


def ensure_session_key(state: StateDirectory, entropy: bytes) -> Path:
    """The file with the key for sessions; made of 32 random bytes when there is none."""
    if not state.has(SESSION_KEY):
        state.write(SESSION_KEY, encode_key(clamp(entropy[:KEY_BYTES])) + "\n")
    return state.file(SESSION_KEY)


def session_key_in(state: StateDirectory) -> StaticKey:
    """The key for sessions. Raises `LocalError` when the file holds none, `PortError` when it cannot be used."""
    return StaticKey(decode_key((state.read(SESSION_KEY) or b"").decode("ascii", "replace").strip()))


def keep_granted(state: StateDirectory, granted: Granted) -> None:
    """What a machine has when it is let in; the certificate last, because a node is enrolled when it has one."""
    state.write(AUTHORITIES, granted.bundle.value)
    state.write(REVOKED_NUMBER, f"{granted.list_number}\n")
    state.write(SETTINGS, granted.settings)
    state.write(CERTIFICATE, to_pem(granted.certificate.der))


def settings_of(value: bytes) -> NetworkSettings:
    """The settings in a signed text that has been verified before. Raises LocalError when they cannot be used."""
    statement = read_statement(value)
    settings = decode_settings(statement.text.encode()) if isinstance(statement, Statement) else statement
    if not isinstance(settings, NetworkSettings):
        raise LocalError(
            "the settings of the network cannot be used", settings.value, "install the version that the others have"
        )
    return settings


class Enrolled:
    """A node with a certificate, and what it has learned of its network."""

    def __init__(self, state: StateDirectory, network: str, now: int) -> None:
        """What `state` holds for a node of `network`; `now` in seconds since 1970.

        Raises LocalError when something is missing, damaged, of another network, or not in time, and `PortError` for files that
        cannot be used.
        """
        self.state = state
        self._owed: dict[str, bytes] = {}
        """What files have to hold that do not yet, in the order in which it was learned."""
        self._writing = trio.Lock()
        self.identity = identity_in(self.state)
        bundle = kept_bundle(self._must_have(AUTHORITIES), network)
        self.trust = Trust(bundle, list_number=self._number(REVOKED_NUMBER))
        self._serial = self._number(SERIAL)
        revoked = self.state.read(REVOKED)
        problem = None if revoked is None else self.trust.take_revocations(revoked)
        # One of an authority that is gone is no list any more, and nobody is believed before there is a new one.
        if problem is not None and not (problem is RevocationProblem.FOREIGN_AUTHORITY and self.trust.list_number):
            raise LocalError(
                f"{self.state.file(REVOKED)} cannot be used", problem.value, f"join network {network} again"
            )
        self.settings_value = self._must_have(SETTINGS)
        self._take_settings(now)
        self.settings = self.newest = settings_of(self.settings_value)
        """Those that count since the start, and the newest ones."""
        self.certificate = self._certificate(bundle, now)
        seen = self.state.read(SEEN)
        self.records = SignedRecords(self.trust, None if seen is None else seen.decode("ascii", "replace"))

    def __repr__(self) -> str:
        return f"<Enrolled {self.certificate.name} in {self.trust.network}>"

    @property
    def addresses(self) -> tuple[InterfaceAddress, ...]:
        """The overlay addresses of the certificate, each with the length of its network's prefix; IPv4 first."""
        settings = self.settings
        lengths = {4: settings.network.prefixlen, 6: 128 if settings.network6 is None else settings.network6.prefixlen}
        return tuple(
            ip_interface(f"{address}/{lengths[address.version]}")
            for address in sorted(self.certificate.addresses, key=lambda each: (each.version, int(each)))
        )

    @property
    def ipv4(self) -> tuple[IPv4Address, ...]:
        """The IPv4 addresses of the certificate, lowest first."""
        return tuple(sorted(each for each in self.certificate.addresses if isinstance(each, IPv4Address)))

    # What the registry says. Each returns why it was not taken, or None; what was taken is owed (`keep_owed`).

    def take_bundle(self, value: bytes, now: int) -> str | None:
        """Other authorities, if those trusted until now say so."""
        before = self.trust.bundle
        problem = self.trust.take_bundle(value, now)
        if problem is not None:
            return problem.value
        if self.trust.bundle is not before:
            self._owed[AUTHORITIES] = value
        return None

    def take_revocations(self, value: bytes) -> str | None:
        """A revocation list, if it is newer."""
        before = self.trust.revocations
        problem = self.trust.take_revocations(value)
        if problem is not None:
            return problem.value
        if self.trust.revocations is not before:
            self._owed |= {REVOKED: value, REVOKED_NUMBER: f"{self.trust.list_number}\n".encode()}
        return None

    def take_settings(self, value: bytes, now: int) -> str | None:
        """Settings of the network, if they are newer. What a node is made of when it starts is obeyed from the next start on."""
        taken = self.trust.take_settings(value, now)
        if isinstance(taken, StatementProblem):
            return taken.value
        if value != self.settings_value:
            found = decode_settings(taken.encode())
            if isinstance(found, SettingsProblem):  # the authority is of a version that we do not know
                return found.value
            self.newest, self.settings_value = found, value
            self._owed[SETTINGS] = value
        return None

    def take_certificate(self, certificate: NodeCertificate) -> None:
        """Another certificate of ours, which has been verified."""
        self.certificate = certificate
        self._owed[CERTIFICATE] = to_pem(certificate.der).encode()

    def next_serial(self, wall_us: int) -> int:
        """A serial number for our next record: the time, in microseconds since 1970, or more than the one before, also when the
        clock was set back over a restart. With fewer than the others have seen they would not believe us: so it is owed, and kept
        before the record is published.
        """
        self._serial = min(max(wall_us, self._serial + 1), MAX_SERIAL)
        self._owed[SERIAL] = str(self._serial).encode()
        return self._serial

    def keep_seen(self) -> None:
        """Remember the newest records for the next start. May be done in a thread."""
        self.state.write(SEEN, self.records.memory())

    async def keep_owed(self) -> None:
        """Write what is owed. Raises `PortError` while the disk refuses. Once begun it is done to its end, also when cancelled."""
        async with self._writing:  # one after the other: what is newer comes later
            if not self._owed:
                return
            owed = dict(self._owed)
            await self.state.apart(partial(self._write, owed))
            for name, value in owed.items():
                if self._owed.get(name) is value:  # otherwise something newer has come meanwhile
                    del self._owed[name]

    def _write(self, owed: Mapping[str, bytes]) -> None:
        """Where the authority lives in this folder it may have followed up a statement of its own already: that one stays."""
        with self.state.alone() if _STATEMENTS & owed.keys() else nullcontext():
            for name, value in owed.items():
                if name not in _STATEMENTS or not self._is_followed_up(name, value):
                    self.state.write(name, value)

    def _is_followed_up(self, name: str, value: bytes) -> bool:
        there, new = read_statement(self.state.read(name) or b""), read_statement(value)
        return isinstance(there, Statement) and isinstance(new, Statement) and there.number > new.number

    def _number(self, name: str) -> int:
        kept = self.state.read(name)
        try:
            number = 0 if kept is None else int(kept)
        except ValueError:
            number = -1
        if not 0 <= number <= MAX_INTEGER:
            raise LocalError(f"{self.state.file(name)} cannot be used", "it holds no number", "join the network again")
        return number

    def _must_have(self, name: str) -> bytes:
        kept = self.state.read(name)
        if kept is None:
            raise LocalError(f"{self.state.path} holds no membership", f"{name} does not exist", _JOIN)
        return kept

    def _take_settings(self, now: int) -> None:
        taken = self.trust.take_settings(self.settings_value, now)
        # Those of an authority that is gone were verified when they came; another one signs them anew, and we may not have heard yet.
        if isinstance(taken, StatementProblem) and taken is not StatementProblem.FOREIGN_AUTHORITY:
            fix = "set the clock of this machine, or join the network again"
            raise LocalError(f"{self.state.file(SETTINGS)} cannot be used", taken.value, fix)

    def _certificate(self, bundle: Bundle, now: int) -> NodeCertificate:
        path = self.state.file(CERTIFICATE)
        der = from_pem(self._must_have(CERTIFICATE).decode("ascii", "replace"))
        certificate = read_node(der, bundle.network, bundle.authorities)
        if isinstance(certificate, CertificateProblem):
            raise LocalError(f"{path} cannot be used", certificate.value, _JOIN)
        if certificate.key != self.identity.public:
            raise LocalError(f"{path} cannot be used", f"it is not of the key in {IDENTITY_KEY}", _JOIN)
        problem = time_problem(certificate, now)
        if problem is not None:
            fix = "set the clock of this machine if it is wrong; otherwise join the network again"
            raise LocalError(f"the certificate of node {certificate.name} cannot be used", problem.value, fix)
        return certificate
