"""The control plane as a new user meets it: real processes on one machine, from the first start to SIGTERM and kill -9."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from daemons import HOLLOWAY, wait_until


class Site:
    """A folder with a broker, its operator and its agents."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        with socket.create_server(("127.0.0.1", 0)) as found:
            self.port = found.getsockname()[1]
        (folder / ".holloway").mkdir()
        (folder / ".holloway" / "config").write_text(f"--host 127.0.0.1:{self.port}\n")

    def start(self, name: str, *words: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen([*HOLLOWAY, *words], cwd=self.folder, stdout=log, stderr=log)
        self.processes[name] = process
        return process

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def broker(self) -> None:
        self.start("broker", "broker", "--root", "b", "--command-port", str(self.port))
        wait_until(lambda: "server_public_key" in self.log("broker"), "the broker")

    def agent(self, name: str, *words: str) -> None:
        self.start(name, "agent", "--name", name, "--curve-key-file", f"{name}.yml", *words)
        wait_until(lambda: f"registered as {name}" in self.log(name), name)

    def call(self, *words: str, timeout: float = 30) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*HOLLOWAY, *words], cwd=self.folder, capture_output=True, text=True, timeout=timeout, check=False
        )

    def trust(self) -> None:
        """What a person copies from the broker's terminal."""
        [line] = re.findall(r"^server_public_key: .*$", self.log("broker"), re.MULTILINE)
        (self.folder / ".holloway" / "keys.yml").write_text(line + "\n")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    for process in site.processes.values():
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


def test_from_nothing_to_a_command_on_two_nodes_and_back(site: Site) -> None:
    site.broker()
    site.trust()
    first = site.call("clients")
    assert (first.returncode, first.stdout) == (0, "no nodes\n"), first.stderr
    assert (site.folder / ".holloway" / "keys.yml").stat().st_mode & 0o077 == 0
    for name in ("web1", "web2"):
        assert site.call("client", "create", "--role", "node", "--name", name).returncode == 0
        site.agent(name, "-r", "web")
    echoed = site.call("echo", "hi")
    assert (echoed.returncode, echoed.stdout) == (0, "web1 web2: ok\n  hi\n")
    assert site.call("exec", "-t", "web1", "--", "sh", "-c", "exit 3").returncode == 3
    # Nobody else is let in by knowing the broker's key.
    site.trust()
    second = site.call("clients")
    assert second.returncode == 77
    assert "does not let us in" in second.stderr
    # A node's key commands nobody.
    assert "a node commands nobody" in site.call("--curve-key-file", "web1.yml", "echo", "hi").stderr
    for name in ("web1", "web2", "broker"):
        site.processes[name].terminate()
        assert site.processes[name].wait(10) == 0, site.log(name)
    audit = ["b/broker/audit.jsonl", ".holloway/web1/agent/audit.jsonl"]
    for path in audit:
        verdict = json.loads(site.call("audit", "verify", path, "--json").stdout)
        assert (verdict["flaw"], verdict["lines"] > 0) == (None, True)


def operator(site: Site) -> None:
    """A broker, an admin and the agent web1."""
    site.broker()
    site.trust()
    site.call("clients")
    site.call("client", "create", "--role", "node", "--name", "web1")
    site.agent("web1")


def test_an_agent_that_is_stopped_ends_what_it_runs_and_says_so(site: Site) -> None:
    operator(site)
    mark = f"{600 + os.getpid() / 1e7:.7f}"
    waiting = site.start("exec", "exec", "-t", "web1", "--", "sh", "-c", f"sleep {mark} & sleep {mark}")
    wait_until(lambda: len(running(mark)) == 2, "the program")
    site.processes["web1"].terminate()
    assert site.processes["web1"].wait(15) == 0
    assert running(mark) == []
    assert waiting.wait(15) == 1
    assert "web1: failed: the agent was stopped" in site.log("exec")


def test_ctrl_c_lets_a_job_go_and_twice_cancels_it(site: Site) -> None:
    operator(site)
    mark = f"{601 + os.getpid() / 1e7:.7f}"
    let_go = site.start("once", "exec", "--jsonl", "-t", "web1", "--", "sleep", mark)
    wait_until(lambda: len(running(mark)) == 1, "the program")
    wait_until(lambda: "expected" in site.log("once"), "the job")
    let_go.send_signal(signal.SIGINT)
    assert let_go.wait(10) == 130
    [job] = re.findall(r"holloway jobs wait ([0-9a-f]{32})", site.log("once"))
    assert running(mark)
    watching = site.start("twice", "jobs", "wait", "--jsonl", job)
    wait_until(lambda: "expected" in site.log("twice"), "the watch")
    watching.send_signal(signal.SIGINT)
    wait_until(lambda: "Ctrl-C again" in site.log("twice"), "the hint")
    watching.send_signal(signal.SIGINT)
    assert watching.wait(15) == 130
    wait_until(lambda: running(mark) == [], "the end of the program")
    assert json.loads(site.call("jobs", "show", job, "--json").stdout)["jobs"][0]["counts"] == {"cancelled": 1}


def test_a_broker_that_is_killed_comes_back_to_its_jobs_and_nothing_runs_twice(site: Site) -> None:
    operator(site)
    script = "echo begun >> ran; sleep 3; echo done"
    jobs = [
        site.start(f"job{number}", "exec", "--json", "-t", "web1", "--folder", str(site.folder), "--shell", script)
        for number in range(5)
    ]
    ran = site.folder / "ran"
    wait_until(lambda: ran.exists() and ran.read_text().count("begun") == 5, "the programs")
    site.processes["broker"].kill()
    site.processes["broker"].wait(10)
    site.broker()
    for number, job in enumerate(jobs):
        assert job.wait(40) == 0, site.log(f"job{number}")
        document: Any = json.loads(site.log(f"job{number}").splitlines()[-1])
        assert [(each["state"], each["stdout"]) for each in document["results"]] == [("ok", "done\n")]
    assert ran.read_text().count("begun") == 5
