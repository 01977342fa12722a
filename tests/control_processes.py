"""A broker and agents as processes in one folder, for integration tests. Not responsible for what a test expects of them."""

from __future__ import annotations

import os
import re
import socket
import subprocess
from pathlib import Path

from daemons import HOLLOWAY, wait_until


class Site:
    """A folder with a broker, its operator and its agents."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environ: dict[str, str] = {}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        with socket.create_server(("127.0.0.1", 0)) as found:
            self.port = found.getsockname()[1]
        with socket.create_server(("127.0.0.1", 0)) as found:
            self.file_port = found.getsockname()[1]
        (folder / ".holloway").mkdir()
        (folder / ".holloway" / "config").write_text(f"--host 127.0.0.1:{self.port}\n--file-port {self.file_port}\n")

    def start(self, name: str, *words: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [*HOLLOWAY, *words], cwd=self.folder, stdout=log, stderr=log, env=self._environ()
            )
        self.processes[name] = process
        return process

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def _environ(self) -> dict[str, str]:
        return os.environ | self.environ

    def broker(self, *words: str) -> None:
        ports = ("--command-port", str(self.port), "--file-port", str(self.file_port))
        times = self.log("broker").count("server_public_key") if "broker" in self.processes else 0
        self.start("broker", "broker", "--root", "b", *ports, *words)
        wait_until(lambda: self.log("broker").count("server_public_key") > times, "the broker")

    def agent(self, name: str, *words: str) -> None:
        self.start(name, "agent", "--name", name, "--curve-key-file", f"{name}.yml", *words)
        wait_until(lambda: f"registered as {name}" in self.log(name), name)

    def call(self, *words: str, timeout: float = 30) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*HOLLOWAY, *words],
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            env=self._environ(),
        )

    def trust(self) -> None:
        """What a person copies from the broker's terminal."""
        [line] = re.findall(r"^server_public_key: .*$", self.log("broker"), re.MULTILINE)
        (self.folder / ".holloway" / "keys.yml").write_text(line + "\n")

    def operator(self, *words: str) -> None:
        """A broker, an admin and the agent web1, which is started with `words`."""
        self.broker()
        self.trust()
        made = self.call("client", "create", "--role", "node", "--name", "web1")  # the first call of all makes us admin
        assert made.returncode == 0, made.stderr
        self.agent("web1", *words)

    def end(self) -> None:
        """Kill what runs."""
        for process in self.processes.values():
            if process.poll() is None:
                process.kill()
            process.wait(10)


def running(mark: str) -> list[int]:
    """Programs `sleep` for that time."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            try:
                words = Path(f"/proc/{entry}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if words[:2] == [b"sleep", mark.encode()]:
                found.append(int(entry))
    return found
