"""P-256 key pairs, of nodes and of authorities: one key signs a node's record and is the key of its certificate.

Not responsible for certificates (`certificates`, `issuing`), for key files, nor for where randomness comes from: a key is
made of entropy bytes. What is signed is told apart by a label and by the network's name, so that nothing that was signed
for one purpose is of use for another; a certificate, a CRL and a signing request begin with the byte 0x30, a label does not.

Nothing here puts a private key into an error or a `repr`.
"""

from __future__ import annotations

import hashlib
import re

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from holloway.protocols.errors import LocalError

ENTROPY_BYTES = (
    48  # the 32 of the key and 16 more, so that no key is likelier than another (FIPS 186-5, A.2.1: 8 at least)
)
FINGERPRINT_BYTES = 32
MAX_SIGNATURE_BYTES = 72  # two integers of up to 33 bytes and six bytes of DER (SEC 1, C.8)
_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # SP 800-186, 3.2.1.3
_CURVE = ec.SECP256R1()
_LABEL = re.compile(r"[a-z ]+\Z")


def _deterministic() -> bool:
    try:
        ec.ECDSA(hashes.SHA256(), deterministic_signing=True)
    except UnsupportedAlgorithm:
        return False
    return True


IS_DETERMINISTIC = _deterministic()
"""Whether equal messages get equal signatures (RFC 6979). OpenSSL before 3.2 draws a number for each signature instead."""
_SIGNING = ec.ECDSA(hashes.SHA256(), deterministic_signing=IS_DETERMINISTIC)
_VERIFYING = ec.ECDSA(hashes.SHA256())


class PublicKey:
    """The public half of a key pair. Equal keys are equal."""

    __slots__ = ("_fingerprint", "_key")

    def __init__(self, key: object) -> None:
        """`key`: a public key of `cryptography`. Raises ValueError when it is not one on P-256."""
        match key:
            case ec.EllipticCurvePublicKey(curve=ec.SECP256R1()):
                self._key = key
            case _:
                raise ValueError("not a key on P-256")
        spki = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        self._fingerprint = hashlib.sha256(spki).digest()

    @property
    def key(self) -> ec.EllipticCurvePublicKey:
        """The key as `cryptography` has it."""
        return self._key

    @property
    def fingerprint(self) -> bytes:
        """SHA-256 of the SubjectPublicKeyInfo (RFC 5280, section 4.1.2.7), 32 bytes: the same for every certificate of a key."""
        return self._fingerprint

    def verify(self, signature: bytes, data: bytes) -> bool:
        """Whether the owner of the key signed `data` (ECDSA with SHA-256, signature in DER). Takes any bytes."""
        if len(signature) > MAX_SIGNATURE_BYTES:
            return False
        try:
            self._key.verify(signature, data, _VERIFYING)
        except InvalidSignature:
            return False
        return True

    def verify_text(self, signature: bytes, label: str, network: str, text: str) -> bool:
        """Whether the owner of the key signed `text`, as `Identity.sign_text` does it. Takes any text."""
        return text.isascii() and self.verify(signature, _labelled(label, network, text))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PublicKey) and other._fingerprint == self._fingerprint

    def __hash__(self) -> int:
        return hash(self._fingerprint)

    def __repr__(self) -> str:
        return f"<PublicKey {self._fingerprint.hex()[:16]}>"


class Identity:
    """A P-256 key pair."""

    __slots__ = ("_private", "_public")

    def __init__(self, private: ec.EllipticCurvePrivateKey) -> None:
        """Raises LocalError when the key is on another curve."""
        try:
            self._public = PublicKey(private.public_key())
        except ValueError as why:
            raise LocalError("not an identity", str(why)) from None
        self._private = private

    @classmethod
    def from_entropy(cls, entropy: bytes) -> Identity:
        """The key pair that follows from 48 random bytes. Raises LocalError for another length."""
        if len(entropy) != ENTROPY_BYTES:
            raise LocalError("no identity", f"{len(entropy)} random bytes came in, {ENTROPY_BYTES} are needed")
        return cls(ec.derive_private_key(1 + int.from_bytes(entropy, "big") % (_ORDER - 1), _CURVE))

    @classmethod
    def from_pem(cls, text: str) -> Identity:
        """The key pair that `pem` wrote. Raises LocalError, which never quotes the text."""
        problem = "it is not an unencrypted private key in PEM"
        try:
            private = serialization.load_pem_private_key(text.encode("ascii", "replace"), password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            private = None
        if isinstance(private, ec.EllipticCurvePrivateKey):
            problem = "it is not on the curve P-256"
            if isinstance(private.curve, ec.SECP256R1):
                return cls(private)
        raise LocalError("not an identity", problem, "use the key file that `holloway init` or `holloway join` wrote")

    @property
    def public(self) -> PublicKey:
        return self._public

    @property
    def private(self) -> ec.EllipticCurvePrivateKey:
        """The key as `cryptography` has it, for what makes certificates or speaks TLS."""
        return self._private

    def pem(self) -> str:
        """The private key in PEM (PKCS #8), not encrypted: for a file that nobody else can read."""
        return self._private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode("ascii")

    def sign(self, data: bytes) -> bytes:
        """ECDSA with SHA-256, in DER."""
        return self._private.sign(data, _SIGNING)

    def sign_text(self, label: str, network: str, text: str) -> bytes:
        """A signature over "holloway ", the label, the network and an ASCII text, with a zero byte between them.

        `label`: what the signature is for, in small letters. Raises LocalError for a label or a text that could be taken for
        something else.
        """
        if not _LABEL.match(label) or not text.isascii() or not network.isascii() or "\0" in network:
            raise LocalError("nothing was signed", "the label or the text is not plain ASCII")
        return self.sign(_labelled(label, network, text))

    def __repr__(self) -> str:
        return f"<Identity {self._public.fingerprint.hex()[:16]}>"


def _labelled(label: str, network: str, text: str) -> bytes:
    return f"holloway {label}\0{network}\0{text}".encode("ascii")
