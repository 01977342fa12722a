"""The ledger as JSON text, and back.

Reading is strict: a file that has a field too many or too few, names one thing twice or contradicts itself is not used at all,
because an authority that forgets a line of its account gives the same name to two machines.

Not responsible for what the account means (`ledger`), nor for the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address

from holloway.protocols.certificates import MAX_CERTIFICATE_BYTES, kept_node
from holloway.protocols.errors import LocalError
from holloway.protocols.hostile_json import (
    MAX_INTEGER,
    base64_text,
    compact,
    hexadecimal,
    integer,
    listed,
    object_of,
    octets,
    read_object,
    text,
)
from holloway.protocols.identity import FINGERPRINT_BYTES
from holloway.protocols.invitations import ID_BYTES, read_ipv4
from holloway.protocols.issuing import MAX_TIME
from holloway.protocols.ledger import (
    MAX_EARLIER,
    MAX_HOLDINGS,
    MAX_USED,
    Ended,
    EndReason,
    Holding,
    Ledger,
    Resting,
    Used,
)
from holloway.protocols.membership import NAME
from holloway.protocols.network_settings import MAX_REST_S
from holloway.protocols.revocation import MAX_REVOKED, Revoked

LEDGER_VERSION = 1
MAX_RESTING = 1 << 24
"""As many addresses as the largest network has."""
MAX_LEDGER_CHARS = 64 * 1024 * 1024
_FIX = "put back the newest copy, and revoke whoever joined since it was made"


def write_ledger(ledger: Ledger) -> str:
    """The ledger as JSON text: what `read_ledger` reads."""
    resting = [
        {"address": str(address), "key": each.key.hex(), "until": each.until} for address, each in ledger.resting
    ]
    return compact(
        {
            "v": LEDGER_VERSION,
            "network": ledger.network,
            "list_number": ledger.list_number,
            "is_list_due": ledger.is_list_due,
            "holdings": [
                {
                    "certificate": base64_text(each.certificate.der),
                    "authority": each.certificate.authority.hex(),
                    "invitation": each.invitation.hex(),
                    "earlier": [_revoked(earlier) for earlier in each.earlier],
                }
                for each in ledger.holdings
            ],
            "ended": [
                _revoked(each.revoked)
                | {
                    "name": each.name,
                    "key": each.key.hex(),
                    "authority": each.authority.hex(),
                    "reason": each.reason.value,
                }
                for each in ledger.ended
            ],
            "used": [
                {"invitation": id_.hex(), "key": each.key.hex(), "expires": each.expires} for id_, each in ledger.used
            ],
        }
        | ({"resting": resting} if resting else {})
    )


def read_ledger(kept: str) -> Ledger:
    """The ledger in a text that `write_ledger` made. Raises LocalError for anything else."""
    try:
        fields = read_object(kept, MAX_LEDGER_CHARS)
        if integer(fields, "v", 0, MAX_INTEGER) != LEDGER_VERSION:
            raise ValueError("it is of another version")
        ledger = Ledger(text(fields, "network", 63))
        ledger.restore(
            listed(fields, "holdings", MAX_HOLDINGS, lambda item: _holding(item, ledger.network)),
            listed(fields, "ended", MAX_REVOKED, _ended),
            listed(fields, "used", MAX_USED, _used),
            listed(fields, "resting", MAX_RESTING, _resting) if "resting" in fields else (),
        )
        ledger.list_number = integer(fields, "list_number", 0, MAX_INTEGER)
        ledger.is_list_due = fields.get("is_list_due") is True
    except ValueError as why:
        raise LocalError("the authority's ledger cannot be used", str(why), _FIX) from None
    if write_ledger(ledger) != kept.strip():
        raise LocalError("the authority's ledger cannot be used", "it says something that is not understood", _FIX)
    return ledger


def _holding(item: object, network: str) -> Holding:
    fields = object_of(item)
    authority = hexadecimal(fields, "authority", FINGERPRINT_BYTES)
    return Holding(
        kept_node(octets(fields, "certificate", MAX_CERTIFICATE_BYTES), network, authority),
        hexadecimal(fields, "invitation", ID_BYTES),
        listed(fields, "earlier", MAX_EARLIER, lambda each: _read_revoked(object_of(each))),
    )


def _ended(item: object) -> Ended:
    fields = object_of(item)
    name = text(fields, "name", 63)
    if not NAME.match(name):
        raise ValueError("ended: not the name of a node")
    return Ended(
        _read_revoked(fields),
        name,
        hexadecimal(fields, "key", FINGERPRINT_BYTES),
        hexadecimal(fields, "authority", FINGERPRINT_BYTES),
        EndReason(text(fields, "reason", 16)),
    )


def _used(item: object) -> tuple[bytes, Used]:
    fields = object_of(item)
    used = Used(hexadecimal(fields, "key", FINGERPRINT_BYTES), integer(fields, "expires", 0, MAX_TIME))
    return hexadecimal(fields, "invitation", ID_BYTES), used


def _resting(item: object) -> tuple[IPv4Address, Resting]:
    fields = object_of(item)
    resting = Resting(hexadecimal(fields, "key", FINGERPRINT_BYTES), integer(fields, "until", 0, MAX_TIME + MAX_REST_S))
    return read_ipv4(fields.get("address")), resting


def _revoked(each: Revoked) -> dict[str, object]:
    return {"serial": f"{each.serial:x}", "at": each.at, "expires": each.expires}


def _read_revoked(fields: Mapping[str, object]) -> Revoked:
    serial = int(text(fields, "serial", 40), 16)
    return Revoked(serial, integer(fields, "at", 0, MAX_TIME), integer(fields, "expires", 0, MAX_TIME))
