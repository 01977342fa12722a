"""The invitation into a network whose store is believed: where the store is, and what it takes to reach it.

    holloway-store1-BASE64URL        (`token_text`) of JSON {"network","registry","files"} and, if chosen, {"name","address"}

It proves nothing and does not end: whoever can write to the store is in the network. With what it carries along for the
registry, a password or a key, it is that password. Not responsible for reaching the store, nor for what is read there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from holloway.protocols.errors import LocalError
from holloway.protocols.hostile_json import compact, read_object, text
from holloway.protocols.invitations import FILES, MAX_FILE_CHARS, MAX_URL_CHARS, read_ipv4
from holloway.protocols.membership import NAME
from holloway.protocols.token_text import AGAIN, MAX_TOKEN_CHARS, is_token, unwrap_token, wrap_token

WORD = "holloway-store"
VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreToken:
    """What such a token holds. `registry`: URL; `files`: by the names in `FILES`, the text of each; `name` and `address`: those
    that the machine is to have, where whoever invited it has chosen."""

    network: str
    registry: str
    files: Mapping[str, str] = field(default_factory=dict, repr=False)
    name: str | None = None
    address: IPv4Address | None = None


def is_store_token(token: str) -> bool:
    """Whether it looks like one, whatever it holds."""
    return is_token(WORD, token)


def encode_store_token(token: StoreToken) -> str:
    """The text to hand over: one word. Raises LocalError for anything that the invited machine could not read."""
    fields: dict[str, object] = {"network": token.network, "registry": token.registry, "files": dict(token.files)}
    if token.name is not None:
        fields["name"] = token.name
    if token.address is not None:
        fields["address"] = str(token.address)
    made = wrap_token(WORD, VERSION, compact(fields).encode())
    if parse_store_token(made) != token:
        raise LocalError("no invitation was made", "a field does not survive the way")
    return made


def parse_store_token(token: str) -> StoreToken:
    """What is in a token. Raises LocalError, which says what is wrong and never quotes the token."""
    body = unwrap_token(WORD, VERSION, token)
    try:
        fields = read_object(body, MAX_TOKEN_CHARS)
        files = fields.get("files")
        if not isinstance(files, dict) or not files.keys() <= set(FILES):
            raise ValueError(f"files: not among {', '.join(FILES)}")
        names = {key: text(fields, key, 63) for key in ("network", "name") if key in fields}
        if "network" not in names or not all(NAME.match(each) for each in names.values()):
            raise ValueError("it has no name of a network, or one that cannot be the name of a network or of a node")
        return StoreToken(
            network=names["network"],
            registry=text(fields, "registry", MAX_URL_CHARS),
            files={name: text(files, name, MAX_FILE_CHARS) for name in files},
            name=names.get("name"),
            address=read_ipv4(fields["address"]) if "address" in fields else None,
        )
    except ValueError as why:
        raise LocalError("the invitation cannot be used", str(why), AGAIN) from None
