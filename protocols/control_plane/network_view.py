"""What a node's daemon tells the programs of the control plane on its machine: which brokers are believed, and whose key is whose.

Reading takes any JSON and raises LocalError. Not responsible for the socket, nor for why somebody is believed, which is the daemon's to know.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from holloway.protocols.broker_places import BrokerPlace, read_curve_key, read_place
from holloway.protocols.errors import LocalError
from holloway.protocols.hostile_json import listed, object_of, text
from holloway.protocols.membership import NAME

MAX_BROKERS = 256
MAX_ADDRESSES = 256
MAX_KEYS = 8192
"""Twice as many as a node has peers."""


@dataclass(frozen=True, slots=True)
class KnownBroker:
    """A broker that is believed, and the name of its node."""

    node: str
    place: BrokerPlace


@dataclass(frozen=True, slots=True)
class NetworkView:
    """`node`: this machine's, in the network of that name, with its overlay addresses. `is_signed`: whether records count at all.
    `agent_key`: the CURVE key in the record of this node, None when there is none. `named`: nodes that may have a broker, whether they announce one or not; `ignored`: those that announce one and may not.
    """

    node: str
    network: str
    addresses: tuple[str, ...]
    is_signed: bool
    brokers: tuple[KnownBroker, ...]
    named: tuple[str, ...]
    ignored: tuple[str, ...]
    agent_key: str | None = None

    def of_node(self, name: str) -> KnownBroker | None:
        """The broker on that node."""
        return next((each for each in self.brokers if each.node == name), None)

    def of_key(self, key: str) -> KnownBroker | None:
        """The broker with that key."""
        return next((each for each in self.brokers if each.place.curve_key == key), None)


def chosen_broker(view: NetworkView, node: str | None) -> KnownBroker:
    """The broker on that node, or the only one. Raises LocalError that says why there is none, and which there are."""
    found = view.brokers if node is None else tuple(each for each in view.brokers if each.node == node)
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(each.node for each in found)
        raise LocalError(
            f"network {view.network} has {len(found)} brokers",
            f"they are on {names}",
            f"name one: --host {found[0].node}",
        )
    what = f"network {view.network} has no broker" if node is None else f"there is no broker on node {node}"
    if not view.is_signed:
        why = "its records are not signed, so whoever writes the registry could name himself"
        raise LocalError(
            what, f"{why}: none is believed", "--host HOST, with a key file that has its server_public_key"
        )
    ignored = view.ignored if node is None else tuple(each for each in view.ignored if each == node)
    if ignored:
        raise LocalError(
            what,
            f"{', '.join(ignored)} announces one, and may not",
            f"where the authority's key is: holloway network --broker {ignored[0]}",
        )
    known = (
        "" if node is None or not view.brokers else f"; there is one on {', '.join(each.node for each in view.brokers)}"
    )
    raise LocalError(what, f"no record announces one{known}", "start it there: holloway broker --root DIR")


def read_view(answer: object) -> NetworkView:
    """The answer to `brokers`, or an event of `follow-brokers`. Raises LocalError for what is none."""
    try:
        fields = object_of(answer)
        node = object_of(fields.get("node"))
        agent_key = node.get("agent")
        return NetworkView(
            _name(node.get("name")),
            _name(node.get("network")),
            listed(node, "addresses", MAX_ADDRESSES, _address),
            fields.get("signed") is True,
            listed(fields, "brokers", MAX_BROKERS, _broker),
            listed(fields, "named", MAX_BROKERS, _name),
            listed(fields, "ignored", MAX_KEYS, _name),
            None if agent_key is None else read_curve_key(agent_key),
        )
    except ValueError as why:
        raise _not_understood(why) from None


@dataclass(frozen=True, slots=True)
class AgentsView:
    """`agents`: names of nodes and the keys of their agents, of two with one key the older claim first. `is_obeyed`: whether agents find the
    broker of this machine, and obey it; `is_signed`: whether records count at all."""

    agents: tuple[tuple[str, str], ...]
    is_obeyed: bool
    is_signed: bool


def read_agents(answer: object) -> AgentsView:
    """The answer to `agents`, or an event of `be-broker`. Raises LocalError for what is none."""
    try:
        fields = object_of(answer)
        agents = listed(fields, "agents", MAX_KEYS, _agent)
        return AgentsView(agents, fields.get("obeyed") is True, fields.get("signed") is True)
    except ValueError as why:
        raise _not_understood(why) from None


class NetworkKeys:
    """Which key is whose. Who has a key keeps it for as long as he names it, and one that two have named at one time is kept for its owner while
    he is away, too. Nobody can take it by naming it: only whoever holds the key can say, with it, whose it is.
    """

    def __init__(self) -> None:
        self.names: Mapping[str, str] = {}
        """By key in Z85, the name of its node."""
        self.disputed: Mapping[str, tuple[str, ...]] = {}
        """By key, who names it and has it not."""
        self.owners: Mapping[str, str] = {}
        """By key that two have named at one time, whose it is, be he there or not; the oldest first."""
        self._claims: Mapping[str, list[str]] = {}

    def take(self, agents: Iterable[tuple[str, str]]) -> None:
        """These claims are all there are now."""
        claims: dict[str, list[str]] = {}
        for name, key in agents:
            claims.setdefault(key, []).append(name)
        self._claims = claims
        self._settle()

    def remember(self, owners: Mapping[str, str]) -> None:
        """`owners`, as it was in an earlier life."""
        self.owners = {**self.owners, **owners}
        self._settle()

    def said(self, key: str, name: str) -> bool:
        """Whoever holds that key says that it is that node's; whether the node says so, too, and it was another's until now."""
        if name not in self._claims.get(key, ()) or self.names.get(key) == name:
            return False
        self.owners = {**self.owners, key: name}
        self._settle()
        return True

    def _settle(self) -> None:
        before, owners = self.names, dict(self.owners)
        for key, names in self._claims.items():
            if key not in owners and len(set(names)) > 1:
                owners[key] = before[key] if before.get(key) in names else names[0]
        absent = [key for key in owners if key not in self._claims]
        for key in absent[: max(len(owners) - MAX_KEYS, 0)]:
            del owners[key]
        self.owners = owners
        self.names = {
            key: owner
            for key, names in self._claims.items()
            if (owner := owners.get(key, before[key] if before.get(key) in names else names[0])) in names
        }
        self.disputed = {
            key: others
            for key, names in self._claims.items()
            if (others := tuple(name for name in names if name != self.names.get(key)))
        }


def _broker(item: object) -> KnownBroker:
    fields = object_of(item)
    return KnownBroker(_name(fields.get("node")), read_place({key: fields.get(key) for key in _PLACE}))


_PLACE = ("address", "command_port", "file_port", "curve_key")


def _agent(item: object) -> tuple[str, str]:
    if not isinstance(item, list) or len(item) != 2:
        raise ValueError("not a name and a key")
    return _name(item[0]), read_curve_key(item[1])


def _name(item: object) -> str:
    name = text({"name": item}, "name", 63)
    if not NAME.match(name):
        raise ValueError("name: not the name of a node")
    return name


def _address(item: object) -> str:
    return text({"address": item}, "address", 64)


def _not_understood(why: ValueError) -> LocalError:
    return LocalError(
        "the node's daemon says what we do not understand", str(why), "restart the daemon after an update of holloway"
    )
