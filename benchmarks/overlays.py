"""What a system under measurement is, and how to tell that it is up.

A system joins two hosts, 10.98.0.1 on the left and 10.98.0.2 on the right, all at the same inner MTU. Responsible for the
words that the families of overlays share; not for any family's configuration, nor for what is measured. Processes are
started through `namespaces.start_in`, so whoever owns the namespaces ends them, and files go into a folder that the
caller removes: a family has nothing to take down itself.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from namespaces import Namespace, run_in, start_in

INNER = ("10.98.0.1", "10.98.0.2")
INNER_NETWORK = "10.98.0.0/24"
MTU = 1420  # wireguard-go's default over Ethernet; every other system takes it too without outer fragments
READY_TIMEOUT_S = 20.0
TOLD_LINES = 2  # of a program's log, when it fails


class OverlayFailed(Exception):
    """A system did not come up, or a step of its measurement did not work. The text says why."""


@dataclass(frozen=True)
class Overlay:
    """A system that was started. `target`: the far host's address. `processes`: its daemons at both ends. `log`: where
    they write; None for the bare wire.
    """

    target: str
    processes: tuple[subprocess.Popen[str], ...] = ()
    log: Path | None = None

    @property
    def pids(self) -> tuple[int, ...]:
        return tuple(process.pid for process in self.processes)


Start: TypeAlias = Callable[[Namespace, Namespace, Path], Overlay]


@dataclass(frozen=True)
class System:
    """A row of the benchmark. `start` takes the two hosts and an empty folder. `programs` must be on PATH; `package` has
    them on Debian. `version`: a command whose output names the version.
    """

    name: str
    start: Start
    what: str
    programs: tuple[str, ...] = ()
    package: str = ""
    version: tuple[str, ...] = ()

    @property
    def missing(self) -> str | None:
        """How to install what is missing, or None."""
        absent = any(shutil.which(program) is None for program in self.programs)
        return f"sudo apt-get install {self.package}" if absent else None

    def tell_version(self) -> str | None:
        """The version number as the program gives it, or None."""
        return version_of(self.version) if self.version and not self.missing else None


def version_of(argv: Sequence[str]) -> str | None:
    """The first thing that looks like a version in what a program prints."""
    try:
        said = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"\d+(?:\.\d+)+[\w.+-]*", said.stdout + said.stderr)
    return found[0] if found else None


def start_daemon(host: Namespace, argv: Sequence[str], log: Path) -> subprocess.Popen[str]:
    """Start a program whose output goes to the end of `log`."""
    with log.open("a") as output:
        return start_in(host, argv, stdout=output, stderr=output)


def give_address(host: Namespace, device: str, number: int) -> None:
    """Give a TUN device its inner address and MTU, and take it up."""
    run_in(host, ["ip", "address", "add", f"{INNER[number]}/24", "dev", device])
    run_in(host, ["ip", "link", "set", device, "mtu", str(MTU), "up"])


def wait_for(holds: Callable[[], bool], what: str, log: Path | None = None) -> None:
    """Wait for a condition. Raises `OverlayFailed` with the end of `log` after `READY_TIMEOUT_S`."""
    until = time.monotonic() + READY_TIMEOUT_S
    while not holds():
        if time.monotonic() > until:
            raise OverlayFailed(f"waited {READY_TIMEOUT_S:.0f} s for {what}{last_words(log)}")
        time.sleep(0.05)


def wait_for_ping(overlay: Overlay, source: Namespace) -> None:
    """Wait until a packet of the full inner MTU has gone there and back. Raises `OverlayFailed` when none does in time or
    a daemon ends.
    """
    size = str(MTU - 28)  # the payload of an echo request without the IPv4 and ICMP headers

    def passes() -> bool:
        if any(process.poll() is not None for process in overlay.processes):
            raise OverlayFailed(f"a daemon ended before a ping passed{last_words(overlay.log)}")
        ping = ["ping", "-c", "1", "-W", "1", "-M", "do", "-s", size, overlay.target]
        return run_in(source, ping, check=False).returncode == 0

    wait_for(passes, "a ping to pass", overlay.log)


def last_words(log: Path | None) -> str:
    """The end of a log as a clause of an error message."""
    lines = log.read_text(errors="replace").splitlines()[-TOLD_LINES:] if log and log.exists() else []
    return "".join(f" | {line.strip()[:160]}" for line in lines)
