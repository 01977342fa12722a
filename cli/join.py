"""`holloway join`: become a node of a network that this machine was invited to.

Not responsible for what is believed of the answer (`holloway.protocols.joiner`).
"""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from holloway.cli.announced import announced, say_announced
from holloway.cli.exit_codes import ExitCode
from holloway.cli.failures import CommandFailedError
from holloway.cli.option_types import seconds_between
from holloway.cli.paper import PaperRequest, read_paper_grant, write_paper
from holloway.cli.printing import json_option, print_json, say
from holloway.cli.registry_files import unpack
from holloway.cli.state_option import Made, host_name, refuse_second_node, state_directory, state_option, write_config

if TYPE_CHECKING:
    from collections.abc import Callable

    from holloway.actors.state_directory import StateDirectory
    from holloway.protocols.invitations import Invitation
    from holloway.protocols.joiner import Granted, Joiner

SCHEMA = "holloway.join/1"
PATIENT_S = 2.0
"""Waiting for longer is explained."""
MAX_TIMEOUT_S = 86_400.0
_NONCE = "joining.nonce"


@click.command()
@click.argument("token")
@click.option("--name", metavar="NODE", help="What this node is called.  [default: as invited, or this machine's name]")
@click.option(
    "--timeout",
    "timeout_s",
    type=seconds_between(0, MAX_TIMEOUT_S),
    metavar="TIME",
    help="How long to wait for the authority.  [default: until it answers]",
)
@click.option(
    "--request", type=click.Path(path_type=Path), metavar="FILE", help="Write the request to FILE, for `sign`."
)
@click.option("--grant", type=click.Path(path_type=Path), metavar="FILE", help="Take the answer from FILE, by `sign`.")
@state_option
@json_option
def command(
    token: str,
    name: str | None,
    timeout_s: float | None,
    request: Path | None,
    grant: Path | None,
    state: Path | None,
    as_json: bool,
) -> None:
    """Become a node of a network that this machine was invited to.

    TOKEN is what `holloway invite` printed; - reads it from stdin. An interrupted join is simply repeated. Where the authority is
    kept offline, --request and --grant carry question and answer in files.
    """
    import os

    import trio

    from holloway.actors.enrolled import ensure_session_key, identity_in, keep_granted, settings_of
    from holloway.protocols.identity import ENTROPY_BYTES
    from holloway.protocols.invitations import parse_token
    from holloway.protocols.joiner import Joiner
    from holloway.protocols.store_tokens import is_store_token

    if request is not None and grant is not None:
        raise click.UsageError("--request and --grant exclude each other", click.get_current_context(silent=True))
    entropy = os.urandom  # noqa: TID251 - a verb is where randomness comes in
    text = sys.stdin.read() if token == "-" else token  # noqa: S105 - a dash
    if is_store_token(text):
        if request is not None or grant is not None:
            what, why = "nobody has to grant anything", "the store of this network is believed: it has no authority"
            raise CommandFailedError(what, why, "holloway join TOKEN")
        _join_store(text, name, state, entropy, as_json=as_json)
        return
    invitation = parse_token(text, time.time_ns() // 10**9)
    network = invitation.terms.network
    folder = state_directory(state)
    refuse_second_node(folder)
    folder.create()
    identity = identity_in(folder, entropy(ENTROPY_BYTES))
    nonce = _nonce(folder, entropy, is_kept=grant is not None)
    joiner = Joiner(invitation, identity, nonce, name=name or invitation.terms.name or host_name())
    if request is not None:
        _write_request(request, invitation, joiner)
        say(f"{request} is for the authority:  holloway sign {shlex.quote(request.name)} > grant")
        say("then here, with the same token:  holloway join TOKEN --grant grant")
        return
    url = unpack(invitation.registry, invitation.files, folder)
    granted = trio.run(_join, url, joiner, folder, timeout_s) if grant is None else _read_grant(grant, joiner, folder)
    ensure_session_key(folder, entropy(32))
    own_name = granted.certificate.name
    settings = settings_of(granted.settings)
    behind = announced(granted.certificate.prefixes, settings)
    made = Made(own_name, network, "authority", url, settings.port, prefixes=tuple(map(str, behind)))
    write_config(folder, made)
    say_announced(behind)
    keep_granted(folder, granted)  # last: from then on there is a node, which needs all the rest
    addresses = [
        str(each) for each in sorted(granted.certificate.addresses, key=lambda each: (each.version, int(each)))
    ]
    _report(network, own_name, addresses, folder, state, as_json=as_json)


def _report(
    network: str, name: str, addresses: list[str], folder: StateDirectory, state: Path | None, *, as_json: bool
) -> None:
    if as_json:
        print_json(
            {"schema": SCHEMA, "network": network, "node": name, "addresses": addresses, "state": str(folder.path)}
        )
        return
    where = "" if state is None else f" --state {shlex.quote(str(state))}"
    say(f"network {network}: node {name} has {', '.join(addresses)}")
    say(f"start it:  holloway up{where}")


def _join_store(
    text: str, name: str | None, state: Path | None, entropy: Callable[[int], bytes], *, as_json: bool
) -> None:
    """Settle in a network whose store is believed."""
    from holloway.cli.store_node import BELIEVED, make_store_node
    from holloway.protocols.store_tokens import parse_store_token

    token = parse_store_token(text)
    folder = state_directory(state)
    refuse_second_node(folder)
    own_name = name or token.name or host_name()
    if own_name is None:
        raise CommandFailedError("this node needs a name", "this machine has none", "holloway join TOKEN --name NODE")
    folder.create()
    url = unpack(token.registry, token.files, folder)
    member = make_store_node(
        folder, token.network, url, name=own_name, address=token.address, seed=None, entropy=entropy
    )
    _report(token.network, own_name, [str(each.ip) for each in member.addresses], folder, state, as_json=as_json)
    say(BELIEVED)


def _nonce(folder: StateDirectory, entropy: Callable[[int], bytes], *, is_kept: bool) -> bytes:
    """Another one for every attempt; the answer in a file is to the attempt whose request was written."""
    from holloway.protocols.enrolment import NONCE_BYTES

    kept = folder.read(_NONCE) if is_kept else None
    nonce = entropy(NONCE_BYTES) if kept is None else kept
    if not is_kept:
        folder.write(_NONCE, nonce)
    return nonce


def _write_request(path: Path, invitation: Invitation, joiner: Joiner) -> None:
    write_paper(path, PaperRequest(invitation.terms.network, invitation.terms.id, joiner.request()).text())


def _read_grant(path: Path, joiner: Joiner, folder: StateDirectory) -> Granted:
    from holloway.actors.joining import explained
    from holloway.protocols.enrolment import Refused
    from holloway.protocols.joiner import Granted

    paper = read_paper_grant(path)
    answer = joiner.read(paper.answer, time.time_ns() // 10**9)
    if isinstance(answer, Refused):
        raise explained(answer.reason)
    if not isinstance(answer, Granted):
        fix = "write a request once more: holloway join TOKEN --request FILE"
        raise CommandFailedError(f"{path} lets nobody in", f"it is no answer to our last request: {answer.value}", fix)
    _take_revocations(paper.revoked, answer, folder)
    return answer


def _take_revocations(value: bytes, granted: Granted, folder: StateDirectory) -> None:
    """A node believes nobody before it knows who is revoked."""
    from holloway.actors.enrolled import REVOKED
    from holloway.protocols.trust import Trust

    if Trust(granted.bundle, list_number=granted.list_number).take_revocations(value) is None:
        folder.write(REVOKED, value)


async def _join(url: str, joiner: Joiner, folder: StateDirectory, timeout_s: float | None) -> Granted:
    import trio

    from holloway.actors.joining import join
    from holloway.actors.registry import open_registry
    from holloway.protocols.trust import revoked_key

    async def explain() -> None:
        await trio.sleep(PATIENT_S)
        say("waiting for the node that holds the authority's key; is it up? (Ctrl-C ends; join again at any time)")

    with trio.move_on_after(float("inf") if timeout_s is None else timeout_s) as patience:
        async with open_registry(url, wall_ns=time.time_ns) as registry:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(explain)
                granted = await join(registry, joiner, time.time_ns, say)
                nursery.cancel_scope.cancel()
            key = revoked_key(granted.bundle.network)
            entry = (await registry.snapshot(key)).entries.get(key)
            if entry is not None:
                _take_revocations(entry.value, granted, folder)
        return granted
    assert patience.cancelled_caught
    raise CommandFailedError(
        "this machine was not let in",
        f"nobody answered within {timeout_s:g} s",
        "start the node that holds the authority's key: holloway up",
        ExitCode.TIMEOUT,
    )
