"""What a new member announces to the others, because its certificate says that it may. Not responsible for the certificate."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from holloway.cli.printing import say

if TYPE_CHECKING:
    from holloway.protocols.membership import Prefix
    from holloway.protocols.network_settings import NetworkSettings


def announced(certified: Iterable[Prefix], settings: NetworkSettings) -> tuple[Prefix, ...]:
    """Of the prefixes of a certificate those that lie behind the node: floating addresses do not."""
    lasting = (each for each in certified if not settings.is_floating_prefix(each))
    return tuple(sorted(lasting, key=lambda each: (each.version, each.network_address.packed, each.prefixlen)))


def say_announced(prefixes: Sequence[Prefix]) -> None:
    """What the machine takes upon itself, and what makes it of use."""
    if prefixes:
        say(
            f"this node announces {', '.join(map(str, prefixes))} to the others, as [node] prefixes in its configuration"
        )
        say("where nobody there knows the way back:  holloway up --masquerade")
