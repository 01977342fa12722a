"""`holloway revoke`: take a node out of the network, for good.

Not responsible for who believes it: every node that hears of it cuts its sessions with that one.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import click

from holloway.cli.failures import CommandFailedError
from holloway.cli.printing import say
from holloway.cli.publishing import member_config, publish
from holloway.cli.state_option import state_directory, state_option


@click.command()
@click.argument("node")
@state_option
def command(node: str, state: Path | None) -> None:
    """Take a node out of the network.

    Its certificate counts no more, and its key is never let in again. Runs where the authority's key is. Every node cuts its sessions with NODE as soon as it hears of it.
    """
    from holloway.actors.authority_files import AuthorityFiles

    config, registry = member_config(state)
    if registry.trust != "authority":
        why, fix = (
            f"trust is {registry.trust}: there is no authority that could take anything back",
            "holloway release NODE",
        )
        raise CommandFailedError(f"node {node} cannot be revoked", why, fix)
    if node == config.node.name:
        what, why = f"node {node} cannot be revoked from here", "it is this node, whose authority that is"
        raise CommandFailedError(what, why, "to end the network, stop its nodes and remove their state")
    entropy = os.urandom  # noqa: TID251 - a verb is where randomness comes in
    authority = AuthorityFiles(state_directory(state), config.node.network, entropy)
    publish(registry.url, authority.revoke(node, time.time_ns() // 10**9), f"node {node} is revoked")
    say(f"node {node} is revoked")
