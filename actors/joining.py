"""Joining a network: asking through the registry to be let in, and waiting for the answer.

Not responsible for what is believed (`holloway.protocols.joiner`), for files, nor for telling people.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress

import trio

from holloway.actors.registry import Lease, LeaseLostError, Put, RegistryPort
from holloway.protocols.enrolment import EnrolProblem, Refused
from holloway.protocols.errors import HollowayError, RegistryError
from holloway.protocols.joiner import Granted, Joiner

REQUEST_S = 600.0
"""How long a request outlives the machine that made it."""
ASK_AGAIN_S = 120.0
"""How often we look whether it still stands there."""
CLEANUP_S = 2.0

_REASONS = {
    EnrolProblem.EXPIRED: ("the invitation has expired", "ask for a new one: holloway invite"),
    EnrolProblem.USED: ("the invitation was used by another machine", "ask for a new one: holloway invite"),
    EnrolProblem.NAME_TAKEN: ("another machine has the name", "choose another: holloway join TOKEN --name NAME"),
    EnrolProblem.ADDRESS_TAKEN: ("another machine has the address", "choose another, or none"),
    EnrolProblem.ADDRESS_RESTING: (
        "another machine had the address a short time ago",
        "choose another, or none; or an invitation that names it: holloway invite --address A",
    ),
    EnrolProblem.ADDRESS_RESERVED: ("no node can have the address for itself", "choose another, or none"),
    EnrolProblem.NO_ADDRESS_LEFT: ("every address of the network is taken", "revoke nodes that are gone"),
    EnrolProblem.KEY_REVOKED: ("this machine was revoked", "remove its state directory, and join anew"),
    EnrolProblem.KEY_TAKEN: ("this machine is in the network under another name", "join under that name"),
    EnrolProblem.FULL: ("the network has no room for another node", "revoke nodes that are gone"),
}


def explained(reason: EnrolProblem) -> HollowayError:
    """A refusal by the authority, for people."""
    why, fix = _REASONS.get(reason, (reason.value, "ask the owner of the network"))
    return HollowayError("the authority of the network refuses this machine", why, fix)


async def join(
    registry: RegistryPort, joiner: Joiner, wall_ns: Callable[[], int], tell: Callable[[str], None]
) -> Granted:
    """Ask to be let in, and wait until we are. `tell` hears of answers that are not to be believed, each once.

    Raises `HollowayError` when the authority refuses us, and `RegistryError` when the registry does.
    """
    lease = await registry.grant(REQUEST_S)
    told: set[EnrolProblem] = set()
    try:
        while True:
            lease = await _ask(registry, joiner, lease)
            with trio.move_on_after(ASK_AGAIN_S):
                try:
                    async with aclosing(_values(registry, joiner.grant_key)) as values:
                        async for value in values:
                            granted = _judge(joiner.read(value, wall_ns() // 10**9), told, tell)
                            if granted is not None:
                                return granted
                except RegistryError as error:
                    if error.kind != "compacted":
                        raise
    finally:
        with trio.move_on_after(CLEANUP_S, shield=True), suppress(RegistryError):
            await registry.revoke(lease.id)


async def _ask(registry: RegistryPort, joiner: Joiner, lease: Lease) -> Lease:
    """Our request stands there from now on, for `REQUEST_S` at least. Returns the lease on which it hangs."""
    try:
        await registry.keep_alive(lease.id)
    except LeaseLostError:
        lease = await registry.grant(REQUEST_S)
    entry = (await registry.snapshot(joiner.request_key)).entries.get(joiner.request_key)
    if entry is None or entry.lease != lease.id or entry.value != joiner.request():
        await registry.put(joiner.request_key, joiner.request(), lease=lease.id)
    return lease


def _judge(
    answer: Granted | Refused | EnrolProblem, told: set[EnrolProblem], tell: Callable[[str], None]
) -> Granted | None:
    match answer:
        case Granted():
            return answer
        case Refused(reason):
            raise explained(reason)
        case EnrolProblem():
            # An answer to an attempt before this one is nothing to talk about.
            if answer is not EnrolProblem.OTHER_REQUEST and answer not in told:
                told.add(answer)
                tell(f"an answer is not believed: {answer.value}")
            return None


async def _values(registry: RegistryPort, key: bytes) -> AsyncGenerator[bytes, None]:
    """What stands under a key, now and after each change. Raises `RegistryError`, "compacted" when it is to be read anew."""
    snapshot = await registry.snapshot(key)
    if key in snapshot.entries:
        yield snapshot.entries[key].value
    async with registry.watch(key, snapshot.revision) as watch:
        async for batch in watch:
            for change in batch:
                if isinstance(change, Put) and change.key == key:
                    yield change.entry.value
