"""`./run bench`: Holloway beside the peers that are installed, in interleaved rounds on one machine.

Two namespaces and a veth pair, or a wire that loses datagrams (`--loss`); every system gets a turn in every round, and a ratio is taken within a round, because the
speed of a shared machine moves from second to second and absolute numbers mean little. Responsible for options, turns and
output; how a system is set up, measured, summed up and shown is for the modules beside this one.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "benchmarks")]

from chart import draw
from interrupts import Interrupts
from lossy_wire import LEAST_PERCENT, PACKAGE, lossy_wire, why_not_lossy
from measuring import Sample, measure
from metrics import METRICS
from namespaces import namespaces, why_not
from overlays import version_of
from summary import SCHEMA, summarise
from systems import SYSTEMS
from table import render

DEFAULT_REFERENCE = "wireguard-go"
RUNS, OVERHEAD_S = 4, 5.0  # of a turn: runs of the chosen length, and everything else
UNAVAILABLE = 69  # EX_UNAVAILABLE of sysexits.h
WRONG_INPUT = 65  # EX_DATAERR
CONGESTION = Path("/proc/sys/net/ipv4/tcp_congestion_control")


def main() -> int:
    options = parse()
    if options.list:
        for system in SYSTEMS.values():
            state = f"not installed: {system.missing}" if system.missing else system.tell_version() or ""
            print(f"{system.name:31} {system.what:58} {state}".rstrip())
        return 0
    if options.chart:
        return chart_of(*options.chart)
    names = [name for name in options.only or SYSTEMS if not SYSTEMS[name].missing]
    absent = {name: missing for name in options.only or SYSTEMS if (missing := SYSTEMS[name].missing)}
    for name, fix in absent.items():
        print(f"{name} is not installed and left out: {fix}", file=sys.stderr)
    if reason := why_not():
        return fail("the benchmark cannot run", reason, "see above")
    for program, package in (("iperf3", "iperf3"), ("ping", "iputils-ping")):
        if not shutil.which(program):
            return fail("the benchmark cannot run", f"{program} is missing", f"sudo apt-get install {package}")
    if not names:
        return fail("there is nothing to measure", "none of the systems is installed", "; ".join(absent.values()))
    if options.loss and (lossless := why_not_lossy()):
        return fail("the benchmark cannot lose datagrams", *lossless)
    about = {
        "seconds": options.seconds,
        "loss_percent": options.loss,
        "versions": versions(names),
        "machine": machine(),
        "absent": absent,
    }
    samples = take_turns(names, rounds=options.rounds, seconds=options.seconds, loss=options.loss)
    result = summarise(samples, rounds=options.rounds, references=options.reference, about=about)
    print(json.dumps(result) if options.json else render(result), flush=True)
    if options.svg:
        options.svg.write_text(draw(result), encoding="utf-8")
    return 0 if any(sample.metrics for sample in samples) else 1


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options, checked. Ends the program with 2 where they are wrong."""
    parser = argparse.ArgumentParser(
        prog="./run bench", description="Measure Holloway beside the overlay networks that are installed."
    )
    parser.add_argument("--rounds", type=positive_int, default=3, help="turns that each system gets (default 3)")
    parser.add_argument("--seconds", type=positive, default=3.0, help="length of each run of iperf3 (default 3)")
    parser.add_argument(
        "--loss",
        type=percentage,
        default=0.0,
        metavar="PERCENT",
        help="of all datagrams, lost at random in each direction by a hub between the hosts (default 0: no hub). The hosts' "
        f"devices then cut and join nothing, for every system alike; the table gains the column 'vs raw'. Needs {PACKAGE}",
    )
    parser.add_argument("--only", type=system_names, metavar="NAME,NAME", help="systems to measure (default: all)")
    parser.add_argument(
        "--reference",
        type=reference,
        action="append",
        metavar="[METRIC=]NAME",
        default=[],
        help=f"system that ratios are taken to, for one metric or all (default {DEFAULT_REFERENCE}); may be repeated. "
        f"Metrics: {', '.join(METRICS)}",
    )
    parser.add_argument("--json", action="store_true", help=f"print one JSON object ({SCHEMA})")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="write a bar chart too")
    other = parser.add_mutually_exclusive_group()
    other.add_argument("--list", action="store_true", help="tell what can be measured, and measure nothing")
    other.add_argument("--chart", type=Path, nargs=2, metavar=("FROM.json", "FILE.svg"), help="draw an earlier result")
    options = parser.parse_args(argv)
    for target in (options.svg, options.chart and options.chart[1]):
        if target and not target.absolute().parent.is_dir():
            parser.error(f"{target}: there is no such folder")
    measured = options.only or list(SYSTEMS)
    chosen = dict.fromkeys(METRICS, DEFAULT_REFERENCE)
    for metrics, name in options.reference:
        if name not in measured:
            parser.error(f"--reference {name}: it is not among the systems that --only names")
        chosen.update(dict.fromkeys(metrics, name))
    options.reference = chosen
    return options


def take_turns(names: Sequence[str], *, rounds: int, seconds: float, loss: float = 0.0) -> list[Sample]:
    """Measure every system in every round. Each round begins with another system, so that none always follows the same.

    `loss`: percent of the datagrams of each direction.
    """
    minutes = rounds * len(names) * (RUNS * seconds + OVERHEAD_S) / 60
    print(f"{rounds} rounds of {len(names)} systems, about {max(1, round(minutes))} min", file=sys.stderr)
    interrupts = Interrupts()
    samples: list[Sample] = []
    for number in range(1, rounds + 1):
        first = (number - 1) % len(names)
        for name in [*names[first:], *names[:first]]:
            print(f"round {number} of {rounds}: {name} ...", file=sys.stderr, flush=True)
            with (
                tempfile.TemporaryDirectory(prefix="holloway-bench-") as folder,
                lossy_wire(loss) if loss else namespaces(2) as (left, right),
                interrupts.allowed(),
            ):
                hosts = (left, right)
                sample = measure(SYSTEMS[name], hosts, Path(folder), number=number, seconds=seconds, is_lossy=loss > 0)
            for error in sample.errors:
                print(f"  failed: {error}", file=sys.stderr)
            samples.append(sample)
    return samples


def chart_of(source: Path, target: Path) -> int:
    """Draw the chart of a result that was kept."""
    try:
        result = json.loads(source.read_text(encoding="utf-8"))
        if result.get("schema") != SCHEMA:
            raise ValueError(f"its schema is {result.get('schema')!r}")
        drawn = draw(result)
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        return fail(f"{source} cannot be drawn", f"{error}", "give what ./run bench --json printed", WRONG_INPUT)
    target.write_text(drawn, encoding="utf-8")
    return 0


def versions(names: Sequence[str]) -> dict[str, str | None]:
    """The versions of everything that takes part: `holloway` for all of its rows, each peer, and the tools."""
    peers = {name: SYSTEMS[name].tell_version() for name in names if not name.startswith("holloway") and name != "raw"}
    tools = {"python": platform.python_version(), "iperf3": version_of(["iperf3", "--version"])}
    return {"holloway": SYSTEMS["holloway-aes-gcm"].tell_version(), **peers, **tools}


def machine() -> dict[str, Any]:
    """What the figures depend on besides the programs."""
    model = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    return {
        "kernel": platform.release(),
        "cpus": len(os.sched_getaffinity(0)),
        "cpu_model": model.partition(":")[2].strip(),
        "tcp_congestion_control": CONGESTION.read_text().strip() if CONGESTION.exists() else None,
    }


def system_names(text: str) -> list[str]:
    names = [name for name in text.split(",") if name]
    for name in names:
        known_system(name)
    if not names:
        raise argparse.ArgumentTypeError("name at least one system")
    return list(dict.fromkeys(names))


def reference(text: str) -> tuple[list[str], str]:
    metric, found, name = text.rpartition("=")
    if found and metric not in METRICS:
        raise argparse.ArgumentTypeError(f"{metric!r} is none of {', '.join(METRICS)}")
    return [metric] if found else list(METRICS), known_system(name)


def known_system(name: str) -> str:
    if name not in SYSTEMS:
        raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(SYSTEMS)}")
    return name


def positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError("must be more than zero")
    return value


def percentage(text: str) -> float:
    value = float(text)
    if value and not LEAST_PERCENT <= value < 100:
        raise argparse.ArgumentTypeError(f"must be 0, or from {LEAST_PERCENT:g} to less than 100")
    return value


def positive_int(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def fail(what: str, why: str, fix: str, code: int = UNAVAILABLE) -> int:
    print(f"error: {what}\nwhy:   {why}\nfix:   {fix}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
