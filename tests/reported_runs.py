"""Runs for tests of reports: played ones and told ones, their pages, and what their traces say, worked out in Python.

Not responsible for looking at a page: that is `browser`.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from holloway.simulations.drawing import draw_plan
from holloway.simulations.faults import Fault
from holloway.simulations.plan import Plan
from holloway.simulations.report import Extent, write_report
from holloway.simulations.report.excerpt import TRAFFIC_LINES
from holloway.simulations.run import Failure, run_plan
from holloway.simulations.scenario import load_scenario
from holloway.simulations.trace import Trace

REPLAY = "holloway simulate 'my scenario.toml' --seed 3"
S = 10**9

HOSTILE = "</script><script>alert(1)</script><!-- <img src=https://example.com/x onerror=alert(2)> &lt; \u2028"


@dataclass(frozen=True)
class Played:
    """A run: its plan, the lines of its trace as text and read."""

    plan: Plan
    text: str
    lines: list[dict[str, Any]]


def play(name: str, seed: int) -> Played:
    """A run of a shipped scenario that holds."""
    plan = draw_plan(load_scenario(name), seed)
    file = io.StringIO()
    assert run_plan(plan, trace=Trace(file)).failure is None
    return Played(plan, file.getvalue(), [json.loads(line) for line in file.getvalue().splitlines()])


def told(plan: Plan, *lines: tuple[float, str, str, str, int, str]) -> Played:
    """A trace by hand: (seconds, node, kind, peer, cause, what)."""
    read = [
        {
            "t": round(t * S),
            "seq": seq,
            "node": node,
            "kind": kind,
            "peer": peer,
            "size": 96,
            "cause": cause,
            "what": what,
        }
        for seq, (t, node, kind, peer, cause, what) in enumerate(lines, 1)
    ]
    return Played(plan, "".join(f"{json.dumps(line)}\n" for line in read), read)


def page_of(
    run: Played, *, failure: Failure | None = None, replay: str = REPLAY, traffic: int = TRAFFIC_LINES
) -> tuple[str, Extent]:
    """The page of a run, and how much of its trace it holds."""
    file = io.StringIO()
    verdict = "held" if failure is None else "safety broken"
    extent = write_report(
        file,
        run.plan,
        run.text.splitlines(),
        replay=replay,
        verdict=verdict,
        failure=failure,
        traffic=traffic,
    )
    return file.getvalue(), extent


def quiet_plan(*faults: Fault, nodes: tuple[str, ...] = ("a", "b")) -> Plan:
    """A plan of ten seconds in which nothing happens but what a told trace says; only the first two nodes are peers."""
    plan = draw_plan(load_scenario("rekey-under-loss"), 0)
    fields = {name: getattr(plan, name) for name in Plan.__slots__}
    return Plan(
        **{**fields, "nodes": nodes, "pairs": (nodes[:2],), "faults": faults, "duration_ns": 10 * S, "calm_ns": S}
    )


def fault(name: str, kind: str, at_s: int, until_s: int) -> Fault:
    """A fault that befalls node a."""
    return Fault(name=name, kind=kind, at_ns=at_s * S, until_ns=until_s * S, nodes=("a",), values={})


def crowd_run(nodes: int, datagrams: int) -> Played:
    """Nodes n0, n1 and so on, each of which sends to the next."""
    names = tuple(f"n{number}" for number in range(nodes))
    lines: list[tuple[float, str, str, str, int, str]] = []
    for number in range(datagrams):
        who, whom = names[number % nodes], names[(number + 1) % nodes]
        lines.append((number / datagrams * 9, who, "send", whom, 0, "data 0"))
        lines.append((number / datagrams * 9 + 0.001, whom, "arrive", who, len(lines), "data 0"))
    return told(quiet_plan(nodes=names), *lines)


def arrows_in(lines: Sequence[dict[str, Any]], start_ns: float, end_ns: float) -> dict[int, str]:
    """What the trace says was under way in a window: the place of the line that ends each datagram, and how it ended."""
    places = {line["seq"]: place for place, line in enumerate(lines)}
    ended: Counter[int] = Counter()
    found = {}
    for place, line in enumerate(lines):
        if line["kind"] in ("arrive", "lost"):
            ended[line["cause"]] += 1
            begin_ns = lines[places[line["cause"]]]["t"] if line["cause"] else line["t"]
            if begin_ns <= end_ns and line["t"] >= start_ns:
                found[place] = "lost" if line["kind"] == "lost" else "arrived" if line["cause"] else "uninvited"
    for place, line in enumerate(lines):
        if line["kind"] == "send" and not ended[line["seq"]] and start_ns <= line["t"] <= end_ns:
            found[place] = "flying"
    return found


def standing(run: Played, count: int) -> dict[str, list[str]]:
    """What the trace says of each node after `count` lines: the row of the table."""
    tallies: dict[str, Counter[str]] = {name: Counter() for name in run.plan.nodes}
    sessions: dict[str, dict[str, str]] = {name: {} for name in run.plan.nodes}
    away: dict[str, Counter[str]] = {name: Counter() for name in run.plan.nodes}
    first = {line["node"]: line for line in reversed(run.lines) if line["node"] in tallies}
    is_late = {
        name for name, line in first.items() if line["kind"] == "node" and line["what"] == "up" and line["t"] > 0
    }
    lives = dict.fromkeys(is_late, "not up yet")
    for line in run.lines[:count]:
        node, kind, what = line["node"], line["kind"], line["what"]
        if node in tallies:
            tallies[node][kind] += 1
        if kind == "state":
            sessions[node][line["peer"]] = what.replace("epoch ", "").lower()
        if kind == "node" and what.split(":")[0] in ("up", "killed", "left", "failed"):
            lives[node] = what
            if what != "up":
                sessions[node].clear()
        for whom in line["peer"].split() if kind in ("fault", "heal") else []:
            away[whom][what] += 1 if kind == "fault" else -1
            if kind == "fault" and what in ("crash", "restart"):
                sessions[whom].clear()
    table = {}
    for name in run.plan.nodes:
        paused = "paused" if away[name]["pause"] else "up"
        status = "down" if away[name]["crash"] else lives[name] if lives.get(name, "up") != "up" else paused
        counts = [str(tallies[name][kind]) for kind in ("send", "arrive", "lost", "deliver")]
        table[name] = [status, *counts, " ".join(f"{peer}: {how}" for peer, how in sorted(sessions[name].items()))]
    return table


def lines_before(run: Played, at_ns: float) -> int:
    return sum(line["t"] <= at_ns for line in run.lines)
