"""Authorities and certificates for tests of DTLS: good ones, and bad ones of every kind.

Not those of a network's own authority: for these see `enrolled_world`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from holloway.actors.dtls_credentials import PrivateKey, Shown

DAY = timedelta(days=1)


@dataclass(frozen=True)
class Leaf:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: PrivateKey
    authority: x509.Certificate

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def shown(self) -> Shown:
        return Shown(self.certificate, (), (self.authority,), self.key)

    def write(self, folder: Path, name: str) -> tuple[Path, Path, Path]:
        """Its files in `folder`: certificate, key, authority."""
        paths = folder / f"{name}.crt", folder / f"{name}.pem", folder / f"{name}-ca.crt"
        paths[0].write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))
        paths[1].touch(mode=0o600)
        paths[1].write_bytes(
            self.key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        paths[2].write_bytes(self.authority.public_bytes(serialization.Encoding.PEM))
        return paths


class Authority:
    """Signs what it is asked to."""

    def __init__(self, name: str = "authority") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = datetime.now(UTC)
        self.certificate = (
            x509.CertificateBuilder()
            .subject_name(self._name)
            .issuer_name(self._name)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 400 * DAY)
            .not_valid_after(now + 400 * DAY)
            .add_extension(x509.BasicConstraints(True, 0), True)
            .sign(self._key, hashes.SHA256())
        )

    def issue(
        self,
        name: str,
        *,
        uris: Sequence[str] = (),
        addresses: Sequence[str] = (),
        days: tuple[int, int] = (-1, 30),
        with_rsa: bool = False,
    ) -> Leaf:
        """A certificate for `name`, good from and to so many days from now."""
        key = rsa.generate_private_key(65537, 2048) if with_rsa else ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in uris]
        names += [x509.IPAddress(ipaddress.ip_address(each)) for each in addresses]
        purposes = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + days[0] * DAY)
            .not_valid_after(now + days[1] * DAY)
            .add_extension(x509.BasicConstraints(False, None), True)
            .add_extension(x509.ExtendedKeyUsage(purposes), False)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), False)
        return Leaf(builder.sign(self._key, hashes.SHA256()), key, self.certificate)
