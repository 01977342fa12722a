"""The promises of a network with an authority: who is taken for whom, whatever stands in the registry.

Like `oracles`: each is a function whose docstring is the promise. Not responsible for when they are asked (`trust_watch`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from holloway.actors.control_claims import View
from holloway.actors.wanted import Peer
from holloway.simulations.office import Genuine

OBEYED_WITHIN_NS = 5 * 10**9


def nobody_is_impersonated(peers: Mapping[str, Peer], genuine: Mapping[str, Genuine], node: str) -> str | None:
    """Every peer of a node has a name that the authority gave away, and the session key of the node that has it."""
    for name, peer in peers.items():
        if name not in genuine:
            return f"{node} takes {name} for a peer, whom the authority does not know"
        if peer.public_key != genuine[name].key:
            return f"{node} takes somebody for {name} who has another key"
    return None


def addresses_are_certified(peers: Mapping[str, Peer], genuine: Mapping[str, Genuine], node: str) -> str | None:
    """Every peer of a node has exactly the addresses and prefixes of its certificate."""
    for name, peer in peers.items():
        if name in genuine and frozenset(peer.allowed) != genuine[name].allowed:
            return f"{node} routes {', '.join(map(str, peer.allowed))} to {name}"
    return None


def nobody_is_enrolled_by_another(view: View, agent_keys: Mapping[str, str], node: str) -> str | None:
    """The key by which a node would let in the agent of another is the one that other has enrolled itself."""
    for name, key in view.agents:
        if agent_keys.get(name) != key:
            return f"{node} would let in somebody as the agent of {name}"
    return None


def only_named_nodes_are_obeyed(
    view: View, may: Collection[str], agent_keys: Mapping[str, str], node: str
) -> str | None:
    """A broker that agents obey is on a node that the authority names, with the key that this node has announced."""
    for name, place in view.brokers:
        if name not in may or place.curve_key != agent_keys.get(name):
            return f"{node} has its agent obey a broker of {name}"
    return None


def revoked_stay_out(peers: Iterable[str], seen_ns: Mapping[str, int], now_ns: int, node: str) -> str | None:
    """From `OBEYED_WITHIN_NS` after a node has seen a revocation list, nobody whom it names is a peer, in no life of the node.

    `seen_ns`: since when the node knows who was revoked.
    """
    for name in peers:
        if name in seen_ns and now_ns - seen_ns[name] > OBEYED_WITHIN_NS:
            return f"{node} takes {name} for a peer, {(now_ns - seen_ns[name]) / 1e9:.0f} s after it saw that it was revoked"
    return None


def no_older_record_is_believed(believed: Mapping[str, int], newest: Mapping[str, int], node: str) -> str | None:
    """A node that has believed a record believes no older one of that name again, in no life.

    Both are the serial numbers of records, by name.
    """
    for name, serial in believed.items():
        if serial < newest.get(name, 0):
            return f"{node} believes record {serial} of {name}, and knew record {newest[name]}"
    return None
