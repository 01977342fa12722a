"""`holloway authority`: who certifies the nodes of this network, and how another key follows.

Not responsible for the keys (`holloway.actors.authority_files`).
"""

from __future__ import annotations

import os
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from holloway.cli.failures import CommandFailedError
from holloway.cli.groups import SuggestingGroup
from holloway.cli.printing import json_option, print_json, say
from holloway.cli.publishing import PUBLISH_S, member_config, publish
from holloway.cli.state_option import state_directory, state_option

if TYPE_CHECKING:
    from holloway.actors.authority_files import AuthorityFiles, Standing

SCHEMA = "holloway.authority-list/1"


@click.group(cls=SuggestingGroup)
def command() -> None:
    """Show the network's authority, or let another one follow it."""


@command.command("list")
@state_option
@json_option
def list_(state: Path | None, as_json: bool) -> None:
    """Show who is trusted to certify nodes, and whose certificates are whose.

    Runs where the authority's key is. The last one issues.
    """
    authority, _, _ = _authority(state)
    standing = authority.standing()
    now = time.time_ns() // 10**9
    rows = [
        {
            "fingerprint": each.key.fingerprint.hex(),
            "issues": each is standing.bundle.authorities[-1],
            "expires_in_s": each.not_after - now,
            "nodes": sorted(name for name, by in standing.nodes.items() if by == each.key.fingerprint),
        }
        for each in standing.bundle.authorities
    ]
    if as_json:
        print_json({"schema": SCHEMA, "number": standing.bundle.number, "authorities": rows})
        return
    for row, each in zip(rows, standing.bundle.authorities, strict=True):
        days = (each.not_after - now) // 86_400
        does = "issues" if row["issues"] else "is followed"
        print(f"{each.key.fingerprint.hex()}  {does}  {days} days left  nodes: {_words(row['nodes'])}")


@command.command()
@click.option("--finish", is_flag=True, help="Trust the new one alone, now that every node has its certificate.")
@click.option("--leave-behind", is_flag=True, help="Finish although nodes are left; they are not believed any more.")
@state_option
def rollover(finish: bool, leave_behind: bool, state: Path | None) -> None:
    """Let another authority follow this one, without a break.

    A new key is made here. From then on it issues, and nodes trust both: each of them that is up has a certificate of the new one within half a
    minute. Once all have, --finish ends the trust in the old key. Runs where the authority's key is, and wants that node up.
    """
    if leave_behind and not finish:
        raise click.UsageError("--leave-behind goes with --finish", click.get_current_context(silent=True))
    authority, url, own = _authority(state)
    now = time.time_ns() // 10**9
    where = "" if state is None else f" --state {shlex.quote(str(state))}"
    if not finish:
        values = authority.begin_rollover(now)
        publish(url, values, "another authority follows this one")
        say(
            "another authority follows this one, and both are trusted; nodes that are up have new certificates in half a minute"
        )
        say(f"who has not:   holloway authority list{where}")
        say(f"then:          holloway authority rollover --finish{where}")
        return
    standing = authority.standing()
    if len(standing.bundle.authorities) > 1:
        waiting = _waiting(standing, authority.network, url, now)
        if waiting and (own in waiting or not leave_behind):
            fix = "start them and wait half a minute, or `holloway release` those that are gone; or --leave-behind"
            raise CommandFailedError(
                "it is too early to trust the new authority alone",
                f"these have no certificate of it, and would not be believed any more: {_words(waiting)}",
                f"start this node, {own}, which has to come along, and wait half a minute" if own in waiting else fix,
            )
    values = authority.finish_rollover(now)
    publish(url, values, "the new authority is trusted alone")
    say("the new authority is trusted alone; keep a new copy of its key (authority.key, authority.pem)")
    if standing.waiting:
        say(f"left behind, to be released and invited anew: {_words(standing.waiting)}")


def _authority(state: Path | None) -> tuple[AuthorityFiles, str, str]:
    """The authority in a state directory, the URL of the registry, and the name of the node there."""
    from holloway.actors.authority_files import AuthorityFiles

    config, registry = member_config(state)
    if registry.trust != "authority":
        raise CommandFailedError(
            "this network has no authority",
            f"its trust is {registry.trust}",
            "holloway init NETWORK makes one that has",
        )
    entropy = os.urandom  # noqa: TID251 - a verb is where randomness comes in
    return AuthorityFiles(state_directory(state), config.node.network, entropy), registry.url, config.node.name


def _waiting(standing: Standing, network: str, url: str, now: int) -> list[str]:
    """Nodes that have no certificate of the new authority, or have not told the others of it."""
    import trio

    records = trio.run(_records, network, url)
    return sorted({*standing.waiting, *standing.still_old(records, now)})


async def _records(network: str, url: str) -> dict[str, bytes]:
    import trio

    from holloway.actors.registry import open_registry
    from holloway.protocols.membership import nodes_prefix

    prefix = nodes_prefix(network)
    with trio.move_on_after(PUBLISH_S):
        async with open_registry(url, wall_ns=time.time_ns) as registry:
            entries = (await registry.snapshot(prefix)).entries
        return {key.removeprefix(prefix).decode("ascii", "replace"): entry.value for key, entry in entries.items()}
    raise CommandFailedError(
        "nobody knows who would be left behind",
        f"the registry did not answer within {PUBLISH_S:g} s",
        "try again later",
    )


def _words(names: object) -> str:
    from holloway.cli.plain_text import one_line

    return one_line(", ".join(names)) if isinstance(names, list) and names else "none"
