"""Machines that make and join a network by the words of the command line, for integration tests.

Responsible for `init`, `join`, `up` and what a running node says of itself. Not responsible for the namespaces (`namespaces`),
for configurations that somebody wrote (`daemons`), nor for the registry.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from daemons import HOLLOWAY, wait_until
from namespaces import Namespace, run_in, start_in


@dataclass
class Machine:
    """A host with a node of the network. Its state lies in a folder of its own."""

    namespace: Namespace
    name: str
    folder: Path
    process: subprocess.Popen[str] | None = field(default=None, repr=False)

    @property
    def state(self) -> list[str]:
        return ["--state", str(self.folder / self.name)]

    @property
    def log(self) -> str:
        return (self.folder / f"{self.name}.log").read_text()

    def run(self, *words: str, check: bool = True) -> str:
        """A verb; what it printed."""
        done = run_in(self.namespace, [*HOLLOWAY, *words, *self.state], check=False, timeout=60, stderr=subprocess.PIPE)
        if check and done.returncode:
            raise AssertionError(f"{words[0]} ended with {done.returncode}: {done.stderr}")
        return str(done.stdout).strip()

    def up(self, *options: str) -> None:
        """Start the node, and wait until it answers."""
        with (self.folder / f"{self.name}.log").open("a") as log:
            self.process = start_in(self.namespace, [*HOLLOWAY, "up", *options, *self.state], stdout=log, stderr=log)
        wait_until(lambda: self.asked() is not None, f"{self.name} to answer")

    def kill(self) -> None:
        """As a crash would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """As its owner would."""
        assert self.process is not None
        self.process.terminate()
        self.process.wait(20)

    def status(self) -> Any:
        """What the command line prints."""
        return json.loads(self.run("status", "--json"))

    def asked(self) -> Any:
        """The same, asked without a program that has to be started; None while nobody answers."""
        try:
            with socket.socket(socket.AF_UNIX) as client, client.makefile("rwb") as stream:
                client.settimeout(10)
                client.connect(str(self.folder / self.name / "control.sock"))
                stream.write(b'{"op":"status"}\n')
                stream.flush()
                return json.loads(stream.readline())["result"]
        except (OSError, ValueError):
            return None

    def registry(self) -> Any:
        """What it says of the registry; nothing while it does not answer."""
        return ((self.asked() or {}).get("node") or {}).get("registry") or {}

    def peers(self) -> set[str]:
        """The names of its peers."""
        return {peer["name"] for peer in (self.asked() or {}).get("peers", ())}

    def cpu_s(self) -> float:
        """Processor time that it has taken, in seconds (proc(5))."""
        assert self.process is not None
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory_mb(self) -> float:
        """What it has in memory now, in MiB (proc(5))."""
        return self._memory_mb("VmRSS")

    def peak_mb(self) -> float:
        """What it has had in memory at most, in MiB."""
        return self._memory_mb("VmHWM")

    def _memory_mb(self, field: str) -> float:
        assert self.process is not None
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(rf"^{field}:\s+(\d+) kB", status, re.MULTILINE)[1]) / 1024  # type: ignore[index]

    def address(self, version: int = 4) -> str:
        addresses: list[str] = self.status()["node"]["addresses"]
        return next(each.partition("/")[0] for each in addresses if (":" in each) == (version == 6))

    def pings(self, address: str, *options: str) -> bool:
        command = ["ping", "-c", "1", "-W", "1", *options, address]
        return run_in(self.namespace, command, check=False).returncode == 0


def meet(*machines: Machine, registry: str) -> None:
    """The first makes the network, the others join: two commands each, and one invitation more for each after the second."""
    first, *others = machines
    token = first.run("init", "home", "--name", first.name, "--registry", registry)
    first.up()
    for machine in others:
        machine.run("join", token, "--name", machine.name, "--timeout", "30")
        machine.up()
        token = first.run("invite")
    for machine in machines:
        for other in machines:
            if other is not machine:
                wait_until(lambda: machine.pings(other.address()), f"{machine.name} to reach {other.name}")  # noqa: B023
