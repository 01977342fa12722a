"""Draws a result of `./run bench` as one SVG of horizontal bars. Pure: the same result gives the same bytes.

Self-contained: its own background, the reader's system font, colours for a light and a dark page by media query. The bare
wire is told in words, for on its scale every overlay would look alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from xml.sax.saxutils import escape

from metrics import METRICS, Metric
from summary import CEILING
from table import number

OWN = "holloway"
TITLE = "Holloway beside other overlay networks on one machine"
TIMES = "\N{MULTIPLICATION SIGN}"
PANELS = ("tcp1_gbit", "cpu_s_per_gb", "udp64_kpps", "rtt_idle_ms", "rtt_loaded_ms", "rss_mb")
COLUMNS = 2
MARGIN, GAP = 24, 28
PANEL_WIDTH, LABEL_WIDTH, VALUE_WIDTH = 480, 212, 108
BAR_ROOM = PANEL_WIDTH - LABEL_WIDTH - VALUE_WIDTH
ROW, BAR, HEAD = 21, 12, 46
INTRODUCTION, FOOT = 62, 34
WIDTH = 2 * MARGIN + COLUMNS * PANEL_WIDTH + (COLUMNS - 1) * GAP

STYLE = """
text{font-family:ui-sans-serif,system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;font-size:12px}
.page{fill:#ffffff;stroke:#d0d7de}.ink{fill:#1f2328}.soft{fill:#59636e}.head{font-size:13px;font-weight:600}
.title{font-size:17px;font-weight:600}.own{fill:#0969da}.peer{fill:#afb8c1}
.spread{stroke:#1f2328;stroke-opacity:.55}.axis{stroke:#d0d7de}.small{font-size:11px}
@media (prefers-color-scheme:dark){.page{fill:#0d1117;stroke:#3d444d}.ink{fill:#f0f6fc}.soft{fill:#9198a1}
.own{fill:#4493f8}.peer{fill:#545d68}.spread{stroke:#f0f6fc}.axis{stroke:#3d444d}}
"""


def draw(result: Mapping[str, Any]) -> str:
    """The SVG document, with a line break at its end. Metrics that nothing has get no panel."""
    panels = [
        METRICS[key] for key in PANELS if any(row[key] is not None for row in bars(result, METRICS[key]).values())
    ]
    tall = HEAD + ROW * max((len(bars(result, metric)) for metric in panels), default=0)
    rows = -(-len(panels) // COLUMNS)
    height = INTRODUCTION + rows * tall + max(0, rows - 1) * GAP + FOOT + MARGIN
    head = (
        '<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-labelledby="title" '
        f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">'
    )
    lines = [
        head,
        f'<title id="title">{escape("Holloway beside other overlay networks on one machine")}</title>',
        f"<style>{STYLE}</style>",
        f'<rect class="page" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="8"/>',
        text(MARGIN, 32, TITLE, "title ink"),
        text(MARGIN, 51, explanation(result), "soft"),
    ]
    for place, metric in enumerate(panels):
        left = MARGIN + place % COLUMNS * (PANEL_WIDTH + GAP)
        lines += panel(result, metric, left, INTRODUCTION + place // COLUMNS * (tall + GAP))
    lines += [text(MARGIN, height - MARGIN + 4, footnote(result), "soft small"), "</svg>"]
    return "\n".join(lines) + "\n"


def bars(result: Mapping[str, Any], metric: Metric) -> dict[str, Mapping[str, float | None]]:
    """The systems that get a row: all but the bare wire."""
    return {name: values for name, values in result["systems"].items() if name != CEILING}


def panel(result: Mapping[str, Any], metric: Metric, left: float, top: float) -> Iterator[str]:
    """One metric: a heading, and a bar for each system with the smallest and largest round as a thin line."""
    yield text(left, top + 20, f"{metric.words}, {metric.unit}", "head ink")
    wire = result["systems"].get(CEILING, {}).get(metric.key)
    beside = f"; bare wire {number(wire)}" if wire is not None else ""
    yield text(left, top + 36, f"{'more' if metric.more_is_better else 'less'} is better{beside}", "soft small")
    rows = bars(result, metric)
    spans = {name: span(result, name, metric.key) for name in rows}
    most = max((high for found in spans.values() if found for high in found), default=0.0) or 1.0
    start = left + LABEL_WIDTH
    for place, (name, values) in enumerate(rows.items()):
        middle = top + HEAD + ROW * place + ROW / 2
        own = name.startswith(OWN)
        yield text(start - 8, middle + 4, name, "ink", 'text-anchor="end"')
        value = values[metric.key]
        if value is None:
            yield text(start + 6, middle + 4, "not measured", "soft small")
            continue
        long = value / most * BAR_ROOM
        colour = "own" if own else "peer"
        yield f'<rect class="{colour}" x="{start}" y="{middle - BAR / 2:g}" width="{max(long, 1):.1f}" height="{BAR}" rx="2"/>'
        end = long
        if found := spans[name]:
            low, high = (edge / most * BAR_ROOM for edge in found)
            end = max(long, high)
            if high > low:
                yield (
                    f'<path class="spread" d="M{start + low:.1f} {middle:g}H{start + high:.1f}'
                    f'M{start + low:.1f} {middle - 3:g}v6M{start + high:.1f} {middle - 3:g}v6"/>'
                )
        yield text(round(start + end + 6, 1), middle + 4, number(value) + times(result, name, metric.key), "ink")
    bottom = top + HEAD + ROW * len(rows)
    yield f'<path class="axis" d="M{start} {top + HEAD:g}V{bottom:g}"/>'


def span(result: Mapping[str, Any], name: str, key: str) -> tuple[float, float] | None:
    """The smallest and the largest value of all rounds."""
    found = [row["metrics"][key] for row in result["samples"] if row["system"] == name and key in row["metrics"]]
    return (min(found), max(found)) if found else None


def times(result: Mapping[str, Any], name: str, key: str) -> str:
    """The ratio to the reference, to stand behind the value."""
    ratio = result["ratios"].get(f"{name}/{result['references'].get(key)}", {}).get(key)
    return "" if ratio is None else f" · {number(ratio)}{TIMES}"


def explanation(result: Mapping[str, Any]) -> str:
    """How to read the figures."""
    rounds = result["rounds"]
    said = f"Median of {rounds} interleaved round{'s' * (rounds != 1)}; thin line: smallest to largest round"
    if loss := result.get("loss_percent"):
        said = f"{loss:g} % of datagrams lost each way. {said}"
    references = sorted(set(result["references"].values()))
    return f"{said}; {TIMES}: times {' or '.join(references)} of the same round" if references else said


def footnote(result: Mapping[str, Any]) -> str:
    """Where it was measured, and what."""
    machine, versions = result["machine"], result["versions"]
    shown = ", ".join(f"{name} {versions[name]}" for name in ("holloway", *result["systems"]) if versions.get(name))
    return f"Linux {machine['kernel']}, {machine['cpus']} CPUs, {result['seconds']:g} s a run · {shown}"


def text(x: float, y: float, words: str, classes: str, more: str = "") -> str:
    return f'<text class="{classes}" x="{x:g}" y="{y:g}"{" " + more if more else ""}>{escape(words)}</text>'
