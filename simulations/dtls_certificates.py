"""The certificates of simulated nodes that speak DTLS: of RSA, and so of one length, whoever makes them and whenever.

All are signed, and shown, with one key that everybody can read here: what OpenSSL draws cannot be decided by a seed, but what it
signs with RSA is as long each time, and so a run takes the same steps. Good ones are good from 2000 to 2048 by the clock of the
machine, which is the one that OpenSSL looks at. Not responsible for who is shown what, and when (`dtls_watch`).
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import Enum
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from holloway.actors.dtls_credentials import Shown
from holloway.protocols.certificate_names import node_uri

_P = int(
    "dcf4b18e1ad523b5c1bfdc474ed0d8a9b46fd9499a641df83d7cea50409ade2a"
    "376496575bda7ce4d81b4544bfdd836bd85104fae133be7465dd3c7a4790c884"
    "1fca8817226416940349a5e28f3f13db4167b0c4ae8c278cd5d53e231f7ce40d"
    "698fac454b1ef09f7b485d11727104c907b3003e2c96c472163dd90831ebe7af",
    16,
)
_Q = int(
    "be13411ffb51c1e25e00fa72277b689171347908dad5a5d7e39048f8f51f46f6"
    "97e863ddf9600f78f1f49dbd308b1f78640753a15cc86608c110f6fa69d36899"
    "b375f2cc4e977294c99392b3bf76a44db2b4ee1e63826e5404222d47407ee9e4"
    "80144d319b8534dadf793304f30e620618e1e0289cc2f59eaf36b3530175f2ad",
    16,
)
_EXPONENT = 65537
_BEGIN, _OVER, _END = (
    datetime(2000, 1, 1, tzinfo=UTC),
    datetime(2001, 1, 1, tzinfo=UTC),
    datetime(2049, 1, 1, tzinfo=UTC),
)


class Showing(Enum):
    """Which certificate a node shows; the value is the fault that makes it do so."""

    GOOD = ""
    EXPIRED = "expired_certificate"
    FOREIGN = "foreign_certificate"
    """Of an authority that the others do not know, for the same name."""


@cache
def the_key() -> rsa.RSAPrivateKey:
    """The key of everybody."""
    private = pow(_EXPONENT, -1, (_P - 1) * (_Q - 1))
    return rsa.RSAPrivateNumbers(
        p=_P,
        q=_Q,
        d=private,
        dmp1=rsa.rsa_crt_dmp1(private, _P),
        dmq1=rsa.rsa_crt_dmq1(private, _Q),
        iqmp=rsa.rsa_crt_iqmp(_P, _Q),
        public_numbers=rsa.RSAPublicNumbers(_EXPONENT, _P * _Q),
    ).private_key(unsafe_skip_rsa_key_validation=True)


@cache
def authority(called: str) -> x509.Certificate:
    """The certificate of an authority."""
    return (
        _begun(_name(called), _name(called), 1, _END)
        .add_extension(x509.BasicConstraints(True, 0), True)
        .sign(the_key(), hashes.SHA256())
    )


@cache
def shown(network: str, name: str, showing: Showing = Showing.GOOD) -> Shown:
    """What the node `name` shows, and whom it believes."""
    signer = "elsewhere" if showing is Showing.FOREIGN else "authority"
    builder = _begun(_name(name), _name(signer), 2, _OVER if showing is Showing.EXPIRED else _END)
    purposes = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    certificate = (
        builder.add_extension(x509.BasicConstraints(False, None), True)
        .add_extension(x509.ExtendedKeyUsage(purposes), False)
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(node_uri(network, name))]), False)
        .sign(the_key(), hashes.SHA256())
    )
    return Shown(certificate, (), (authority("authority"),), the_key())


def der_of(certificate: x509.Certificate) -> bytes:
    """A certificate as it travels."""
    return certificate.public_bytes(serialization.Encoding.DER)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _begun(subject: x509.Name, issuer: x509.Name, serial: int, until: datetime) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(the_key().public_key())
        .serial_number(serial)
        .not_valid_before(_BEGIN)
        .not_valid_after(until)
    )
