"""Between the registry and an authority that is kept offline: what is carried there, and what of its answers is published.

Not responsible for the files (`paper`), nor for answering.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from holloway.cli.failures import CommandFailedError
from holloway.cli.paper import PaperAnswers, PaperRequests
from holloway.cli.publishing import PUBLISH_S

if TYPE_CHECKING:
    from holloway.actors.enrolled import Enrolled
    from holloway.actors.state_directory import StateDirectory

MAX_CARRIED_BYTES = 32 << 20
"""What the entries of a file may come to."""


def collected(url: str, network: str) -> PaperRequests:
    """Requests and records in the registry. Raises `CommandFailedError` when it does not answer, or holds too much."""
    import trio

    return trio.run(_collected, url, network)


async def _collected(url: str, network: str) -> PaperRequests:
    import trio

    from holloway.actors.authority_files import asked_under
    from holloway.actors.registry import open_registry
    from holloway.protocols.membership import network_prefix, nodes_prefix

    with trio.move_on_after(PUBLISH_S):
        async with open_registry(url, wall_ns=time.time_ns) as registry:
            entries = (await registry.snapshot(network_prefix(network))).entries
        found = {
            key: entry.value
            for key, entry in entries.items()
            if (key.startswith(nodes_prefix(network)) and key.isascii())
            or asked_under(network, key, entry.value) is not None
        }
        if sum(map(len, found.values())) > MAX_CARRIED_BYTES:
            raise CommandFailedError(
                "what the registry holds cannot be carried",
                f"it is more than {MAX_CARRIED_BYTES >> 20} MiB: somebody has filled it",
                "remove what nobody needs there",
            )
        return PaperRequests(network, found)
    raise CommandFailedError(
        "nothing was collected", f"the registry did not answer within {PUBLISH_S:g} s", "try again later"
    )


def publish_answers(url: str, paper: PaperAnswers, network: str, state: StateDirectory) -> int:
    """Put what is in `paper` into the registry, and say how much that was. `state`: of a node of the network.

    Raises `CommandFailedError`, with the name of the reason, when the node would not believe it, or something newer is there already, and
    when the registry does not answer.
    """
    import trio

    return trio.run(_publish_answers, url, paper, network, state)


async def _publish_answers(url: str, paper: PaperAnswers, network: str, state: StateDirectory) -> int:
    import trio

    from holloway.actors.enrolled import Enrolled
    from holloway.actors.issuer import ANSWER_S
    from holloway.actors.registry import open_registry
    from holloway.protocols.membership import network_prefix

    if paper.network != network:
        raise _refused(f"they are for network {paper.network}")
    now = time.time_ns() // 10**9
    enrolled, grants = Enrolled(state, network, now), network_prefix(network) + b"grants/"
    with trio.move_on_after(PUBLISH_S):
        async with open_registry(url, wall_ns=time.time_ns) as registry:
            entries = (await registry.snapshot(network_prefix(network))).entries
            for key, take in _statements(enrolled, now).items():  # this node may not have been up for long
                if key in entries:
                    take(entries[key].value)
            values = _checked(paper, enrolled, now)
            lease = await registry.grant(ANSWER_S) if any(key.startswith(grants) for key in values) else None
            for key, value in values.items():
                await registry.put(key, value, lease=lease.id if lease is not None and key.startswith(grants) else None)
        return len(values)
    raise CommandFailedError(
        "not all of it was published",
        f"the registry did not answer within {PUBLISH_S:g} s",
        "the same command once more",
    )


def _statements(enrolled: Enrolled, now: int) -> dict[bytes, Callable[[bytes], str | None]]:
    """How a node takes what an authority says to everybody, by registry key: those first that others rest on."""
    from holloway.protocols.authorities import authorities_key
    from holloway.protocols.network_settings import settings_key
    from holloway.protocols.trust import revoked_key

    network = enrolled.trust.network
    return {
        authorities_key(network): lambda value: enrolled.take_bundle(value, now),
        revoked_key(network): enrolled.take_revocations,
        settings_key(network): lambda value: enrolled.take_settings(value, now),
    }


def _checked(paper: PaperAnswers, enrolled: Enrolled, now: int) -> dict[bytes, bytes]:
    """What is to be published, in an order in which nodes can believe it. Grants are for those who asked, who alone can tell whether
    they are genuine."""
    from holloway.protocols.certificates import NodeCertificate
    from holloway.protocols.enrolment import MAX_GRANT_BYTES, Refused
    from holloway.protocols.membership import network_prefix
    from holloway.protocols.renewal import open_renewed, renewed_key

    network, left, ordered = paper.network, dict(paper.entries), dict[bytes, bytes]()
    for key, take in _statements(enrolled, now).items():
        if key in left:
            ordered[key] = left.pop(key)
            problem = take(ordered[key])
            if problem is not None:
                raise _refused(f"{key.decode()} is not believed: {problem}")
    for key, value in left.items():
        text = key.decode("ascii")
        if not (key.startswith(network_prefix(network) + b"grants/") and len(value) <= MAX_GRANT_BYTES):
            found = open_renewed(value, enrolled.trust, now)
            if not isinstance(found, NodeCertificate | Refused):
                raise _refused(f"{text} is not believed: {found.value}")
            if isinstance(found, NodeCertificate) and key != renewed_key(network, found.name):
                raise _refused(f"{text} is for node {found.name}")
            if not key.startswith(renewed_key(network, "")):
                raise _refused(f"{text} is no place for what an authority says")
        ordered[key] = value
    return ordered


def _refused(why: str) -> CommandFailedError:
    return CommandFailedError(
        "nothing was published", why, "bring newer answers: holloway authority collect, holloway sign"
    )
