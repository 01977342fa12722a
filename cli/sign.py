"""`holloway sign`: answer a request to be let in that came as a file, where the authority is kept offline.

Not responsible for who is let in (`holloway.protocols.issuer`).
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import click

from holloway.cli.failures import CommandFailedError
from holloway.cli.paper import PaperGrant, read_paper_request
from holloway.cli.printing import say
from holloway.cli.state_option import state_directory, state_option


@click.command()
@click.argument("request", type=click.Path(path_type=Path))
@state_option
def command(request: Path, state: Path | None) -> None:
    """Answer a request to be let in that came as a file.

    REQUEST is what `holloway join TOKEN --request REQUEST` wrote on the machine that was invited. The answer is printed; it goes
    back there, to `holloway join TOKEN --grant FILE`. Runs where the authority's key is, and needs no network.
    """
    from holloway.actors.authority_files import AuthorityFiles
    from holloway.actors.joining import explained
    from holloway.protocols.trust import revoked_key

    paper = read_paper_request(request)
    now = time.time_ns() // 10**9
    authority = AuthorityFiles(state_directory(state), paper.network, os.urandom)  # noqa: TID251 - a verb is where it comes in
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
