"""`holloway revoke`: take a node out of the network, for good.

Not responsible for who believes it: every node that hears of it cuts its sessions with that one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

import click

from holloway.cli.failures import CommandFailedError
from holloway.cli.printing import say
from holloway.cli.state_option import config_file, state_directory, state_option

PUBLISH_S = 10.0


@click.command()
@click.argument("node")
@state_option
def command(node: str, state: Path | None) -> None:
    """Take a node out of the network.

    Its certificate counts no more, and its key is never let in again. Runs where the authority's key is. Every node cuts its sessions with NODE as soon as it hears of it.
    """
    import trio

    from holloway.actors.authority_files import AuthorityFiles
    from holloway.actors.config import load_config

    config = load_config(config_file(state), environ=os.environ)
    assert config.registry is not None, "a member's configuration has a registry"
    if node == config.node.name:
        what, why = f"node {node} cannot be revoked from here", "it is this node, whose authority that is"
        raise CommandFailedError(what, why, "to end the network, stop its nodes and remove their state")
    entropy = os.urandom  # noqa: TID251 - a verb is where randomness comes in
    authority = AuthorityFiles(state_directory(state), config.node.network, entropy)
    publish = authority.revoke(node, time.time_ns() // 10**9)
    trio.run(_publish, config.registry.url, publish)
    say(f"node {node} is revoked")


async def _publish(url: str, values: Mapping[bytes, bytes]) -> None:
    import trio

    from holloway.actors.registry import open_registry
    from holloway.protocols.errors import RegistryError

    why = f"the registry did not answer within {PUBLISH_S:g} s"
    with trio.move_on_after(PUBLISH_S) as patience:
        try:
            async with open_registry(url, wall_ns=time.time_ns) as registry:
                for key, value in values.items():
                    await registry.put(key, value)
        except RegistryError as error:
            why = str(error)
        else:
            return
    assert why or patience.cancelled_caught
    raise CommandFailedError(
        "the node is revoked, and nobody has heard of it yet",
        why,
        "nothing: this node tells the others as soon as it is up and reaches the registry",
    )
