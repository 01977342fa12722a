"""Whose keys are that two nodes have named, on the broker's disk: so that a restart gives nobody what is another's.

A record of each such key: `owner/` and the key in hexadecimal, with the name of the node. Not responsible for whose it is (`network_view`).
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping

from holloway.protocols.control_plane.effects import Forget, Keep
from holloway.protocols.control_plane.fields import NAME
from holloway.protocols.z85 import KEY_BYTES, decode_z85, encode_z85

_PREFIX = "owner/"


def take_owners(records: MutableMapping[str, bytes]) -> tuple[dict[str, str], int]:
    """The owners among the records, by key in Z85, which are taken out; and how many were damaged."""
    owners: dict[str, str] = {}
    bad = 0
    for key in [each for each in records if each.startswith(_PREFIX)]:
        name = records.pop(key).decode("ascii", "replace")
        try:
            public = bytes.fromhex(key.removeprefix(_PREFIX))
        except ValueError:
            public = b""
        if len(public) == KEY_BYTES and NAME.match(name):
            owners[encode_z85(public)] = name
        else:
            bad += 1
    return owners, bad


def owner_changes(before: Mapping[str, str], after: Mapping[str, str]) -> list[Keep | Forget]:
    """What is to be kept and forgotten when the owners change. Keys that are none raise LocalError."""
    changes: list[Keep | Forget] = [Forget(_record(key)) for key in before if key not in after]
    return changes + [
        Keep(_record(key), name.encode("ascii")) for key, name in after.items() if before.get(key) != name
    ]


def _record(key: str) -> str:
    return _PREFIX + decode_z85(key).hex()
