"""Writes the report: one HTML file with the run, the style and the script in it, which opens with the network off.

The page's policy forbids every resource, and every script and style but the two it carries, by their hashes. The run is
JSON in an element that is no script; no text of it can end that element, and the script sets texts, never markup. The same
plan and lines give the same bytes. Not responsible for what of a long trace is kept (`excerpt`).
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from importlib.resources import files
from typing import IO, TYPE_CHECKING, Any

from holloway.simulations.faults import KINDS, Fault
from holloway.simulations.plan import Plan
from holloway.simulations.quantities import Quantity, Value, seconds
from holloway.simulations.report.excerpt import TRAFFIC_LINES, Excerpt, Extent, Line, take_excerpt

if TYPE_CHECKING:
    from holloway.simulations.run import Failure

SCRIPTS = ("data.js", "arrows.js", "draw.js", "panels.js", "page.js")
_PLACE = re.compile(r"\{\{(\w+)\}\}")


def write_report(
    file: IO[str],
    plan: Plan,
    lines: Iterable[str],
    *,
    replay: str,
    verdict: str,
    failure: Failure | None,
    traffic: int = TRAFFIC_LINES,
) -> Extent:
    """Write the page of a run of `plan` to `file`, as ASCII, and say how much of the trace it holds.

    `lines` are those of the trace, as JSON. `replay`: the command that shows the run again. `verdict`: what came of it, in
    a few words, `failure` when something broke. `traffic`: how many lines about datagrams and packets the page may hold;
    it says when there were more.
    """
    excerpt = take_excerpt(lines, traffic=traffic)
    run = {
        "replay": replay,
        "verdict": verdict,
        "failure": None
        if failure is None
        else {"property": failure.property, "message": failure.message, "at_ns": failure.at_ns},
        "plan": _plan(plan),
        "faults": [_fault(fault) for fault in plan.faults],
        "extent": asdict(excerpt.extent),
        "gaps": [{"from": gap.from_ns, "to": gap.until_ns} for gap in excerpt.gaps],
        "before": _counts(excerpt),
        "lines": _columns(excerpt.lines),
    }
    script = '"use strict";\n(() => {\n' + "\n".join(_part(name) for name in SCRIPTS) + "})();\n"
    style = _part("page.css")
    parts = {
        "policy": f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; base-uri 'none'; "
        "form-action 'none'; require-trusted-types-for 'script'",
        "title": html.escape(f"{plan.scenario}, seed {plan.seed}: {verdict}")
        .encode("ascii", "xmlcharrefreplace")
        .decode(),
        "style": style,
        "script": script,
        "run": embedded_json(run),
    }
    file.write(_PLACE.sub(lambda place: parts[place[1]], _part("page.html")))
    return excerpt.extent


def embedded_json(value: Any) -> str:
    """JSON in ASCII that nothing in it can take out of the element of a page that holds it."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _part(name: str) -> str:
    return (files("holloway.simulations.report") / name).read_text("utf-8")


def _hash(text: str) -> str:
    """How a policy names an inline element with this text (CSP level 3, section 2.3.1)."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _plan(plan: Plan) -> dict[str, Any]:
    return {
        "scenario": plan.scenario,
        "seed": plan.seed,
        "duration_ns": plan.duration_ns,
        "healed_ns": plan.healed_ns,
        "latency_low_ns": plan.latency_low_ns,
        "latency_high_ns": plan.latency_high_ns,
        "depth": plan.depth,
        "suite": plan.suite,
        "nodes": plan.nodes,
        "pairs": plan.pairs,
    }


def _fault(fault: Fault) -> dict[str, Any]:
    """What the trace does not say of a fault: whether it is over at once, and its values."""
    kind = KINDS.get(fault.kind)
    measures = {} if kind is None else {each.name: each.quantity for each in kind.parameters}
    words = [f"{name} {_shown(value, measures.get(name))}" for name, value in sorted(fault.values.items())]
    if fault.one_way:
        words.append("one way")
    return {
        "name": fault.name,
        "is_moment": kind is not None and not kind.has_end,
        "values": ", ".join(words),
    }


def _shown(value: Value, measure: Quantity | None) -> str:
    match measure:
        case Quantity.DURATION | Quantity.OFFSET:
            return seconds(value)
        case Quantity.RATE:
            return f"{value / 1000:.6g} kbit/s"
        case _:
            return f"{value:.6g}"


def _counts(excerpt: Excerpt) -> dict[str, list[int]]:
    return {node: excerpt.before[node] for node in sorted(excerpt.before)}


def _columns(lines: Sequence[Line]) -> dict[str, list[Any]]:
    """The lines, column by column: times and numbers as differences, texts as places in `names`."""
    names: dict[str, int] = {}
    texts: dict[str, list[int]] = {"kind": [], "node": [], "peer": [], "what": []}
    columns: dict[str, list[Any]] = {"t": [], "seq": [], "cause": [], "size": [], **texts}
    before_ns = before_seq = 0
    for line in lines:
        columns["t"].append(line.at_ns - before_ns)
        columns["seq"].append(line.seq - before_seq)
        columns["cause"].append(line.seq - line.cause if line.cause else 0)
        columns["size"].append(line.size)
        for column, text in zip(texts.values(), (line.kind, line.node, line.peer, line.what), strict=True):
            column.append(names.setdefault(text, len(names)))
        before_ns, before_seq = line.at_ns, line.seq
    columns["names"] = list(names)
    return columns
