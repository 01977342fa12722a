"""Preshared keys: from the passphrase of a network to one key for each pair of nodes.

Not responsible for where the passphrase is kept, nor for using the keys; the handshake mixes a pair's key in as its
preshared key.
"""

from __future__ import annotations

import hashlib

from holloway.protocols.errors import LocalError
from holloway.protocols.keys import KEY_BYTES

# OWASP's Password Storage Cheat Sheet asks 210 000 of PBKDF2-HMAC-SHA512 and 600 000 of PBKDF2-HMAC-SHA256. One
# passphrase guards a whole network for years and this runs once at start, so it pays the larger.
NETWORK_KEY_ITERATIONS = 600_000


def network_key(passphrase: bytes, network: str) -> bytes:
    """The 32-byte key of a network: PBKDF2-HMAC-SHA512 of its passphrase, salted with its name (RFC 8018, section 5.2).

    Takes some tenths of a second by design: once at start, and not on an event loop.
    Raises LocalError when the passphrase or the name is empty, or the name is not encodable as UTF-8.
    """
    if not passphrase:
        raise LocalError(
            "no network key", "the passphrase is empty", "give the network a passphrase of six random words or more"
        )
    salt = network.encode("utf-8", "replace")
    if not salt or salt.decode("utf-8") != network:
        raise LocalError("no network key", "the network's name, which is the salt, is empty or not text")
    return hashlib.pbkdf2_hmac("sha512", passphrase, salt, NETWORK_KEY_ITERATIONS, KEY_BYTES)


def pair_key(network_key: bytes, public_a: bytes, public_b: bytes) -> bytes:
    """The 32-byte preshared key of two nodes: BLAKE2s keyed with the network's key over their sorted public keys.

    Both sides get the same whichever order they name themselves in. Raises LocalError when an argument is not 32 bytes.
    """
    for key in (network_key, public_a, public_b):
        if len(key) != KEY_BYTES:
            raise LocalError("no pair key", f"a key has {len(key)} bytes, {KEY_BYTES} are needed")
    first, second = sorted((public_a, public_b))
    return hashlib.blake2s(first + second, key=network_key, digest_size=KEY_BYTES).digest()
