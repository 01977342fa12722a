"""From the samples of all rounds to the result object: medians, ratios within a round, failures. Pure and deterministic.

The speed of a shared machine moves from second to second, so a ratio is always taken between two systems in the same
round; over the rounds then the median, with the smallest and the largest as its spread.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from measuring import Sample
from metrics import METRICS

SCHEMA = "holloway.bench/1"
CEILING = "raw"  # the bare wire
DIGITS = 3


def summarise(
    samples: Sequence[Sample], *, rounds: int, references: Mapping[str, str], about: Mapping[str, Any]
) -> dict[str, Any]:
    """The object of schema `holloway.bench/1`. `references`: for each metric the system that ratios are taken to. `about`:
    what describes the run (`seconds`, `loss_percent`, `versions`, `machine`, `absent`); it is taken over as it is. With loss
    there are ratios of speed to the bare wire, too: what it loses is then most of what holds a system back.
    """
    names = list(dict.fromkeys(sample.system for sample in sorted(samples, key=lambda sample: sample.round)))
    of = {name: [sample for sample in samples if sample.system == name] for name in names}
    ratios: dict[str, dict[str, float]] = {}
    spreads: dict[str, dict[str, dict[str, float]]] = {}
    for name in names:
        for metric, about_metric in METRICS.items():
            beside_wire = (CEILING,) if about.get("loss_percent") and about_metric.more_is_better else ()
            for reference in dict.fromkeys((references.get(metric), *beside_wire)):
                if reference is None or reference == name or reference not in of:
                    continue
                if found := within_rounds(of[name], of[reference], metric):
                    pair = f"{name}/{reference}"
                    ratios.setdefault(pair, {})[metric] = shorten(statistics.median(found))
                    least, most = shorten(min(found)), shorten(max(found))
                    spreads.setdefault(pair, {})[metric] = {"min": least, "max": most, "rounds": len(found)}
    return {
        "schema": SCHEMA,
        "rounds": rounds,
        **about,
        "references": {metric: references[metric] for metric in METRICS if references.get(metric) in of},
        "systems": {name: {metric: middle(taken, metric) for metric in METRICS} for name, taken in of.items()},
        "ratios": ratios,
        "spreads": spreads,
        "failures": {name: sum(bool(sample.errors) for sample in taken) for name, taken in of.items()},
        "samples": [
            {
                "round": sample.round,
                "system": sample.system,
                "load": sample.load,
                "metrics": {metric: sample.metrics[metric] for metric in METRICS if metric in sample.metrics},
                "errors": sample.errors,
            }
            for sample in samples
        ],
    }


def within_rounds(ours: Sequence[Sample], theirs: Sequence[Sample], metric: str) -> list[float]:
    """The ratios of one metric in the rounds in which both have it, and theirs is not zero."""
    of_round = {sample.round: sample.metrics.get(metric) for sample in theirs}
    found = []
    for sample in ours:
        own, other = sample.metrics.get(metric), of_round.get(sample.round)
        if own is not None and other:
            found.append(own / other)
    return found


def middle(taken: Sequence[Sample], metric: str) -> float | None:
    """The median over the rounds that have the metric; None where none has."""
    values = [sample.metrics[metric] for sample in taken if metric in sample.metrics]
    return shorten(statistics.median(values)) if values else None


def shorten(value: float) -> float:
    return round(value, DIGITS)
