"""Invitations: the text that lets one machine into a network, and says whom that machine may believe.

    holloway1-BASE64URL        (`token_text`) of JSON

The JSON holds the *terms* (which network, until when, and what the machine may call itself), what it takes to reach the
registry, the fingerprint of the authority, and a *secret* that follows from the terms and from a key that the authority alone
has:

    secret = HMAC-SHA256(invitation key, "holloway invitation" 0x00 terms)

So an authority keeps no list of the invitations it made: who shows the terms and proves to know the secret was invited on these
terms. Whoever reads the text can join in the place of the invited machine, once, and only until then; it is to be treated like
a password. What goes through the store shows the terms, never the secret.

Not responsible for what is done with the secret (`enrolment`), nor for single use (`ledger`).
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from holloway.protocols.certificates import CLOCK_SKEW_S
from holloway.protocols.errors import LocalError
from holloway.protocols.hostile_json import (
    Fields,
    base64_text,
    compact,
    hexadecimal,
    integer,
    listed,
    octets,
    read_object,
    text,
)
from holloway.protocols.identity import FINGERPRINT_BYTES
from holloway.protocols.issuing import MAX_TIME
from holloway.protocols.membership import NAME, Prefix, read_host_address, read_prefix
from holloway.protocols.token_text import AGAIN, MAX_TOKEN_CHARS, unwrap_token, wrap_token

WORD = "holloway"
TOKEN_VERSION = 1
ID_BYTES = 16
SECRET_BYTES = 32
INVITATION_KEY_BYTES = 32
MAX_TERMS_CHARS = 8 * 1024
MAX_FILE_CHARS = 8 * 1024
MAX_URL_CHARS = 2048
MAX_TERMS_ADDRESSES = 8
MAX_TERMS_PREFIXES = 32
"""As many as fit in a certificate with the longest names."""
FILES = ("ca", "cert", "key", "password")
"""What may be carried along for the registry: certificates and keys in PEM, or a password."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """On what terms a machine is invited.

    `id`: 16 random bytes. `expires`: seconds since 1970. `name` and `addresses`: those the machine gets, and no others; where
    they are left out it may wish. `prefixes`: networks that may lie behind it; it cannot wish for any.
    """

    network: str
    id: bytes
    expires: int
    name: str | None = None
    addresses: tuple[IPv4Address, ...] = ()
    prefixes: tuple[Prefix, ...] = ()

    def text(self) -> str:
        """The terms as JSON: always the same text for the same terms."""
        fields: dict[str, object] = {"network": self.network, "id": self.id.hex(), "expires": self.expires}
        if self.name is not None:
            fields["name"] = self.name
        fields["addresses"] = [str(address) for address in self.addresses]
        fields["prefixes"] = [str(prefix) for prefix in self.prefixes]
        return compact(fields)


def read_terms(terms: str) -> Terms:
    """The terms in a text. Raises ValueError for any other text, an unusual spelling of the same terms included."""
    fields = read_object(terms, MAX_TERMS_CHARS)
    found = Terms(
        network=_name(fields, "network"),
        id=hexadecimal(fields, "id", ID_BYTES),
        expires=integer(fields, "expires", 0, MAX_TIME),
        name=_name(fields, "name") if "name" in fields else None,
        addresses=listed(fields, "addresses", MAX_TERMS_ADDRESSES, read_ipv4),
        prefixes=listed(fields, "prefixes", MAX_TERMS_PREFIXES, read_prefix),
    )
    if found.text() != terms:
        raise ValueError("not the usual text of the terms")
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Invitation:
    """What a token holds. `registry`: URL. `files`: by the names in `FILES`, the text of each. `authority`: fingerprint."""

    terms: Terms
    registry: str
    authority: bytes
    secret: bytes = field(repr=False)
    files: Mapping[str, str] = field(default_factory=dict, repr=False)


def invite(
    terms: Terms,
    invitation_key: bytes,
    *,
    registry: str,
    authority: bytes,
    files: Mapping[str, str] | None = None,
) -> Invitation:
    """An invitation on these terms, by whoever has the invitation key (32 bytes) of the authority with this fingerprint.

    Raises LocalError for anything that the invited machine could not read.
    """
    secret = invitation_secret(invitation_key, terms.text())
    invitation = Invitation(terms=terms, registry=registry, authority=authority, secret=secret, files=dict(files or {}))
    if parse_token(encode_token(invitation), 0) != invitation:
        raise LocalError("no invitation was made", "a field does not survive the way")
    return invitation


def invitation_secret(invitation_key: bytes, terms: str) -> bytes:
    """The secret that belongs to terms, 32 bytes. Raises LocalError unless the key has 32 bytes."""
    if len(invitation_key) != INVITATION_KEY_BYTES:
        raise LocalError(
            "no invitation", f"the invitation key has {len(invitation_key)} bytes of {INVITATION_KEY_BYTES}"
        )
    return mac(invitation_key, "invitation", terms)


def mac(secret: bytes, label: str, text: str) -> bytes:
    """HMAC-SHA256 over "holloway ", a label, a zero byte and an ASCII text."""
    return hmac.digest(secret, f"holloway {label}\0{text}".encode("ascii"), "sha256")


def has_mac(secret: bytes, label: str, text: str, tag: bytes) -> bool:
    """Whether `tag` is the mac of the text, in a time that does not tell by how much it is not."""
    return hmac.compare_digest(mac(secret, label, text), tag)


def encode_token(invitation: Invitation) -> str:
    """The text to hand over: one word."""
    body = compact(
        {
            "terms": invitation.terms.text(),
            "registry": invitation.registry,
            "authority": invitation.authority.hex(),
            "secret": base64_text(invitation.secret),
            "files": dict(invitation.files),
        }
    ).encode()
    return wrap_token(WORD, TOKEN_VERSION, body)


def parse_token(token: str, now: int) -> Invitation:
    """The invitation in a token, however it was wrapped into lines. `now`: seconds since 1970.

    Raises LocalError, which says what is wrong and never quotes the token.
    """
    body = unwrap_token(WORD, TOKEN_VERSION, token)
    try:
        invitation = _read(body)
    except ValueError as why:
        raise LocalError("the invitation cannot be used", str(why), AGAIN) from None
    if now > invitation.terms.expires + CLOCK_SKEW_S:
        raise LocalError(
            "the invitation has expired",
            f"that was {now - invitation.terms.expires} s ago by the clock of this machine",
            "set the clock if it is wrong, or ask for a new one: `holloway invite`",
        )
    return invitation


def _read(body: bytes) -> Invitation:
    fields = read_object(body, MAX_TOKEN_CHARS)
    files = fields.get("files")
    if not isinstance(files, dict) or not files.keys() <= set(FILES):
        raise ValueError(f"files: not among {', '.join(FILES)}")
    secret = octets(fields, "secret", SECRET_BYTES)
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"secret: not {SECRET_BYTES} bytes")
    return Invitation(
        terms=read_terms(text(fields, "terms", MAX_TERMS_CHARS)),
        registry=text(fields, "registry", MAX_URL_CHARS),
        authority=hexadecimal(fields, "authority", FINGERPRINT_BYTES),
        secret=secret,
        files={name: text(files, name, MAX_FILE_CHARS) for name in files},
    )


def _name(fields: Fields, key: str) -> str:
    name = text(fields, key, 63)
    if not NAME.match(name):
        raise ValueError(f"{key}: {name!r} can be the name of no network and of no node")
    return name


def read_ipv4(item: object) -> IPv4Address:
    """An IPv4 address that a host may have, by its text. Raises ValueError."""
    address = read_host_address(item)
    match address:
        case IPv4Address():
            return address
        case _:
            raise ValueError("an IPv6 address follows from the IPv4 address, and is not chosen")
