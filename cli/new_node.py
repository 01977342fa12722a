"""What `init` was asked for, and what it says when that is made. Not responsible for making it."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from holloway.cli.printing import print_json, say

if TYPE_CHECKING:
    from holloway.actors.state_directory import StateDirectory

SCHEMA = "holloway.init/1"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What was asked for. `registry`: URL, None for none. `where`: the words that name the state directory to other verbs."""

    network: str
    name: str
    address: IPv4Address | None
    registry: str | None
    folder: StateDirectory
    where: str
    as_json: bool


def document(wanted: Wanted, addresses: list[str]) -> dict[str, object]:
    """The object that `init --json` prints, but for what the next machine needs."""
    return {
        "schema": SCHEMA,
        "network": wanted.network,
        "node": wanted.name,
        "addresses": addresses,
        "state": str(wanted.folder.path),
        "invitation": None,
        "peer": None,
    }


def report(wanted: Wanted, addresses: list[str], token: str, words: str) -> None:
    """Print what was made, and the token for the next machine. `words`: for how long that is good."""
    if wanted.as_json:
        print_json(document(wanted, addresses) | {"invitation": token})
        return
    say(f"network {wanted.network}: node {wanted.name} has {', '.join(addresses)}")
    say(f"start it:                holloway up{wanted.where}")
    say(f"on the next machine:     holloway join TOKEN        ({words})")
    print(token)
