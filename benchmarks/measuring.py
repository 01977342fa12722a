"""Measures one system that is to be started, in one round: every metric, with ping(8), iperf3(1) and /proc.

Every step stands alone: what fails is told in `Sample.errors`, and the steps after it are still tried. CPU is the user and
system time of the daemons with all their threads, which includes the network stack's work in their context, but not what
the kernel does in its own.
"""

from __future__ import annotations

import json
import math
import os
import re
import select
import statistics
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from namespaces import Namespace, run_in, start_in
from overlays import Overlay, OverlayFailed, System, last_words, wait_for_ping

TICKS = os.sysconf("SC_CLK_TCK")
IDLE_PINGS, IDLE_SPACING_S = 250, 0.004
LOADED_SPACING_S = 0.01
LEAST_LOADED_PINGS = 200  # so that two lost ones leave a 99th percentile
SMALL_BYTES = 64  # payload of a small UDP packet
RAMP_S = 0.5  # from the start of a stream to the first ping under it
GRACE_S = 15.0  # for a run of iperf3 to begin and to end
SERVER_TIMEOUT_S = 5.0
FAILURES = (
    OverlayFailed,
    AssertionError,
    OSError,
    ValueError,
    LookupError,
    ArithmeticError,
    subprocess.SubprocessError,
)
"""What a program that does not do as it should can lead to; none of it keeps the other systems from being measured."""


@dataclass(frozen=True)
class Sample:
    """What one system gave in one round. `metrics` lacks what does not apply or failed; `errors` says why."""

    system: str
    round: int
    load: float
    metrics: dict[str, float] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)


def measure(
    system: System,
    hosts: tuple[Namespace, Namespace],
    folder: Path,
    *,
    number: int,
    seconds: float,
    is_lossy: bool = False,
) -> Sample:
    """Start `system` between two hosts and take every metric. `folder` is empty and the caller's to remove; the system's
    processes are ended with the namespaces. `is_lossy`: the wire between the hosts loses packets, so that a lost ping says
    nothing of the system.
    """
    sample = Sample(system.name, number, round(os.getloadavg()[0], 2))
    left, right = hosts
    try:
        overlay = system.start(left, right, folder)
        wait_for_ping(overlay, left)
    except FAILURES as error:
        sample.errors.append(f"start: {one_line(error)}")
        return sample
    run = Run(overlay, left, right, seconds, is_lossy)
    for step in (
        run.idle,
        run.one_stream,
        run.four_streams,
        run.small_packets,
        run.loaded,
        run.after,
        run.unfragmented,
    ):
        try:
            found = step()
        except FAILURES as error:
            sample.errors.append(f"{step.__name__}: {one_line(error)}")
            found = {}
        lost = [key for key, value in found.items() if math.isinf(value)]
        sample.errors.extend(f"{key}: too many pings were lost" for key in lost)
        sample.metrics.update({key: round(value, 4) for key, value in found.items() if key not in lost})
        if any(process.poll() is not None for process in overlay.processes):
            sample.errors.append(f"a daemon ended{last_words(overlay.log)}")
            break
    return sample


@dataclass(frozen=True)
class Run:
    """The steps, on an overlay that is up. Each returns its metrics; one that lost pings have spoilt is infinite."""

    overlay: Overlay
    left: Namespace
    right: Namespace
    seconds: float
    is_lossy: bool = False

    def idle(self) -> dict[str, float]:
        times = self.round_trips(IDLE_PINGS, IDLE_SPACING_S)
        return {"rtt_idle_ms": statistics.median(times), **self.memory("rss_idle_mb")}

    def one_stream(self) -> dict[str, float]:
        before = cpu_s(self.overlay.pids)
        received = self.iperf()
        found = {"tcp1_gbit": received["bits_per_second"] / 1e9}
        if self.overlay.pids:
            found["cpu_s_per_gb"] = (cpu_s(self.overlay.pids) - before) / (received["bytes"] / 1e9)
        return found

    def four_streams(self) -> dict[str, float]:
        return {"tcp4_gbit": self.iperf("-P", "4")["bits_per_second"] / 1e9}

    def small_packets(self) -> dict[str, float]:
        received = self.iperf("-u", "-l", str(SMALL_BYTES), "-b", "0")
        return {"udp64_kpps": received["bytes"] / SMALL_BYTES / received["seconds"] / 1000}

    def loaded(self) -> dict[str, float]:
        count = max(LEAST_LOADED_PINGS, int(self.seconds / LOADED_SPACING_S))
        argv = ["iperf3", "-c", self.overlay.target, "-t", str(self.seconds + GRACE_S)]
        with listening(self.right):
            load = start_in(self.left, argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(RAMP_S)
            times = self.round_trips(count, LOADED_SPACING_S)
            ended = load.poll()
            load.kill()
            load.wait()
        if ended is not None:
            raise OverlayFailed("the stream ended before the pings did")
        return {"rtt_loaded_ms": statistics.median(times), "rtt_loaded_p99_ms": percentile(times, 99)}

    def after(self) -> dict[str, float]:
        return self.memory("rss_mb")

    def unfragmented(self) -> dict[str, float]:
        """Gives nothing, but raises `OverlayFailed` when a host had to send an outer packet in fragments."""
        for host in (self.left, self.right):
            names, values = re.findall(r"^Ip: (.*)$", run_in(host, ["cat", "/proc/net/snmp"]).stdout, re.MULTILINE)
            created = int(dict(zip(names.split(), values.split(), strict=True))["FragCreates"])
            if created:
                raise OverlayFailed(f"{created} IP fragments were sent: the inner MTU is too large for this system")
        return {}

    def round_trips(self, count: int, spacing_s: float) -> list[float]:
        """As `ping` gives them; over a wire that loses packets, those that came back if any did."""
        times = ping(self.left, self.overlay.target, count, spacing_s)
        return [each for each in times if math.isfinite(each)] or times if self.is_lossy else times

    def memory(self, key: str) -> dict[str, float]:
        return {key: max(map(rss_mb, self.overlay.pids))} if self.overlay.pids else {}

    def iperf(self, *options: str) -> Any:
        """One run of iperf3 against a server of its own; what arrived, as the server counted it."""
        argv = ["iperf3", "-c", self.overlay.target, "-t", str(self.seconds), "-J", *options]
        with listening(self.right):
            try:
                said = run_in(self.left, argv, check=False, timeout=self.seconds + GRACE_S).stdout
            except subprocess.TimeoutExpired as error:
                raise OverlayFailed(f"iperf3 had not ended {GRACE_S:.0f} s after its time") from error
        try:
            report = json.loads(said)
            if "error" in report:
                raise OverlayFailed(f"iperf3: {report['error']}")
            return report["end"]["sum_received"]
        except (ValueError, KeyError) as error:
            raise OverlayFailed(f"iperf3 said {said[-200:]!r}") from error


@contextmanager
def listening(host: Namespace) -> Iterator[None]:
    """An iperf3 server for one run, which listens; ended afterwards, for a run that was cut off would leave it busy."""
    server = start_in(host, ["iperf3", "-s", "-1", "--forceflush"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert server.stdout is not None
    said, until = "", time.monotonic() + SERVER_TIMEOUT_S
    try:
        while "listening" not in said:
            ready = select.select([server.stdout], [], [], max(0.0, until - time.monotonic()))[0]
            chunk = os.read(server.stdout.fileno(), 4096).decode(errors="replace") if ready else ""
            if not chunk:
                raise OverlayFailed(f"the iperf3 server did not listen: {said[-200:]!r}")
            said += chunk
        yield
    finally:
        server.kill()
        server.wait()


def ping(source: Namespace, target: str, count: int, spacing_s: float) -> list[float]:
    """Round trips in milliseconds, one for each request: infinite for one that was lost."""
    argv = ["ping", "-n", "-c", str(count), "-i", str(spacing_s), "-W", "2", target]
    said = run_in(source, argv, check=False, timeout=count * spacing_s + 30).stdout
    times = [float(found) for found in re.findall(r"time=([\d.]+) ms", said)][:count]
    return times + [math.inf] * (count - len(times))


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile: the smallest value that at least `percent` of all values do not exceed."""
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]


def cpu_s(pids: Sequence[int]) -> float:
    """CPU seconds that processes have used with all their threads, living and ended, user and system."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS


def rss_mb(pid: int) -> float:
    """Resident memory of a process in MB (10^6 bytes). Raises `OverlayFailed` for one that is gone."""
    size = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    if size is None:
        raise OverlayFailed(f"process {pid} is gone")
    return int(size[1]) * 1024 / 1e6


def one_line(error: Exception) -> str:
    """An exception as one line of bounded length."""
    return re.sub(r"\s*\n\s*", " | ", f"{error}" or type(error).__name__)[:600]
