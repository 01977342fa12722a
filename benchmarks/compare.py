"""`./run bench`: Holloway beside the peers that are installed, in interleaved rounds on one machine.

Two namespaces and a veth pair; every system gets the same turn in every round, and ratios are medians of ratios within a
round, because the speed of a shared machine moves from second to second and absolute numbers mean little.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "benchmarks")]

from namespaces import Namespace, namespaces, run_in, start_in, why_not
from overlays import OVERLAYS, Overlay, versions

SCHEMA = "holloway.bench/1"
METRICS = {
    "tcp1_gbit": "TCP, one stream, Gbit/s",
    "tcp4_gbit": "TCP, four streams, Gbit/s",
    "cpu_s_per_gb": "CPU seconds a GB, both ends",
    "udp64_kpps": "64-byte UDP, thousand packets/s",
    "rtt_idle_ms": "round trip, idle, ms",
    "rtt_loaded_ms": "round trip under one stream, ms",
    "rss_mb": "memory of one end, MB",
}
TICKS = os.sysconf("SC_CLK_TCK")


def main() -> int:
    parser = argparse.ArgumentParser(prog="./run bench", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="length of each TCP run")
    parser.add_argument(
        "--only", action="append", choices=sorted(OVERLAYS), help="a system to measure; may be repeated"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object (holloway.bench/1)")
    options = parser.parse_args()
    reason = why_not() or ("iperf3 is missing: sudo apt-get install iperf3" if not shutil.which("iperf3") else None)
    if reason:
        print(f"error: the benchmark cannot run\nwhy:   {reason}\nfix:   see above", file=sys.stderr)
        return 1
    names = options.only or list(OVERLAYS)
    samples: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for number in range(options.rounds):
        for name in names:
            print(f"round {number + 1} of {options.rounds}: {name} ...", file=sys.stderr)
            with namespaces(2) as (left, right), OVERLAYS[name](left, right) as overlay:
                samples[name].append(measure(overlay, left, right, options.seconds))
    result = summarise(samples, options.rounds)
    if options.json:
        print(json.dumps(result))
    else:
        print_table(result)
    return 0


def measure(overlay: Overlay, left: Namespace, right: Namespace, seconds: float) -> dict[str, float]:
    """All metrics of one system in one round."""
    server = start_in(right, ["iperf3", "-s", "--forceflush"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(0.3)
    run_in(left, ["ping", "-c", "2", "-i", "0.2", "-W", "5", overlay.target])
    found: dict[str, float] = {"rtt_idle_ms": ping(left, overlay.target, 250, 0.004)}
    before = cpu(overlay)
    one = iperf(left, overlay.target, seconds)
    found["cpu_s_per_gb"] = (cpu(overlay) - before) / (one["end"]["sum_received"]["bytes"] / 1e9)
    found["tcp1_gbit"] = one["end"]["sum_received"]["bits_per_second"] / 1e9
    found["tcp4_gbit"] = iperf(left, overlay.target, seconds, "-P", "4")["end"]["sum_received"]["bits_per_second"] / 1e9
    small = iperf(left, overlay.target, seconds, "-u", "-l", "22", "-b", "0")["end"]["sum"]  # 64 bytes with UDP and IP
    found["udp64_kpps"] = small["packets"] * (1 - small["lost_percent"] / 100) / small["seconds"] / 1000
    load = start_in(
        left,
        ["iperf3", "-c", overlay.target, "-t", str(seconds + 1)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    time.sleep(0.5)
    found["rtt_loaded_ms"] = ping(left, overlay.target, int(seconds / 0.015), 0.015)
    load.terminate()
    load.wait(10)
    found["rss_mb"] = rss(overlay)
    server.terminate()
    server.wait(10)
    return found


def iperf(source: Namespace, target: str, seconds: float, *options: str) -> Any:
    argv = ["iperf3", "-c", target, "-t", str(seconds), "-J", *options]
    return json.loads(run_in(source, argv, timeout=seconds + 30).stdout)


def ping(source: Namespace, target: str, count: int, interval_s: float) -> float:
    """The median round trip in milliseconds."""
    said = run_in(source, ["ping", "-c", str(count), "-i", str(interval_s), "-W", "2", target], check=False, timeout=60)
    times = [float(found) for found in re.findall(r"time=([\d.]+) ms", said.stdout)]
    return statistics.median(times) if times else float("nan")


def cpu(overlay: Overlay) -> float:
    """CPU seconds that the processes of both ends have used, user and system."""
    total = 0
    for pid in overlay.pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS


def rss(overlay: Overlay) -> float:
    sizes = [re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text()) for pid in overlay.pids]
    return max((int(size[1]) / 1024 for size in sizes if size), default=0.0)


def summarise(samples: dict[str, list[dict[str, float]]], rounds: int) -> dict[str, Any]:
    """Medians of each system, and of its ratios to wireguard-go of the same round."""
    systems = {
        name: {metric: round(statistics.median(sample[metric] for sample in taken), 3) for metric in METRICS}
        for name, taken in samples.items()
    }
    ratios: dict[str, dict[str, float]] = {}
    for name, taken in samples.items():
        if name in ("raw", "wireguard-go") or "wireguard-go" not in samples:
            continue
        pairs = list(zip(taken, samples["wireguard-go"], strict=True))
        ratios[f"{name}/wireguard-go"] = {
            metric: round(statistics.median(ours[metric] / theirs[metric] for ours, theirs in pairs), 3)
            for metric in METRICS
        }
    return {"schema": SCHEMA, "rounds": rounds, "versions": versions(), "systems": systems, "ratios": ratios}


def print_table(result: dict[str, Any]) -> None:
    columns = {**result["systems"], **result["ratios"]}
    print(f"medians of {result['rounds']} interleaved rounds; ratios are medians within a round")
    for metric, words in METRICS.items():
        print(f"\n{words}")
        for name, values in columns.items():
            print(f"  {name:36} {values[metric]:10.3f}{' x' if '/' in name else ''}")


if __name__ == "__main__":
    sys.exit(main())
