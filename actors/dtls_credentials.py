"""What a node shows over DTLS, and whom it believes: its certificate in a network with an authority, or files that it was given.

Not responsible for who is a peer (`dtls_handshaker`), nor for the rules of a network's authority (`holloway.protocols.trust`).
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from holloway.actors.config import Config, ConfigProblems, DtlsConfig
from holloway.actors.config.problems import Problem
from holloway.actors.secrets import RefusedFileError, private_contents
from holloway.protocols.certificates import HOSTILE, CertificateProblem
from holloway.protocols.dtls_names import OF_CERTIFICATES, DtlsProblem, Speaker, speaker_of

if TYPE_CHECKING:
    from holloway.actors.enrolled import Enrolled

PrivateKey: TypeAlias = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

SECOND_NS = 10**9
MAX_FILE_BYTES = 256 << 10

_BY_ERROR = {  # OpenSSL, include/openssl/x509_vfy.h
    2: DtlsProblem.FOREIGN_AUTHORITY,
    9: DtlsProblem.NOT_YET_VALID,
    10: DtlsProblem.EXPIRED,
    18: DtlsProblem.FOREIGN_AUTHORITY,
    19: DtlsProblem.FOREIGN_AUTHORITY,
    20: DtlsProblem.FOREIGN_AUTHORITY,
    21: DtlsProblem.FOREIGN_AUTHORITY,
    23: DtlsProblem.REVOKED,
    26: DtlsProblem.WRONG_USE,
}


@dataclass(frozen=True, slots=True)
class Shown:
    """What we show: a key, its certificate and those between it and the authority. Equal when nothing has changed."""

    certificate: x509.Certificate
    chain: tuple[x509.Certificate, ...]
    authorities: tuple[x509.Certificate, ...]
    key: PrivateKey = field(repr=False, compare=False)


class Credentials(Protocol):
    """Where they come from."""

    is_verifying: bool
    """Whether the certificates of others have to be signed by somebody."""

    def shown(self) -> Shown:
        """What we show now; it may change while we run."""
        ...

    def judge(self, der: bytes, depth: int, error: int) -> Speaker | DtlsProblem | None:
        """What to make of a certificate in somebody's chain, his own at depth 0. `error`: what OpenSSL has against it, 0 for
        nothing. None: go on. Takes any bytes.
        """
        ...


class EnrolledCredentials(Credentials):
    """Of a network with an authority. Its rules alone count, so that a certificate is good here exactly when a record signed with
    it is."""

    is_verifying = True

    def __init__(self, enrolled: Enrolled, wall_ns: Callable[[], int]) -> None:
        self._enrolled, self._wall_ns = enrolled, wall_ns

    def shown(self) -> Shown:
        """See `Credentials`."""
        enrolled = self._enrolled
        authorities = enrolled.trust.bundle.authorities
        return Shown(
            x509.load_der_x509_certificate(enrolled.certificate.der),
            (),
            tuple(x509.load_der_x509_certificate(each.der) for each in authorities),
            enrolled.identity.private,
        )

    def judge(self, der: bytes, depth: int, error: int) -> Speaker | DtlsProblem | None:
        """See `Credentials`."""
        if depth:
            return None
        found = self._enrolled.trust.check(der, self._wall_ns() // SECOND_NS)
        if isinstance(found, CertificateProblem):
            return OF_CERTIFICATES[found]
        return Speaker(found.name, None)  # which addresses it has was judged with its record


class FileCredentials(Credentials):
    """Of files, as a configuration names them."""

    def __init__(self, network: str, shown: Shown, *, is_verifying: bool) -> None:
        self._network, self._shown = network, shown
        self.is_verifying = is_verifying

    def shown(self) -> Shown:
        """See `Credentials`."""
        return self._shown

    def judge(self, der: bytes, depth: int, error: int) -> Speaker | DtlsProblem | None:
        """See `Credentials`."""
        if error and self.is_verifying:
            return _BY_ERROR.get(error, DtlsProblem.REJECTED)
        return None if depth else speaker_of(der, self._network)


def load_credentials(config: Config, enrolled: Enrolled | None, wall_ns: Callable[[], int]) -> Credentials:
    """The credentials of a node whose peers are reached over DTLS. Files that were given come before the node's own certificate.

    Raises `ConfigProblems` for files that cannot be used.
    """
    if config.dtls is None:
        assert enrolled is not None  # a rule of configurations
        return EnrolledCredentials(enrolled, wall_ns)
    return _Files(config.path, config.dtls).load(config.node.network)


def file_problems(config: Config) -> tuple[Problem, ...]:
    """What is wrong with the files under [dtls], without their lines."""
    try:
        load_credentials(config, None, lambda: 0)
    except ConfigProblems as error:
        return tuple(error.problems)
    return ()


class _Files:
    """One look at the files of a configuration."""

    def __init__(self, path: Path | None, dtls: DtlsConfig) -> None:
        self._path, self._dtls = path, dtls
        self._problems: list[Problem] = []

    def load(self, network: str) -> FileCredentials:
        dtls = self._dtls
        certificates = self._certificates("cert_file", dtls.cert_file)
        authorities = self._certificates("ca_file", dtls.ca_file) if dtls.ca_file is not None else ()
        key = self._key(dtls.key_file)
        if certificates and key is not None:
            spki = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
            if certificates[0].public_key().public_bytes(*spki) != key.public_key().public_bytes(*spki):
                self._report("key_file", "it is not the key of the first certificate in cert_file", "name its key")
        if self._problems or key is None:
            raise ConfigProblems(self._problems, self._path)
        return FileCredentials(
            network,
            Shown(certificates[0], certificates[1:], authorities, key),
            is_verifying=not dtls.skip_verify,
        )

    def _report(self, key: str, what: str, fix: str) -> None:
        self._problems.append(Problem(self._path, None, f"dtls.{key}", what, fix))

    def _certificates(self, key: str, path: Path) -> tuple[x509.Certificate, ...]:
        """Those in a file, at least one; none when it was reported."""
        try:
            with path.open("rb") as file:
                found = tuple(x509.load_pem_x509_certificates(file.read(MAX_FILE_BYTES)))
        except OSError as error:
            self._report(key, f"{path} cannot be read: {error.strerror}", f"ls -l {shlex.quote(str(path))}")
        except HOSTILE:
            self._report(key, f"{path} holds no certificate", "name a file with certificates in PEM")
        else:
            return found
        return ()

    def _key(self, path: Path) -> PrivateKey | None:
        try:
            key = serialization.load_pem_private_key(private_contents(path, limit=MAX_FILE_BYTES), password=None)
        except RefusedFileError as refused:
            self._report("key_file", f"{path} {refused.what}", refused.fix.format(path=shlex.quote(str(path))))
        except OSError as error:
            self._report("key_file", f"{path} cannot be read: {error.strerror}", f"ls -l {shlex.quote(str(path))}")
        except HOSTILE:
            self._report("key_file", f"{path} holds no unencrypted private key", "name a file with a key in PEM")
        else:
            if isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
                return key
            # OpenSSL enables EdDSA for no version of DTLS that there is.
            self._report(
                "key_file", f"{path} is neither an EC nor an RSA key", "make a certificate with a key on P-256"
            )
        return None
