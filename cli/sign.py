"""`holloway sign`: answer requests that came as a file, where the authority is kept offline.

Not responsible for who is let in (`holloway.protocols.issuer`).
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from holloway.cli.failures import CommandFailedError
from holloway.cli.paper import PaperAnswers, PaperGrant, PaperRequest, PaperRequests, read_paper
from holloway.cli.printing import say
from holloway.cli.state_option import state_directory, state_option

if TYPE_CHECKING:
    from holloway.actors.authority_files import Asked, AuthorityFiles, Settled


@click.command()
@click.argument("request", type=click.Path(path_type=Path))
@state_option
def command(request: Path, state: Path | None) -> None:
    """Answer requests that came as a file.

    REQUEST is what `holloway join TOKEN --request REQUEST` wrote on the machine that was invited. The answer is printed; it goes
    back there, to `holloway join TOKEN --grant FILE`. Or it is what `holloway authority collect` printed on a node; then the answers go
    to `holloway authority publish FILE`. Runs where the authority's key is, and needs no network.
    """
    from holloway.actors.authority_files import AuthorityFiles

    paper = read_paper(request)
    authority = AuthorityFiles(state_directory(state), paper.network, os.urandom)  # noqa: TID251 - a verb is where it comes in
    match paper:
        case PaperRequest():
            _sign_one(authority, paper)
        case PaperRequests():
            _sign_all(authority, paper)


def _sign_one(authority: AuthorityFiles, paper: PaperRequest) -> None:
    from holloway.actors.joining import explained
    from holloway.protocols.trust import revoked_key

    now = time.time_ns() // 10**9
    settled = authority.enrol(paper.invitation, paper.value, now)
    decision, admitted = settled.decision, settled.admitted
    if decision.answer is None:
        why = "nobody" if decision.reason is None else decision.reason.value
        raise CommandFailedError(
            "nobody is let in", f"the request proves no invitation of ours: {why}", "holloway invite"
        )
    if decision.reason is not None:
        raise explained(decision.reason)
    print(PaperGrant(decision.answer, authority.statements(now)[revoked_key(paper.network)]).text())
    say(
        f"node {admitted.name} is let in"
        if admitted is not None
        else "this machine was let in before: the same answer again"
    )


def _sign_all(authority: AuthorityFiles, paper: PaperRequests) -> None:
    """Answer what proves something, and say again what is said to everybody."""
    from holloway.actors.authority_files import asked_under

    now = time.time_ns() // 10**9
    waiting = [each for each in (asked_under(paper.network, *item) for item in paper.entries.items()) if each]
    answers: dict[bytes, bytes] = {}
    while waiting:
        settled = authority.settle(waiting, now)
        for asked, one in zip(waiting, settled, strict=False):
            answers |= one.publish
            say(_outcome(asked, one))
        waiting = waiting[len(settled) :]
    print(PaperAnswers(paper.network, answers | authority.statements(now)).text())


def _outcome(asked: Asked, settled: Settled) -> str:
    decision, admitted = settled.decision, settled.admitted
    if decision.reason is not None:
        return f"{asked.who} is refused: {decision.reason.value}"
    if admitted is not None:
        return f"node {admitted.name} is let in"
    return f"{asked.who} has {'another certificate' if decision.has_changed else 'its answer already, once more'}"
