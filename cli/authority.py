"""`holloway authority`: who certifies the nodes of this network, and how another key follows.

Not responsible for the keys (`holloway.actors.authority_files`).
"""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from holloway.cli.authority_desk import open_desk, out_option
from holloway.cli.failures import CommandFailedError
from holloway.cli.groups import SuggestingGroup
from holloway.cli.paper import read_paper_answers, read_paper_requests
from holloway.cli.printing import json_option, print_json, say
from holloway.cli.publishing import PUBLISH_S, member_config
from holloway.cli.state_option import state_directory, state_option

if TYPE_CHECKING:
    from holloway.actors.authority_files import Standing
    from holloway.cli.authority_desk import Desk
    from holloway.cli.paper import PaperRequests

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
    standing = _desk(state, None, decides=False).authority.standing()
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
@click.option(
    "--requests",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="With --finish and --out: what `authority collect` printed, which says who has come along.",
)
@out_option
@state_option
def rollover(finish: bool, leave_behind: bool, requests: Path | None, out: Path | None, state: Path | None) -> None:
    """Let another authority follow this one, without a break.

    A new key is made here. From then on it issues, and nodes trust both: each of them that is up has a certificate of the new one within half a
    minute. Once all have, --finish ends the trust in the old key. Runs where the authority's key is, and wants that node up.

    An authority that is kept offline writes a file for its network instead: --out FILE. Nodes then ask for certificates of the new one, which `authority collect`,
    `sign` and `authority publish` bring them.
    """
    if (leave_behind or requests is not None) and not finish:
        what = "--leave-behind" if leave_behind else "--requests"
        raise click.UsageError(f"{what} goes with --finish", click.get_current_context(silent=True))
    desk = _desk(state, out)
    now = time.time_ns() // 10**9
    where = "" if state is None else f" --state {shlex.quote(str(state))}"
    if not finish:
        desk.publish(desk.authority.begin_rollover(now), "another authority follows this one")
        say(
            "another authority follows this one, and both are trusted; nodes that are up have new certificates in half a minute"
            if out is None
            else "another authority follows this one; nodes that have heard of it ask for new certificates"
        )
        say(f"who has not:   holloway authority list{where}")
        say(
            f"then:          holloway authority rollover --finish{where}{'' if out is None else ' --requests FILE --out FILE'}"
        )
        return
    standing = desk.authority.standing()
    if len(standing.bundle.authorities) > 1:
        waiting = _waiting(standing, desk, requests, now, leave_behind=leave_behind)
        if waiting and (desk.own in waiting or not leave_behind):
            fix = "start them and wait half a minute, or `holloway release` those that are gone; or --leave-behind"
            raise CommandFailedError(
                "it is too early to trust the new authority alone",
                f"these have no certificate of it, and would not be believed any more: {_words(waiting)}",
                f"start this node, {desk.own}, which has to come along, and wait half a minute"
                if desk.own in waiting
                else fix,
            )
    desk.publish(desk.authority.finish_rollover(now), "the new authority is trusted alone")
    say("the new authority is trusted alone; keep a new copy of its key (authority.key, authority.pem)")
    if standing.waiting:
        say(f"left behind, to be released and invited anew: {_words(standing.waiting)}")


@command.command()
@state_option
def collect(state: Path | None) -> None:
    """Print what an authority that is kept offline is asked for.

    On any node: requests for certificates as they stand in the registry, for `holloway sign`, and who says what of himself.
    """
    url, network = _registry(state)
    from holloway.cli.carrying import collected

    requests = collected(url, network)
    print(requests.text())
    say(f"{_count(requests)}; for the authority:  holloway sign FILE > answers")


@command.command("publish")
@click.argument("answers", type=click.Path(path_type=Path))
@state_option
def publish_(answers: Path, state: Path | None) -> None:
    """Let the network hear what an authority that is kept offline has said.

    On any node. ANSWERS is what `holloway sign` printed, or what another verb wrote with --out. Nothing is published that this node would not believe.
    """
    paper = read_paper_answers(answers)
    url, network = _registry(state)
    from holloway.cli.carrying import publish_answers

    count = publish_answers(url, paper, network, state_directory(state))
    say(f"the network hears of {count} things that its authority has said")


def _registry(state: Path | None) -> tuple[str, str]:
    """The URL of the registry of the node there, and its network."""
    config, registry = member_config(state)
    if registry.trust != "authority":
        raise _no_authority(registry.trust)
    return registry.url, config.node.network


def _desk(state: Path | None, out: Path | None, *, decides: bool = True) -> Desk:
    desk = open_desk(state, out, decides=decides)
    if isinstance(desk, str):
        raise _no_authority(desk)
    return desk


def _no_authority(trust: str) -> CommandFailedError:
    return CommandFailedError(
        "this network has no authority", f"its trust is {trust}", "holloway init NETWORK makes one that has"
    )


def _waiting(standing: Standing, desk: Desk, requests: Path | None, now: int, *, leave_behind: bool) -> list[str]:
    """Nodes that have no certificate of the new authority, or have not told the others of it."""
    import trio

    from holloway.protocols.membership import nodes_prefix

    network, records = desk.authority.network, dict[str, bytes]()
    if requests is not None:
        prefix = nodes_prefix(network)
        entries = read_paper_requests(requests).entries
        records = {key[len(prefix) :].decode("ascii"): entries[key] for key in entries if key.startswith(prefix)}
    elif desk.url is not None:
        records = trio.run(_records, network, desk.url)
    elif not leave_behind:
        raise CommandFailedError(
            "nobody knows who would be left behind",
            "this authority is kept offline",
            "on a node: holloway authority collect > FILE; then here, with --requests FILE",
        )
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


def _count(requests: PaperRequests) -> str:
    from holloway.actors.authority_files import asked_under

    asked = [each for each in (asked_under(requests.network, *item) for item in requests.entries.items()) if each]
    joins = sum(each.invitation is not None for each in asked)
    return f"{joins} want to join, {len(asked) - joins} want another certificate"
