"""`holloway certify`: let a node that is in the network announce more than it was invited for.

Not responsible for what a certificate is (`holloway.protocols.certificates`), nor for announcing.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from holloway.cli.authority_desk import open_desk, out_option
from holloway.cli.failures import CommandFailedError
from holloway.cli.option_types import PREFIX
from holloway.cli.printing import say
from holloway.cli.state_option import state_option

if TYPE_CHECKING:
    from holloway.protocols.membership import Prefix


@click.command()
@click.argument("node")
@click.option(
    "--prefix",
    "prefixes",
    type=PREFIX,
    metavar="CIDR",
    multiple=True,
    required=True,
    help="A network that may lie behind it, or a floating address that it may have; may be repeated.",
)
@out_option
@state_option
def command(node: str, prefixes: tuple[Prefix, ...], out: Path | None, state: Path | None) -> None:
    """Let a node of the network announce more networks.

    It gets another certificate, with these prefixes as well, as soon as it is up and reaches the registry. Runs where the authority's key is.
    """
    desk = open_desk(state, out)
    if isinstance(desk, str):
        why, fix = f"trust is {desk}: there are none", f"on {node}: [node] prefixes in its configuration"
        raise CommandFailedError(f"node {node} cannot be certified", why, fix)
    values = desk.authority.certify(node, prefixes, time.time_ns() // 10**9)
    desk.publish(values, f"node {node} has another certificate", "the same command once more")
    named = ", ".join(map(str, prefixes))
    say(f"node {node} may have {named}; it hears of that while it is up")
    say("what it is to announce, it says itself: [node] prefixes in its configuration, from its next start on")
