"""`holloway revoke`: take a node out of the network, for good.

Not responsible for who believes it: every node that hears of it cuts its sessions with that one.
"""

from __future__ import annotations

import time
from pathlib import Path

import click

from holloway.cli.authority_desk import open_desk, out_option
from holloway.cli.failures import CommandFailedError
from holloway.cli.printing import say
from holloway.cli.state_option import state_option


@click.command()
@click.argument("node")
@out_option
@state_option
def command(node: str, out: Path | None, state: Path | None) -> None:
    """Take a node out of the network.

    Its certificate counts no more, and its key is never let in again. Runs where the authority's key is. Every node cuts its sessions with NODE as soon as it hears of it.
    """
    desk = open_desk(state, out)
    if isinstance(desk, str):
        why = f"trust is {desk}: there is no authority that could take anything back"
        raise CommandFailedError(f"node {node} cannot be revoked", why, "holloway release NODE")
    if node == desk.own:
        what, why = f"node {node} cannot be revoked from here", "it is this node, whose authority that is"
        raise CommandFailedError(what, why, "to end the network, stop its nodes and remove their state")
    desk.publish(desk.authority.revoke(node, time.time_ns() // 10**9), f"node {node} is revoked")
    say(f"node {node} is revoked")
