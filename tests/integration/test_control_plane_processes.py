"""The control plane as a new user meets it: real processes on one machine, from the first start to SIGTERM and kill -9."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from control_processes import Site, running
from daemons import wait_until


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.end()


def test_from_nothing_to_a_command_on_two_nodes_and_back(site: Site) -> None:
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.settimeout(10)
    manager.bind(str(site.folder / "notify"))
    site.environ["NOTIFY_SOCKET"] = str(site.folder / "notify")
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
    with manager:
        assert [manager.recv(100) for _ in site.processes] == [b"READY=1"] * 3
        for name in ("web1", "web2", "broker"):
            site.processes[name].terminate()
            assert manager.recv(100) == b"STOPPING=1"
            assert site.processes[name].wait(10) == 0, site.log(name)
    audit = ["b/broker/audit.jsonl", ".holloway/web1/agent/audit.jsonl"]
    for path in audit:
        verdict = json.loads(site.call("audit", "verify", path, "--json").stdout)
        assert (verdict["flaw"], verdict["lines"] > 0) == (None, True)


def test_an_agent_that_is_stopped_ends_what_it_runs_and_says_so(site: Site) -> None:
    site.operator()
    mark = f"{600 + os.getpid() / 1e7:.7f}"
    waiting = site.start("exec", "exec", "-t", "web1", "--", "sh", "-c", f"sleep {mark} & sleep {mark}")
    wait_until(lambda: len(running(mark)) == 2, "the program")
    site.processes["web1"].terminate()
    assert site.processes["web1"].wait(15) == 0
    assert running(mark) == []
    assert waiting.wait(15) == 1
    assert "web1: failed: the agent was stopped" in site.log("exec")


def test_ctrl_c_lets_a_job_go_and_twice_cancels_it(site: Site) -> None:
    site.operator()
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


def test_an_agent_that_is_killed_ends_what_it_left_when_it_is_back_and_nobody_knows_how_that_went(site: Site) -> None:
    site.operator()
    mark = f"{602 + os.getpid() / 1e7:.7f}"
    asked = site.start("asked", "exec", "--json", "--", "sh", "-c", f"sleep {mark} & wait")
    wait_until(lambda: running(mark) != [], "the program")
    site.processes["web1"].kill()
    site.processes["web1"].wait(10)
    assert running(mark) != []
    (site.folder / "web1.log").unlink()
    site.agent("web1")
    assert asked.wait(30) == 1
    [result] = json.loads(site.log("asked").splitlines()[-1])["results"]
    assert (result["state"], "stopped while it ran" in result["error"]) == ("unknown", True)
    assert running(mark) == []
    assert "which was begun before the agent was killed" in site.log("web1")


def killed_in_the_middle(site: Site, count: int, seconds: int) -> None:
    """So many jobs run, the broker is killed, and comes back: every one ends, and ran once."""
    site.operator("--max-jobs", str(count))
    script = f"echo begun >> ran; sleep {seconds}; echo done"
    where = ("-t", "web1", "--folder", str(site.folder), "--shell", script)
    jobs = [site.start(f"job{number}", "exec", "--json", *where) for number in range(count)]
    ran = site.folder / "ran"
    wait_until(lambda: ran.exists() and ran.read_text().count("begun") == count, "the programs", timeout=90)
    site.processes["broker"].kill()
    site.processes["broker"].wait(10)
    site.broker()
    for number, job in enumerate(jobs):
        assert job.wait(90) == 0, site.log(f"job{number}")
        document: Any = json.loads(site.log(f"job{number}").splitlines()[-1])
        assert [(each["state"], each["stdout"]) for each in document["results"]] == [("ok", "done\n")]
    assert ran.read_text().count("begun") == count


@pytest.mark.soak
def test_a_broker_that_is_killed_comes_back_to_many_jobs_and_nothing_runs_twice(site: Site) -> None:
    killed_in_the_middle(site, 20, 45)


def test_a_broker_that_is_killed_comes_back_to_its_jobs_and_nothing_runs_twice(site: Site) -> None:
    killed_in_the_middle(site, 2, 3)


def cut_in_the_middle(site: Site, megabytes: int) -> None:
    """A file is put, the broker is killed when half of it is there, and comes back; then the file is got again."""
    site.broker()
    site.trust()
    site.call("clients")
    source = site.folder / "large"
    with source.open("wb") as file:
        for number in range(megabytes):
            file.write(hashlib.sha256(str(number).encode()).digest() * (1 << 15))
    parts = site.folder / "b" / "broker" / "files" / "unfinished"
    half = megabytes << 19

    def is_half_there() -> bool:
        return parts.is_dir() and any(path.stat().st_size >= half for path in parts.iterdir())

    put = site.start("put", "file", "put", "large", "there", "--json")
    wait_until(is_half_there, "half of the file", timeout=120)
    site.processes["broker"].kill()
    site.processes["broker"].wait(10)
    assert put.poll() is None
    left = max(path.stat().st_size for path in parts.iterdir())
    site.broker()
    assert put.wait(240) == 0, site.log("put")
    assert left >= half
    assert "the broker has gone" in site.log("put")
    assert json.loads(site.log("put").splitlines()[-1])["sha256"] == digest(source)
    assert digest(site.folder / "b" / "files" / "there") == digest(source)
    assert list(parts.iterdir()) == []
    assert site.call("file", "get", "there", "back", timeout=240).returncode == 0
    assert digest(site.folder / "back") == digest(source)


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@pytest.mark.soak
def test_a_gigabyte_that_was_cut_at_half_goes_on_and_is_whole(site: Site) -> None:
    cut_in_the_middle(site, 1024)


def test_a_file_that_was_cut_at_half_goes_on_and_is_whole(site: Site) -> None:
    cut_in_the_middle(site, 40)
