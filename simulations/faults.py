"""The faults: what each kind does, to whom, and with which values.

A fault is data: a name, a kind, a window of time, whom it befalls and numbers that the seed has drawn. Faults of links act
on each datagram (`links`), faults of nodes on the process or its clock (`world`). Not responsible for either.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType

from holloway.simulations.quantities import Quantity, Value

HOLDER = "@holder"
"""Stands among the nodes of a fault for whoever has the floating address at the moment at which it befalls him."""


class Scope(Enum):
    """What a fault befalls."""

    LINKS = "links"
    NODES = "nodes"
    STORE = "store"


@dataclass(frozen=True, slots=True)
class Parameter:
    """A value of a fault. `default` is as a scenario would write it; without one the scenario has to."""

    name: str
    quantity: Quantity
    default: str | None = None


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault. `has_end`: it lasts, and `for` says how long; the others happen at one moment. `needs_actors`:
    it befalls what only whole nodes have. `needs_authority`: and only in a network with an authority. `needs_control`: it
    befalls what only a control plane has. `needs_dtls`: and only nodes that speak DTLS have that.
    """

    scope: Scope
    purpose: str
    parameters: tuple[Parameter, ...] = ()
    has_end: bool = True
    needs_actors: bool = False
    needs_authority: bool = False
    needs_control: bool = False
    needs_dtls: bool = False


_LINK, _NODE = Scope.LINKS, Scope.NODES


def _store(purpose: str, parameters: tuple[Parameter, ...] = (), *, has_end: bool = True) -> Kind:
    return Kind(Scope.STORE, purpose, parameters, has_end)


_PROBABILITY = Parameter("probability", Quantity.PROBABILITY)

KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "loss": Kind(_LINK, "datagrams disappear", (_PROBABILITY,)),
        "latency": Kind(_LINK, "every datagram takes longer", (Parameter("extra", Quantity.DURATION),)),
        "jitter": Kind(_LINK, "each datagram takes longer by 0 to `spread`", (Parameter("spread", Quantity.DURATION),)),
        "duplicate": Kind(
            _LINK,
            "datagrams come twice, the second up to `within` later",
            (_PROBABILITY, Parameter("within", Quantity.DURATION, "50ms")),
        ),
        "reorder": Kind(
            _LINK,
            "some datagrams are held back and overtaken",
            (_PROBABILITY, Parameter("delay", Quantity.DURATION, "100ms")),
        ),
        "corrupt": Kind(_LINK, "one bit of a datagram is flipped", (_PROBABILITY,)),
        "replay": Kind(
            _LINK,
            "somebody who listens sends old datagrams again, now and then from an address of his own",
            (Parameter("every", Quantity.PAUSE), Parameter("elsewhere", Quantity.PROBABILITY, "0.25")),
        ),
        "forge_pieces": Kind(
            _LINK,
            "somebody who listens sends forged pieces of records, now and then from an address of his own",
            (Parameter("every", Quantity.PAUSE), Parameter("elsewhere", Quantity.PROBABILITY, "0.25")),
        ),
        "bandwidth": Kind(
            _LINK,
            "datagrams queue for a slow line; those that find the queue full are lost",
            (Parameter("rate", Quantity.RATE), Parameter("queue", Quantity.DURATION, "500ms")),
        ),
        "standing_queue": Kind(
            _LINK,
            "datagrams wait in a queue that grows to `most` and shrinks again; those of the sparse lane pass it at once",
            (Parameter("most", Quantity.DURATION, "500ms"),),
        ),
        "mtu_drop": Kind(_LINK, "datagrams of more than `limit` bytes are lost", (Parameter("limit", Quantity.COUNT),)),
        "partition": Kind(
            _LINK,
            "nothing passes between `side` nodes and the rest, until the window ends",
            (Parameter("side", Quantity.COUNT, "1"),),
        ),
        "nat_rebind": Kind(_NODE, "the node is seen at another port from now on", has_end=False),
        "crash": Kind(_NODE, "the process dies, and comes back without its state when the window ends"),
        "restart": Kind(_NODE, "the process loses its state and is back at once", has_end=False),
        "pause": Kind(_NODE, "the process stands still; datagrams wait in its socket"),
        "stop": Kind(_NODE, "the node is told to stop, in order, and begins another life when the window ends"),
        "clock_jump": Kind(
            _NODE, "the wall clock is set forward or back", (Parameter("by", Quantity.OFFSET),), has_end=False
        ),
        "clock_skew": Kind(
            _NODE,
            "the wall clock is wrong by `offset`, and the monotonic clock fast by `drift`",
            (Parameter("offset", Quantity.OFFSET, "0s"), Parameter("drift", Quantity.DRIFT, "0")),
        ),
        "handshake_flood": Kind(
            _NODE,
            "strangers who know the node's public key send it initiations, at most `sources` addresses",
            (Parameter("every", Quantity.PAUSE), Parameter("sources", Quantity.COUNT, "1000")),
        ),
        "false_reports": Kind(_NODE, "what the node reports of how records arrive is false"),
        "bombs": Kind(
            _NODE,
            "the node sends each peer records that unpack into too much, or that are in clear",
            (Parameter("every", Quantity.PAUSE),),
        ),
        "port_failure": Kind(
            _NODE,
            "the TUN device, the socket or the netlink of the node breaks under it",
            has_end=False,
            needs_actors=True,
        ),
        "socket_failure": Kind(
            _NODE,
            "a socket of the node breaks under it, one of several if it has them",
            has_end=False,
            needs_actors=True,
        ),
        "store_down": _store(
            "the registry cannot be reached; a call is refused, or with probability `silent` gets no answer at all",
            (Parameter("silent", Quantity.PROBABILITY, "0.5"),),
        ),
        "store_compaction": _store(
            "the registry forgets its history; a watch that lags has to begin again", has_end=False
        ),
        "stale_watch": _store("watches of the registry tell nothing"),
        "lease_loss": _store("the registry loses the leases of the node, with all that hangs on them", has_end=False),
        "disk_full": _store(
            "the registry has no room: nothing can be written; nor on the disks of nodes, where they keep files"
        ),
        "release": Kind(
            Scope.STORE,
            "somebody lets go of the address of the node, if that has no record in the registry",
            has_end=False,
            needs_actors=True,
        ),
        "store_attacker": Kind(
            Scope.STORE,
            "whoever owns the registry deletes, replays, swaps, alters and forges what stands there",
            (Parameter("every", Quantity.PAUSE),),
            needs_actors=True,
            needs_authority=True,
        ),
        "slow_reader": Kind(_NODE, "the operator confirms nothing of what he is shown", needs_control=True),
        "job_flood": Kind(
            _NODE,
            "the operator asks for one job after another",
            (Parameter("every", Quantity.PAUSE),),
            needs_control=True,
        ),
        "operator_revoked": Kind(
            _NODE, "the key of the operator does not count, and then does again", needs_control=True
        ),
        "hostile_node": Kind(
            _NODE,
            "somebody has the key of the node and sends what the node may not, beside the node",
            (Parameter("every", Quantity.PAUSE),),
            needs_control=True,
        ),
        "expired_certificate": Kind(
            _NODE, "the certificate that the node shows is over", needs_actors=True, needs_dtls=True
        ),
        "foreign_certificate": Kind(
            _NODE, "the certificate that the node shows is of another authority", needs_actors=True, needs_dtls=True
        ),
        "revoke": Kind(
            _NODE,
            "the authority takes the certificate of the node back, and it goes on as if nothing were",
            has_end=False,
            needs_actors=True,
            needs_authority=True,
        ),
    }
)
"""Every kind by the name that scenarios use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault of one run, from `at_ns` to before `until_ns` of virtual time.

    `nodes`: whom a node fault befalls; whose registry fails, or everybody's when empty; for a link fault one side of the links, the others being the other side; nobody
    there means every link. `HOLDER` alone stands for a node that is not known before. `between`: the two ends of the only link. `one_way`: only from the first (`nodes`, or the
    first of `between`) to the second.
    """

    name: str
    kind: str
    at_ns: int
    until_ns: int
    nodes: tuple[str, ...] = ()
    between: tuple[str, ...] = ()
    one_way: bool = False
    values: Mapping[str, Value]

    def touches(self, source: str, destination: str) -> bool:
        """Whether a link fault acts on datagrams from `source` to `destination`."""
        if self.between:
            ends = (source, destination)
            return ends == self.between or (not self.one_way and ends[::-1] == self.between)
        if self.nodes:
            is_from, is_to = source in self.nodes, destination in self.nodes
            return (is_from and not is_to) or (not self.one_way and is_to and not is_from)
        return True
