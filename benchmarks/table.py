"""The result of `./run bench` for people: medians, then for each metric the ratios with their spread. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from metrics import METRICS
from summary import CEILING

NAME_WIDTH = 31
CELL_WIDTH = 9
BESIDE_WIRE = "tcp1_gbit"  # the metric that the column 'vs raw' is about, and stands behind


def render(result: Mapping[str, Any]) -> str:
    """Text of at most 112 columns, with loss 121, that ends without a line break."""
    return "\n".join([*medians(result), *ratios(result), *troubles(result)])


def medians(result: Mapping[str, Any]) -> Iterator[str]:
    """One row for a system, one column for a metric; with loss one more, for how much of the bare wire's speed is left."""
    rounds, loss = result["rounds"], result.get("loss_percent", 0)
    yield f"Medians of {rounds} interleaved round{'s' * (rounds != 1)}; '-' where there is nothing to measure or it failed."
    if loss:
        yield f"The wire lost {loss:g} % of the datagrams of each direction; vs raw: TCP 1, times that of the bare wire."

    def row(cells: Mapping[str, str], beside_wire: str) -> str:
        shown = [[cell, beside_wire] if loss and key == BESIDE_WIRE else [cell] for key, cell in cells.items()]
        return "".join(f"{cell:>{CELL_WIDTH}}" for group in shown for cell in group)

    yield " " * NAME_WIDTH + row({key: metric.short for key, metric in METRICS.items()}, "vs raw")
    for name, values in result["systems"].items():
        beside_wire = result["ratios"].get(f"{name}/{CEILING}", {}).get(BESIDE_WIRE)
        cells = row({metric: number(values[metric]) for metric in METRICS}, number(beside_wire))
        failed = result["failures"][name]
        told = f"  failures in {failed} of {rounds}" if failed else ""
        yield f"{name:{NAME_WIDTH}}{cells}{told}"


def ratios(result: Mapping[str, Any]) -> Iterator[str]:
    """One block for a metric, one row for a system: the median of its ratios within a round, smallest and largest."""
    for key, metric in METRICS.items():
        reference = result["references"].get(key)
        rows = []
        for name in result["systems"]:
            pair = f"{name}/{reference}"
            if (ratio := result["ratios"].get(pair, {}).get(key)) is not None:
                spread = result["spreads"][pair][key]
                between = f"({number(spread['min'])} .. {number(spread['max'])})"
                rows.append(f"  {name:{NAME_WIDTH}}{number(ratio) + ' x':>10}  {between}")
        if rows:
            better = "more" if metric.more_is_better else "less"
            yield f"\n{metric.words}, {metric.unit}: times {reference} of the same round ({better} is better)"
            yield from rows
    if not result["ratios"]:
        yield "\nNo ratios: the system they are taken to was not measured (--reference names another)."


def troubles(result: Mapping[str, Any]) -> Iterator[str]:
    """What failed, with its reason, and what is not installed."""
    failed = [(sample, error) for sample in result["samples"] for error in sample["errors"]]
    if failed:
        yield "\nFailed:"
    for sample, error in failed:
        yield f"  round {sample['round']}, {sample['system']}: {error}"
    if result["absent"]:
        yield "\nNot installed:"
    for name, fix in result["absent"].items():
        yield f"  {name}: {fix}"


def number(value: float | None) -> str:
    """Three significant digits, without an exponent."""
    if value is None:
        return "-"
    decimals = sum(abs(value) < limit for limit in (100, 10, 1))
    return f"{value:.{decimals}f}"
