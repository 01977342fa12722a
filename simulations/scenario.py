"""Scenarios: a network, what is done on it, what befalls it, and what must come of it. TOML, version 1, read strictly.

The format is in docs/simulation.md. Values may be ranges, of which each seed draws its own (`drawing`). Not responsible for
the reading of single values (`tables`, `quantities`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from holloway.actors.config.model import MAX_QUEUES
from holloway.protocols.errors import LocalError
from holloway.protocols.session_config import MAX_KEEPALIVE_S, MIN_KEEPALIVE_S
from holloway.protocols.suites import AES_GCM, SUITES
from holloway.protocols.timers import Timers
from holloway.simulations.depth import Depth, obstacle
from holloway.simulations.dtls_plans import BACKENDS, dtls_problem
from holloway.simulations.errors import ScenarioError
from holloway.simulations.faults import HOLDER, KINDS, Scope
from holloway.simulations.milestones import SOMETIMES
from holloway.simulations.oracles import EVENTUALLY
from holloway.simulations.plan import (
    MAX_BURST,
    MAX_INNER_BYTES,
    MAX_NODES,
    MAX_PACKETS_A_SECOND,
    MIN_INNER_BYTES,
    NAME,
    WORKLOADS,
    ControlPlane,
    Meeting,
    Workload,
    actor_words,
    authority_words,
    claims_problem,
    control_problem,
    floating_words,
    packets_a_second,
    registry_words,
)
from holloway.simulations.quantities import Quantity, Range, WrongValueError
from holloway.simulations.scenario_registry import read_registry
from holloway.simulations.tables import Table, read_table

VERSION = 1
MAX_SEEDS = 1_000_000
MAX_FAULT_TIMES = 1000
_SHAPES = {
    "mesh": "every node with every other",
    "ring": "each node with the next `degree`",
    "star": "all with the first",
}
_TIMERS = {
    "rekey_after": "rekey_after_s",
    "reject_after": "reject_after_s",
    "rekey_attempt": "rekey_attempt_s",
    "rekey_timeout": "rekey_timeout_s",
    "keepalive_timeout": "keepalive_timeout_s",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultTable:
    """One `[[fault]]`: it happens `times` times, each time with values of its own."""

    name: str
    kind: str
    at: Range
    lasts: Range | None
    times: Range
    nodes: tuple[str, ...]
    between: tuple[str, ...]
    one_way: bool
    values: Mapping[str, Range]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A scenario as it was read. `source` is what the user called it; times are nanoseconds."""

    source: str
    name: str
    purpose: str
    seeds: tuple[int, int]
    duration_ns: int
    calm_ns: int
    nodes: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]
    latency: Range
    suite: str
    timers: Mapping[str, float]
    keepalive_s: float
    registry: Meeting | None
    control: ControlPlane | None
    offloads: bool
    backend: str
    queues: int
    in_clear: tuple[str, ...]
    compressing: tuple[str, ...]
    workloads: tuple[Workload, ...]
    faults: tuple[FaultTable, ...]
    swarm: tuple[str, ...]
    eventually: Mapping[str, int]
    sometimes: tuple[str, ...]

    def obstacle(self, depth: Depth) -> str | None:
        """Why this scenario cannot run at `depth`, or `None`."""
        drifts = [table.values["drift"] for table in self.faults if "drift" in table.values]
        return obstacle(
            depth,
            nodes=len(self.nodes),
            has_registry=self.registry is not None and not self.registry.floating,
            has_drift=any(drift.low or drift.high for drift in drifts),
            has_control=self.control is not None,
            actor_words=actor_words((table.kind for table in self.faults), self.eventually, self.sometimes),
            has_compression=bool(self.compressing),
            has_dtls=self.backend != "session",
            has_queues=self.queues > 1,
        )

    @property
    def depths(self) -> tuple[Depth, ...]:
        """The depths it can run at, the preferred one first."""
        return tuple(depth for depth in Depth if self.obstacle(depth) is None)

    def check_depth(self, depth: Depth | None) -> Depth:
        """The depth that is asked for, or the preferred one. Raises `ScenarioError` when it cannot be."""
        wanted = depth or next(iter(self.depths), Depth.HEAP)
        reason = self.obstacle(wanted)
        if reason is None:
            return wanted
        can = " or ".join(f"--depth {each.value}" for each in self.depths)
        raise ScenarioError(
            f"{self.source} cannot run at --depth {wanted.value}", reason, f"use {can}" if can else "split the scenario"
        )


def shipped() -> list[str]:
    """The names of the scenarios that come with Holloway."""
    folder = files("holloway.simulations") / "scenarios"
    return sorted(each.name.removesuffix(".toml") for each in folder.iterdir() if each.name.endswith(".toml"))


def load_scenario(name: str) -> Scenario:
    """A shipped scenario by its name, or a file. Raises `ScenarioError`."""
    names = shipped()
    if name in names:
        text = (files("holloway.simulations") / "scenarios" / f"{name}.toml").read_text("utf-8")
        return read_scenario(text, name)
    try:
        return read_scenario(Path(name).read_text("utf-8"), name)
    except FileNotFoundError:
        import difflib

        near = difflib.get_close_matches(name, names, n=1)
        fix = f"holloway simulate {near[0]}" if near else "holloway simulate list"
        raise ScenarioError(f"there is no scenario {name}", "no shipped one has this name, and no file", fix) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ScenarioError(f"cannot read the scenario {name}", str(error), "name a TOML file") from error


def read_seeds(text: str) -> tuple[int, int]:
    """`A..B`, both included, or one number. Raises `WrongValueError`."""
    match = re.fullmatch(r"([0-9]{1,18})(?:\.\.([0-9]{1,18}))?", text)
    if match is None:
        raise WrongValueError(f'seeds are written "A..B", as in "0..999", not {text!r}')
    first = int(match[1])
    last = first if match[2] is None else int(match[2])
    if not first <= last < first + MAX_SEEDS:
        raise WrongValueError(f"{text!r} is no range of 1 to {MAX_SEEDS} seeds")
    return first, last


def read_scenario(text: str, source: str) -> Scenario:
    """A scenario from TOML. Raises `ScenarioError` that names `source` and the line."""
    top = read_table(text, source)
    version = top.take("version", lambda value: value)
    if version != VERSION or isinstance(version, bool):
        top.refuse("version", f"version {version!r} is not known here", f"write version = {VERSION}")
    duration_ns = int(top.value("duration", Quantity.DURATION))
    calm_ns = int(top.value("calm", Quantity.DURATION))
    if not 0 < calm_ns <= duration_ns:
        top.refuse("calm", "the calm is the last part of the duration", "make it shorter than the duration")
    nodes, pairs, latency = _topology(top.table("topology"))
    suite, timers, keepalive_s = _session(top.table("session"))
    registry = None
    if "registry" in top.keys:
        registry = read_registry(top.table("registry"), nodes)
        if len(pairs) != len(nodes) * (len(nodes) - 1) // 2:
            top.refuse("topology", "a registry makes everybody a peer of everybody", "use a mesh")
        if suite != "aes-gcm" or keepalive_s:
            top.refuse(
                "session", "peers that are found in a registry have suite aes-gcm and no keepalive", "remove them"
            )
    else:
        top.table("registry")
    control = None
    if "control" in top.keys:
        table = top.table("control")
        control = ControlPlane(operators=table.texts("operators", dict.fromkeys(nodes)))
        table.finish()
        if registry is not None:
            top.refuse("control", "a control plane has no registry", "remove one of them")
    else:
        top.table("control")
    healed_ns = duration_ns - calm_ns
    faults = tuple(_fault(table, number, nodes, healed_ns) for number, table in enumerate(top.tables("fault"), 1))
    in_clear, compressing = _security(top.table("security"), nodes)
    if suite != AES_GCM.name and in_clear + compressing:
        top.refuse("security", f"in the suite {suite} nothing is agreed on", "use aes-gcm")
    offloads, backend, queues = _network(top.table("network"))
    swarm = top.table("swarm")
    expect = top.table("expect")
    scenario = Scenario(
        source=source,
        name=top.take("name", _name),
        purpose=top.text("purpose"),
        seeds=top.take("seeds", lambda value: read_seeds(str(value)), (0, 19)),
        duration_ns=duration_ns,
        calm_ns=calm_ns,
        nodes=nodes,
        pairs=pairs,
        latency=latency,
        suite=suite,
        timers=timers,
        keepalive_s=keepalive_s,
        registry=registry,
        control=control,
        offloads=offloads,
        backend=backend,
        queues=queues,
        in_clear=in_clear,
        compressing=compressing,
        workloads=tuple(_workload(table, nodes) for table in top.tables("workload")),
        faults=faults,
        swarm=swarm.texts("kinds", {fault.kind: None for fault in faults}, ()),
        eventually=_eventually(expect.table("eventually"), calm_ns),
        sometimes=expect.texts("sometimes", SOMETIMES, ()),
    )
    for table in (swarm, expect, top):
        table.finish()
    for ends in [fault.between for fault in faults] + [each.ends for each in scenario.workloads]:
        if ends and ends not in pairs and ends[::-1] not in pairs:
            top.refuse("topology", f"{ends[0]} and {ends[1]}, named by between, are no peers", "name two that are")
    words = registry_words((fault.kind for fault in faults), scenario.eventually, scenario.sometimes)
    if registry is None and words:
        top.refuse(None, f"{', '.join(dict.fromkeys(words))}: only with a registry", "add a table [registry]")
    reason = claims_problem(registry, [fault.kind for fault in faults])
    if reason is not None:
        top.refuse("registry" if registry is not None else None, reason, 'write claim = "30s" in [registry], or not')
    words = authority_words((fault.kind for fault in faults), scenario.eventually, scenario.sometimes)
    if words and not (registry is not None and registry.has_authority):
        what = f"{', '.join(dict.fromkeys(words))}: only in a network with an authority"
        top.refuse("registry" if registry is not None else None, what, 'write trust = "authority" in [registry]')
    words = ['nodes = "holder"' for fault in faults if fault.nodes == (HOLDER,)]
    words += floating_words((), scenario.eventually, scenario.sometimes)
    words += [each.kind for each in scenario.workloads if each.kind == "call"]
    if words and not (registry is not None and registry.floating):
        what = f"{', '.join(dict.fromkeys(words))}: only with a floating address"
        top.refuse("registry" if registry is not None else None, what, "add a table [[registry.floating]]")
    problem = control_problem(
        nodes,
        control,
        [fault.kind for fault in faults],
        [workload.kind for workload in scenario.workloads],
        scenario.eventually,
        scenario.sometimes,
    )
    if problem is not None:
        top.refuse("control" if control is not None else None, problem, "see docs/simulation.md")
    problem = dtls_problem(
        backend,
        suite=suite,
        has_terms=bool(in_clear + compressing),
        has_registry=registry is not None,
        has_control=control is not None,
        kinds=[fault.kind for fault in faults],
        eventually=scenario.eventually,
        sometimes=scenario.sometimes,
    )
    if problem is not None:
        top.refuse("network" if scenario.backend != "session" else None, problem, "see docs/simulation.md")
    rate = packets_a_second(scenario.workloads, len(pairs))
    if rate > MAX_PACKETS_A_SECOND:
        top.refuse(
            "workload", f"{rate:.0f} packets a second of virtual time, {MAX_PACKETS_A_SECOND} are allowed", "send fewer"
        )
    return scenario


def _topology(table: Table) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...], Range]:
    nodes = table.take("nodes", _nodes)
    shape = table.choice("shape", _SHAPES, "mesh")
    if shape != "ring" and "degree" in table.keys:
        table.refuse("degree", "only a ring has a degree", "remove it, or use a ring")
    degree = int(table.value("degree", Quantity.COUNT, "1"))
    latency = table.range("latency", Quantity.DURATION, "5ms..50ms")
    table.finish()
    count = len(nodes)
    match shape:
        case "mesh":
            numbers = [(first, second) for first in range(count) for second in range(first + 1, count)]
        case "star":
            numbers = [(0, second) for second in range(1, count)]
        case _:
            if degree * 2 >= count > 2:
                table.refuse("degree", f"{degree} on each side need more than {count} nodes", "use a mesh")
            steps = [(first, (first + step) % count) for first in range(count) for step in range(1, degree + 1)]
            numbers = list(dict.fromkeys((min(pair), max(pair)) for pair in steps))
    return nodes, tuple((nodes[first], nodes[second]) for first, second in numbers), latency


def _network(table: Table) -> tuple[bool, str, int]:
    """Whether there are offloads, what nodes speak, and how many queues each has."""
    offloads = table.flag("offloads")
    backend = table.choice("backend", BACKENDS, "session")
    queues = int(table.value("queues", Quantity.COUNT, "1"))
    table.finish()
    if not 1 <= queues <= MAX_QUEUES:
        table.refuse("queues", f"a node has 1 to {MAX_QUEUES} queues", "change queues")
    return offloads, backend, queues


def _security(table: Table, nodes: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The nodes that ask for plain text, and those that compress."""
    nobody: tuple[str, ...] = ()
    in_clear = table.take("none", lambda value: _some(value, nodes), nobody)
    compressing = table.take("compression", lambda value: _some(value, nodes), nobody)
    table.finish()
    if HOLDER in in_clear + compressing:
        table.refuse(None, "who holds an address changes, and an offer does not", "name the nodes")
    return in_clear, compressing


def _session(table: Table) -> tuple[str, dict[str, float], float]:
    suite = table.choice("suite", SUITES, "aes-gcm")
    standard = Timers()
    timers = {
        field: int(table.value(key, Quantity.DURATION, f"{getattr(standard, field):.0f}s")) / 1e9
        for key, field in _TIMERS.items()
    }
    keepalive_s = int(table.value("keepalive", Quantity.DURATION, "0s")) / 1e9
    table.finish()
    if keepalive_s and not MIN_KEEPALIVE_S <= keepalive_s <= MAX_KEEPALIVE_S:
        table.refuse("keepalive", f"it is 0s for none, or {MIN_KEEPALIVE_S:g}s and more", "change keepalive")
    try:
        Timers(**timers)
    except LocalError as error:
        table.refuse(None, str(error), error.fix or "change the durations")
    return suite, timers, keepalive_s


def _workload(table: Table, nodes: tuple[str, ...]) -> Workload:
    kind = table.choice("kind", WORKLOADS)
    every_ns = int(table.value("every", Quantity.PAUSE))
    size = table.range("size", Quantity.COUNT, str(MIN_INNER_BYTES))
    burst = int(table.value("burst", Quantity.COUNT, "1"))
    ends = _between(table, nodes) if kind != "churn" else ()
    table.finish()
    if not MIN_INNER_BYTES <= size.low <= size.high <= MAX_INNER_BYTES:
        table.refuse("size", f"inner packets have {MIN_INNER_BYTES} to {MAX_INNER_BYTES} bytes", "change size")
    if burst > MAX_BURST:
        table.refuse("burst", f"a burst has {MAX_BURST} packets at most", "change burst")
    return Workload(
        kind=kind, every_ns=every_ns, size_low=int(size.low), size_high=int(size.high), burst=burst, ends=ends
    )


def _fault(table: Table, number: int, nodes: tuple[str, ...], healed_ns: int) -> FaultTable:
    name = table.choice("kind", KINDS)
    kind = KINDS[name]
    is_links = kind.scope is Scope.LINKS
    is_sided = "side" in table.keys
    times = table.range("times", Quantity.COUNT, "1")
    if times.high > MAX_FAULT_TIMES:
        table.refuse("times", f"a fault comes {MAX_FAULT_TIMES} times at most", "change times")
    fault = FaultTable(
        name=f"{name}-{number}",
        kind=name,
        at=table.range("at", Quantity.DURATION, "0s"),
        lasts=table.range("for", Quantity.DURATION) if kind.has_end and "for" in table.keys else None,
        times=times,
        nodes=table.take("nodes", lambda value: _some(value, nodes), ()),
        between=_between(table, nodes) if is_links else (),
        one_way=table.flag("one_way") if is_links else False,
        values={each.name: table.range(each.name, each.quantity, each.default) for each in kind.parameters},
    )
    table.finish()
    if fault.nodes and fault.between:
        table.refuse("between", "nodes and between exclude each other", "remove one of them")
    if fault.at.high >= healed_ns:
        table.refuse(
            "at", "it would begin in the calm, where there is no fault", "let it begin sooner, or shorten the calm"
        )
    side = fault.values.get("side")
    if side is not None and (is_sided and fault.nodes):
        table.refuse("side", "side and nodes exclude each other", "remove one of them")
    if side is not None and (side.high >= len(nodes) or len(fault.nodes) == len(nodes)):
        table.refuse(
            "side", f"nobody of {len(nodes)} nodes is left on the other side", "leave a node on the other side"
        )
    return fault


def _eventually(table: Table, calm_ns: int) -> dict[str, int]:
    bounds = {}
    for name in EVENTUALLY:
        if name in table.keys:
            bounds[name] = int(table.value(name, Quantity.DURATION))
            if not 0 < bounds[name] <= calm_ns:
                table.refuse(name, "the bound must lie within the calm", "make the calm longer, or the bound shorter")
        else:
            table.take(name, int, -1)
    table.finish()
    return bounds


def _between(table: Table, nodes: tuple[str, ...]) -> tuple[str, ...]:
    ends = table.texts("between", dict.fromkeys(nodes), ())
    if len(ends) not in (0, 2):
        table.refuse("between", f"{len(ends)} nodes are no pair", "name two nodes")
    return ends


def _nodes(value: object) -> tuple[str, ...]:
    if isinstance(value, list):
        names = tuple(_name(each) for each in value)
    elif isinstance(value, int) and not isinstance(value, bool) and value <= MAX_NODES:
        names = tuple(f"n{number}" for number in range(1, value + 1))
    else:
        raise WrongValueError(f"expected names, or a number up to {MAX_NODES}")
    if not 2 <= len(dict.fromkeys(names)) == len(names) <= MAX_NODES:
        raise WrongValueError(f"a network has 2 to {MAX_NODES} nodes, each with a name of its own")
    return names


def _some(value: object, nodes: tuple[str, ...]) -> tuple[str, ...]:
    if value == "all":
        return nodes
    if value == "holder":
        return (HOLDER,)
    if not isinstance(value, list) or not value:
        raise WrongValueError('expected a list of nodes, "all", or "holder"')
    for each in value:
        if each not in nodes:
            raise WrongValueError(f"there is no node {each!r}; the nodes are {', '.join(nodes[:20])}")
    return tuple(str(each) for each in dict.fromkeys(value))


def _name(value: object) -> str:
    if not isinstance(value, str) or not NAME.match(value):
        raise WrongValueError(f"{value!r} is no name: up to 31 letters, digits and dashes")
    return value
