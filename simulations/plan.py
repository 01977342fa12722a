"""The plan: everything that decides a run, as data. The same plan gives the same run, byte for byte.

A scenario and a seed give a plan (`drawing`); shrinking takes things out of one. A plan is written as JSON,
`holloway.plan/1`, and read back equal. Not responsible for what a plan causes: that is `world`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from holloway.actors.config.model import MAX_QUEUES
from holloway.protocols.errors import LocalError
from holloway.protocols.floating_claims import MAX_PRIORITY
from holloway.protocols.session_config import MAX_KEEPALIVE_S, MIN_KEEPALIVE_S
from holloway.protocols.suites import AES_GCM, SUITES
from holloway.protocols.timers import Timers
from holloway.simulations.depth import Depth, obstacle
from holloway.simulations.dtls_plans import BACKENDS, dtls_problem
from holloway.simulations.errors import ScenarioError
from holloway.simulations.faults import HOLDER, KINDS, Fault, Scope
from holloway.simulations.identities import MAX_FLOATING
from holloway.simulations.milestones import SOMETIMES
from holloway.simulations.oracles import ACTORS_ONLY, AUTHORITY_ONLY, CONTROL_ONLY, EVENTUALLY, FLOATING_ONLY
from holloway.simulations.quantities import MAX_DURATION_NS, Quantity, is_within

SCHEMA = "holloway.plan/1"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,30}\Z")
"""Names of scenarios and nodes. They stand in traces and file names as they are."""
_FAULT_NAME = re.compile(r"[a-z_]{1,31}-[0-9.]{1,31}\Z")
MIN_INNER_BYTES = 64
MAX_INNER_BYTES = 1420
MAX_NODES = 2000
MAX_BURST = 128
MAX_PACKETS_A_SECOND = 100_000
MIN_LEASE_NS = 2 * 10**9
MAX_LEASE_NS = 3600 * 10**9
MIN_CLAIM_NS, MAX_CLAIM_NS = 10 * 10**9, 3600 * 10**9
TRUSTS: Mapping[str, str] = {
    "store": "whoever can write the registry is believed",
    "authority": "whoever has a certificate of the network's authority is believed",
}
WORKLOADS: Mapping[str, str] = {
    "ping": "each node asks each of its peers, who answers",
    "request": "each node asks each of its peers for `burst` packets, and asks again when it has them",
    "bulk": "each node sends bursts to each of its peers, who says nothing",
    "spoof": "each node sends packets with an inner address that is not its own",
    "rekey": "both ends of a session ask for new keys in the same moment",
    "call": "each node asks each floating address, and whoever has it answers",
    "churn": "`burst` nodes leave, or come back, until all come back for the calm",
    "jobs": "each operator asks for a job, on nodes that the seed draws",
    "files": "each operator puts a file, or gets one",
}
CONTROL_WORKLOADS = ("jobs", "files")
"""Those of a control plane, which has no others."""
CONTROL_FAULTS = (
    *("loss", "latency", "jitter", "duplicate", "reorder", "partition", "crash", "restart", "pause", "clock_jump"),
    *("clock_skew", "slow_reader", "job_flood", "operator_revoked", "hostile_node"),
)
"""What may befall one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What the programs on the nodes do. Sizes are bytes of inner packets. `ends`: the only pair that does it."""

    kind: str
    every_ns: int
    size_low: int = MIN_INNER_BYTES
    size_high: int = MIN_INNER_BYTES
    burst: int = 1
    ends: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FloatingPlan:
    """One floating address: the nodes that are configured for it, and the priority of each."""

    nodes: tuple[str, ...]
    priorities: tuple[int, ...]

    def only(self, nodes: frozenset[str]) -> FloatingPlan:
        """The same with these nodes alone."""
        kept = [(name, each) for name, each in zip(self.nodes, self.priorities, strict=True) if name in nodes]
        return FloatingPlan(nodes=tuple(name for name, _ in kept), priorities=tuple(each for _, each in kept))


@dataclass(frozen=True, slots=True, kw_only=True)
class Meeting:
    """The registry where nodes find each other: how long a record outlives its node, how long a call takes, and whom nodes
    believe: one of `TRUSTS`. `claim_ns`: how long the claim to an address does, 0 where addresses are configured; `rest_ns`: how long
    an address rests that was let go of.
    """

    lease_ns: int
    latency_low_ns: int
    latency_high_ns: int
    trust: str = "store"
    floating: tuple[FloatingPlan, ...] = ()
    claim_ns: int = 0
    rest_ns: int = 0

    @property
    def has_authority(self) -> bool:
        return self.trust == "authority"

    def only(self, nodes: Iterable[str]) -> Meeting:
        """The same with these nodes alone, and without the addresses that none of them may have."""
        kept = frozenset(nodes)
        floating = [each.only(kept) for each in self.floating]
        return replace(self, floating=tuple(each for each in floating if each.nodes))


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlPlane:
    """The nodes are the machines of a control plane: the first has the broker, these are of `operators`, the others have
    agents.
    """

    operators: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One run. Times are nanoseconds of virtual time; the last `calm_ns` of `duration_ns` have no fault.

    `depth`: how much of a node is real. `offloads`: hosts cut and join packets as kernels do, see `runs`. `pairs`: who is a peer of whom, each pair once: by configuration, or by the
    `registry` when there is one. `eventually`: by when after the last fault a property must hold.
    """

    scenario: str
    seed: int
    depth: str
    duration_ns: int
    calm_ns: int
    nodes: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]
    latency_low_ns: int
    latency_high_ns: int
    suite: str
    timers: Mapping[str, float]
    keepalive_s: float
    registry: Meeting | None
    workloads: tuple[Workload, ...]
    faults: tuple[Fault, ...]
    eventually: Mapping[str, int]
    sometimes: tuple[str, ...]
    offloads: bool = False
    queues: int = 1
    """Of the device and of the sockets of every node."""
    control: ControlPlane | None = None
    in_clear: tuple[str, ...] = ()
    """Nodes whose policy is `none`: two of them have plain text."""
    compressing: tuple[str, ...] = ()
    """Nodes that compress for each other."""
    backend: str = "session"
    """What nodes speak to each other: one of `BACKENDS`."""

    @property
    def is_dtls(self) -> bool:
        """Whether they speak DTLS."""
        return self.backend != "session"

    @property
    def healed_ns(self) -> int:
        """When the last fault is over."""
        return self.duration_ns - self.calm_ns


def actor_words(kinds: Iterable[str], eventually: Iterable[str], sometimes: Iterable[str]) -> list[str]:
    """Of the faults, promises and places, those that only whole nodes have."""
    return [
        *(kind for kind in kinds if kind in KINDS and KINDS[kind].needs_actors),
        *(name for name in eventually if name in ACTORS_ONLY),
        *(name for name in sometimes if name in SOMETIMES and SOMETIMES[name].needs_actors),
    ]


def registry_words(kinds: Iterable[str], eventually: Iterable[str], sometimes: Iterable[str]) -> list[str]:
    """Of the faults, promises and places, those that there are only with a registry."""
    return [
        *(kind for kind in kinds if kind in KINDS and KINDS[kind].scope is Scope.STORE),
        *(name for name in eventually if name in ACTORS_ONLY),
        *(name for name in sometimes if name in SOMETIMES and SOMETIMES[name].needs_registry),
    ]


def authority_words(kinds: Iterable[str], eventually: Iterable[str], sometimes: Iterable[str]) -> list[str]:
    """Of the faults, promises and places, those that there are only in a network with an authority."""
    return [
        *(kind for kind in kinds if kind in KINDS and KINDS[kind].needs_authority),
        *(name for name in eventually if name in AUTHORITY_ONLY),
        *(name for name in sometimes if name in SOMETIMES and SOMETIMES[name].needs_authority),
    ]


def claims_problem(meeting: Meeting | None, kinds: Iterable[str]) -> str | None:
    """What a plan whose addresses are claimed cannot have, or one whose are not, or None."""
    if meeting is None or not meeting.claim_ns:
        return "release: nobody claims an address" if "release" in kinds else None
    if meeting.has_authority or meeting.floating:
        return "addresses are claimed where the store is believed, and none floats"
    if not MIN_CLAIM_NS <= meeting.claim_ns <= MAX_CLAIM_NS or not 0 <= meeting.rest_ns <= MAX_CLAIM_NS:
        return "a claim lasts from 10s to 1h, and a rest up to 1h"
    return None


def floating_words(faults: Iterable[Fault], eventually: Iterable[str], sometimes: Iterable[str]) -> list[str]:
    """Of the faults, promises and places, those that there are only with a floating address."""
    return [
        *(fault.name for fault in faults if HOLDER in fault.nodes),
        *(name for name in eventually if name in FLOATING_ONLY),
        *(name for name in sometimes if name in SOMETIMES and SOMETIMES[name].needs_floating),
    ]


def control_problem(
    nodes: tuple[str, ...],
    control: ControlPlane | None,
    kinds: Iterable[str],
    workloads: Iterable[str],
    eventually: Iterable[str],
    sometimes: Iterable[str],
) -> str | None:
    """What a plan with a control plane cannot have, or one without, or None."""
    has = control is not None
    wrong = [
        *(
            kind
            for kind in kinds
            if kind in KINDS and (kind not in CONTROL_FAULTS if has else KINDS[kind].needs_control)
        ),
        *(kind for kind in workloads if kind in WORKLOADS and (kind in CONTROL_WORKLOADS) != has),
        *(name for name in eventually if (name in CONTROL_ONLY) != has),
        *(name for name in sometimes if name in SOMETIMES and SOMETIMES[name].needs_control != has),
    ]
    if wrong:
        return f"{', '.join(dict.fromkeys(wrong))}: {'not in' if has else 'only in'} a control plane"
    if control is None:
        return None
    if nodes[0] in control.operators or not all(name in nodes for name in control.operators):
        return "operators are nodes, and not the first, which has the broker"
    if not control.operators or len(dict.fromkeys(control.operators)) + 1 >= len(nodes):
        return "a control plane has an operator and an agent at least"
    return None


def packets_a_second(workloads: Iterable[Workload], pairs: int) -> float:
    """How many packets programs would send in each second of virtual time, answers left out."""
    return sum(each.burst * 2 * (1 if each.ends else pairs) * 1e9 / each.every_ns for each in workloads)


def to_json(plan: Plan) -> str:
    """The plan as JSON, one line."""
    return json.dumps({"schema": SCHEMA} | asdict(plan))


def to_document(plan: Plan) -> dict[str, Any]:
    """The plan as JSON values."""
    document = json.loads(to_json(plan))
    assert isinstance(document, dict)
    return document


def from_json(text: str, source: str) -> Plan:
    """A plan from JSON. Raises `ScenarioError` for what is no plan; `source` names the file in it."""
    try:
        document = json.loads(text)
        if not isinstance(document, dict) or document.pop("schema", None) != SCHEMA:
            raise ValueError(f"it does not say that it is {SCHEMA}")
        document["faults"] = tuple(_build(Fault, each) for each in document["faults"])
        document["workloads"] = tuple(_build(Workload, each) for each in document["workloads"])
        if document["registry"] is not None:
            found = document["registry"].get("floating", ())
            document["registry"]["floating"] = [_build(FloatingPlan, each) for each in found]
            document["registry"] = _build(Meeting, document["registry"])
        if document.get("control") is not None:
            document["control"] = _build(ControlPlane, document["control"])
        document["pairs"] = tuple((str(first), str(second)) for first, second in document["pairs"])
        plan: Plan = _build(Plan, document)
        _check(plan)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, LocalError) as error:
        raise ScenarioError(
            f"{source} is not a plan", str(error), "holloway simulate SCENARIO --shrink writes one"
        ) from error
    return plan


def _build(kind: type[Any], values: Mapping[str, Any]) -> Any:
    known = {field.name: str(field.type) for field in fields(kind)}
    read = {}
    for key, value in values.items():
        form = known.get(key)
        if form is None:
            raise ValueError(f"unknown key {key!r}")
        is_fit = {
            "int": type(value) is int and value >= 0,
            "str": isinstance(value, str),
            "bool": isinstance(value, bool),
            "float": type(value) in (int, float) and value >= 0,
            "tuple[str, ...]": isinstance(value, list) and all(isinstance(each, str) for each in value),
            "tuple[int, ...]": isinstance(value, list) and all(type(each) is int for each in value),
        }.get(form, isinstance(value, dict) if form.startswith("Mapping") else True)
        if not is_fit:
            raise ValueError(f"{key} is {value!r}")
        read[key] = tuple(value) if isinstance(value, list) else value
    return kind(**read)


def _check(plan: Plan) -> None:
    """What a scenario cannot get wrong any more. Raises `ValueError` or `LocalError`."""
    Timers(**plan.timers)
    reason = obstacle(
        Depth(plan.depth),
        nodes=len(plan.nodes),
        has_registry=plan.registry is not None and not plan.registry.floating,
        has_drift=any(fault.values.get("drift") for fault in plan.faults),
        has_control=plan.control is not None,
        actor_words=actor_words((fault.kind for fault in plan.faults), plan.eventually, plan.sometimes),
        has_compression=bool(plan.compressing),
        has_dtls=plan.is_dtls,
        has_queues=plan.queues != 1,
    )
    _require(type(plan.queues) is int and 1 <= plan.queues <= MAX_QUEUES, f"{plan.queues!r} queues"[:100])
    _require(reason is None, str(reason))
    _require(plan.backend in BACKENDS, f"unknown backend {plan.backend!r}")
    reason = dtls_problem(
        plan.backend,
        suite=plan.suite,
        has_terms=bool(plan.in_clear + plan.compressing),
        has_registry=plan.registry is not None,
        has_control=plan.control is not None,
        kinds=[fault.kind for fault in plan.faults],
        eventually=plan.eventually,
        sometimes=plan.sometimes,
    )
    _require(reason is None, str(reason))
    reason = control_problem(
        plan.nodes,
        plan.control,
        [fault.kind for fault in plan.faults],
        [workload.kind for workload in plan.workloads],
        plan.eventually,
        plan.sometimes,
    )
    _require(reason is None, str(reason))
    words = registry_words((fault.kind for fault in plan.faults), plan.eventually, plan.sometimes)
    _require(plan.registry is not None or not words, f"{', '.join(words)} without a registry")
    words = authority_words((fault.kind for fault in plan.faults), plan.eventually, plan.sometimes)
    has_authority = plan.registry is not None and plan.registry.has_authority
    _require(has_authority or not words, f"{', '.join(words)} without an authority")
    if plan.registry is not None:
        _require(plan.keepalive_s == 0, "a keepalive for peers that are found in a registry")
        _require(plan.registry.trust in TRUSTS, f"unknown trust {plan.registry.trust!r}")
        _require(MIN_LEASE_NS <= plan.registry.lease_ns <= MAX_LEASE_NS, "a wrong lease")
        _require(
            plan.registry.latency_low_ns <= plan.registry.latency_high_ns <= MAX_DURATION_NS,
            "a wrong latency of the registry",
        )
        _require(len(plan.pairs) == len(plan.nodes) * (len(plan.nodes) - 1) // 2, "a registry makes everybody peers")
        _check_floating(plan.registry, plan.nodes)
    reason = claims_problem(plan.registry, [fault.kind for fault in plan.faults])
    _require(reason is None, str(reason))
    words = floating_words(plan.faults, plan.eventually, plan.sometimes)
    _require(
        not words or (plan.registry is not None and bool(plan.registry.floating)), f"{', '.join(words)}: nothing floats"
    )
    _require(plan.suite in SUITES, f"unknown suite {plan.suite!r}")
    _require(plan.keepalive_s == 0 or MIN_KEEPALIVE_S <= plan.keepalive_s <= MAX_KEEPALIVE_S, "a wrong keepalive_s")
    _require(plan.latency_low_ns <= plan.latency_high_ns <= MAX_DURATION_NS, "a wrong latency")
    _require(0 < plan.calm_ns <= plan.duration_ns <= MAX_DURATION_NS, "a wrong duration")
    _require(2 <= len(plan.nodes) <= MAX_NODES, f"{len(plan.nodes)} nodes")
    _require(
        all(NAME.match(name) for name in (plan.scenario, *plan.nodes)), "a name with other characters than names have"
    )
    known = dict.fromkeys(plan.nodes)
    _require(len(known) == len(plan.nodes), "a node twice")
    _require(len({fault.name for fault in plan.faults}) == len(plan.faults), "a fault twice")
    _require(all(name in known for name in plan.in_clear + plan.compressing), "a node that offers, and is none")
    _require(plan.suite == AES_GCM.name or not plan.in_clear + plan.compressing, "terms in a suite without any")
    seen: dict[tuple[str, str], None] = {}
    for first, second in plan.pairs:
        _require(first in known and second in known and first != second, f"a wrong pair {first}, {second}")
        _require((first, second) not in seen and (second, first) not in seen, f"the pair {first}, {second} twice")
        seen[first, second] = None
    for workload in plan.workloads:
        _require(workload.kind in WORKLOADS, f"unknown workload {workload.kind!r}")
        _require(is_within(workload.every_ns, Quantity.PAUSE) and 1 <= workload.burst <= MAX_BURST, "a wrong workload")
        _require(MIN_INNER_BYTES <= workload.size_low <= workload.size_high <= MAX_INNER_BYTES, "a wrong size")
        _require(not workload.ends or len(workload.ends) == 2, "ends that are no pair")
    rate = packets_a_second(plan.workloads, len(plan.pairs))
    _require(rate <= MAX_PACKETS_A_SECOND, f"{rate:.0f} packets a second, {MAX_PACKETS_A_SECOND} are allowed")
    for fault in plan.faults:
        kind = KINDS.get(fault.kind)
        _require(kind is not None, f"unknown fault {fault.kind!r}")
        assert kind is not None
        _require(_FAULT_NAME.match(fault.name) is not None, f"a fault called {fault.name!r}")
        _require(fault.at_ns <= fault.until_ns <= plan.healed_ns, f"{fault.name} outside its time")
        _require(
            fault.nodes == (HOLDER,) or all(node in known for node in fault.nodes + fault.between),
            f"{fault.name} befalls nobody",
        )
        _require(len(fault.between) in (0, 2), f"{fault.name} between {len(fault.between)} nodes")
        _require(kind.scope is not Scope.NODES or len(fault.nodes) > 0, f"{fault.name} befalls nobody")
        names = [parameter.name for parameter in kind.parameters]
        _require(sorted(names) == sorted(fault.values), f"{fault.name} has other values than {names}")
        for parameter in kind.parameters:
            value = fault.values[parameter.name]
            _require(is_within(value, parameter.quantity), f"{fault.name}: {parameter.name} is {value!r}"[:200])
    for name, within in plan.eventually.items():
        _require(name in EVENTUALLY and type(within) is int and 0 < within <= plan.calm_ns, f"a wrong bound for {name}")
    for name in plan.sometimes:
        _require(name in SOMETIMES, f"unknown property {name!r}")


def _check_floating(meeting: Meeting, nodes: tuple[str, ...]) -> None:
    _require(len(meeting.floating) <= MAX_FLOATING, "too many floating addresses")
    _require(not meeting.floating or not meeting.has_authority, "floating addresses in a network with an authority")
    for each in meeting.floating:
        _require(0 < len(each.nodes) == len(each.priorities), "as many priorities as nodes")
        _require(all(name in nodes for name in each.nodes), "a floating address of nobody")
        _require(all(0 <= priority <= MAX_PRIORITY for priority in each.priorities), "a wrong priority")


def _require(is_so: bool, otherwise: str) -> None:
    if not is_so:
        raise ValueError(otherwise)
