"""What a daemon answers to the programs of the control plane on its machine, over its control socket.

    brokers          the brokers that are believed, and our own addresses
    address          the overlay address of a node, by its name
    enrol            our record names that CURVE key, of this machine's agent, from now on; null: none
    agents           the agents that are believed, each with the name of its node
    follow-brokers   the brokers that are believed, and again after each change; may enrol a key first
    follow-agents    the agents that are believed, and again after each change
    be-broker        the same, for a broker on this node: it is announced while the connection lasts

Not responsible for the socket (`control`), nor for who is believed (`control_claims`).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from functools import partial
from typing import TYPE_CHECKING

import trio

from holloway.actors.config import Config
from holloway.actors.control_claims import ControlClaims
from holloway.actors.status import host_prefixes
from holloway.protocols.broker_places import BrokerPlace, read_place
from holloway.protocols.errors import HollowayError, LocalError

if TYPE_CHECKING:
    from holloway.actors.control import Answer
    from holloway.actors.roster import Roster

CONTROL_OPS = frozenset({"brokers", "address", "enrol", "agents", "follow-brokers", "follow-agents", "be-broker"})
BROKERS_SCHEMA = "holloway.brokers/1"
SETTLE_S = 0.1
"""Changes that come together are told together."""


async def answer_control(
    request: Answer, config: Config, roster: Roster, claims: ControlClaims
) -> AsyncGenerator[Answer, None]:
    """The lines of the answer to a request whose `op` is one of `CONTROL_OPS`. Raises `HollowayError` for one that makes no sense."""
    match request:
        case {"op": "brokers"}:
            yield {"result": _brokers(config, claims)}
        case {"op": "address", "node": str(name)}:
            yield {"result": _address(name, config, roster, claims)}
        case {"op": "enrol", "curve_key": str() | None as key}:
            await claims.enrol(key)
            yield {"result": {"node": config.node.name, "curve_key": key}}
        case {"op": "agents"}:
            yield {"result": _agents(config, claims)}
        case {"op": "follow-brokers"}:
            own_key = request.get("curve_key")
            if isinstance(own_key, str):
                await claims.enrol(own_key)
            async for answer in _followed(claims, partial(_brokers, config, claims)):
                yield answer
        case {"op": "follow-agents"}:
            async for answer in _followed(claims, partial(_agents, config, claims)):
                yield answer
        case {"op": "be-broker"}:
            with claims.announce(_place(request.get("broker"), config)):
                async for answer in _followed(claims, partial(_agents, config, claims)):
                    yield answer
        case _:
            raise HollowayError("a request that is not whole", "something that its op needs is missing")


async def _followed(claims: ControlClaims, say: Callable[[], Answer]) -> AsyncGenerator[Answer, None]:
    """What is to be said now, and again whenever it is something else."""
    last: Answer | None = None
    while True:
        changed, now = claims.changed(), say()
        if now != last:
            last = now
            yield {"event": now}
        await changed.wait()
        await trio.sleep(SETTLE_S)


def _own_addresses(config: Config) -> list[str]:
    return [str(each.ip) for each in config.interface.addresses]


def _brokers(config: Config, claims: ControlClaims) -> Answer:
    view = claims.view()
    node = {"name": config.node.name, "network": config.node.network, "addresses": _own_addresses(config)}
    return {
        "schema": BROKERS_SCHEMA,
        "node": node | {"agent": claims.agent_key},
        "signed": claims.is_signed,
        "brokers": [{"node": name, **place.fields()} for name, place in view.brokers],
        "named": list(view.named),
        "ignored": list(view.ignored),
    }


def _agents(config: Config, claims: ControlClaims) -> Answer:
    view = claims.view()
    return {
        "signed": claims.is_signed,
        "obeyed": any(name == config.node.name for name, _ in view.brokers),
        "agents": [list(each) for each in view.agents],
    }


def _address(name: str, config: Config, roster: Roster, claims: ControlClaims) -> Answer:
    """Where a node is, and the broker on it, if one is believed. Raises HollowayError for a name that no node has."""
    if name == config.node.name:
        addresses = _own_addresses(config)
    else:
        peer = roster.plan.peers.get(name)
        addresses = [] if peer is None else [str(each.network_address) for each in host_prefixes(peer.allowed)]
    if not addresses:
        raise HollowayError(f"no node {name[:63]}", "the network has none of that name", "holloway peers")
    place = next((place for node, place in claims.view().brokers if node == name), None)
    return {"node": name, "addresses": addresses, "broker": None if place is None else place.fields()}


def _place(value: object, config: Config) -> BrokerPlace:
    try:
        return read_place(value, [each.ip for each in config.interface.addresses])
    except (ValueError, LocalError) as why:
        raise HollowayError(
            "no broker can be announced so", f"{why}", "have it listen on the node's overlay address"
        ) from None
