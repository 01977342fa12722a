"""What a verb has decided, told to the registry. The decision counts whether that works or not.

Not responsible for deciding, nor for what stands in the registry afterwards.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from holloway.cli.failures import CommandFailedError
from holloway.cli.state_option import node_config

if TYPE_CHECKING:
    from holloway.actors.config import Config
    from holloway.actors.config.model import RegistryConfig

PUBLISH_S = 10.0


def member_config(state: Path | None) -> tuple[Config, RegistryConfig]:
    """The configuration of the node in a state directory, and its registry. Raises `CommandFailedError` where it has none."""
    config = node_config(state)
    if config.registry is None:
        raise CommandFailedError(
            "this node has no registry", "it knows its peers from files", "change the files, and start the nodes again"
        )
    return config, config.registry


LATER = "nothing: this node tells the others as soon as it is up and reaches the registry"


def publish(url: str, values: Mapping[bytes, bytes], done: str, fix: str = LATER) -> None:
    """Put the values, by registry key. `done`: what has happened, for when nobody could be told, and `fix`, what then helps.

    Raises `CommandFailedError` then: the node that works for the authority tells them later, unless `fix` says otherwise.
    """
    import trio

    trio.run(_publish, url, values, done, fix)


async def _publish(url: str, values: Mapping[bytes, bytes], done: str, fix: str) -> None:
    import trio

    from holloway.actors.registry import open_registry
    from holloway.protocols.errors import RegistryError

    why = f"the registry did not answer within {PUBLISH_S:g} s"
    with trio.move_on_after(PUBLISH_S):
        try:
            async with open_registry(url, wall_ns=time.time_ns) as registry:
                for key, value in values.items():
                    await registry.put(key, value)
        except RegistryError as error:
            why = str(error)
        else:
            return
    raise CommandFailedError(
        f"{done}, and nobody has heard of it yet",
        why,
        fix,
    )
