"""What befalls a control plane of real processes: agents that are killed, brokers that are not there or not ours, much output, machines."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from control_processes import Site, running
from daemons import HOLLOWAY, wait_until
from namespaces import Namespace, namespaces, needs_namespaces, run_in, start_in

from holloway.actors.control_plane.key_files import ServerKeys
from holloway.protocols.control_plane.audit_chain import verify

PATIENCE_S = 3.0
"""What a person waits for the word that there is no connection."""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.end()


def test_an_agent_that_is_killed_comes_back_and_its_job_is_unknown_and_not_begun_again(site: Site) -> None:
    site.operator()
    mark = f"{602 + os.getpid() / 1e7:.7f}"
    script = f"echo begun >> ran; exec sleep {mark}"
    job = site.start("exec", "exec", "--json", "-t", "web1", "--folder", str(site.folder), "--shell", script)
    try:
        wait_until(lambda: len(running(mark)) == 1, "the program")
        site.processes["web1"].kill()
        site.processes["web1"].wait(10)
        site.agent("web1")
        assert job.wait(20) == 1, site.log("exec")
        [result] = json.loads(site.log("exec"))["results"]
        assert (result["state"], result["rc"]) == ("unknown", None)
        assert result["error"]
        assert site.call("echo", "-t", "web1", "still here").stdout == "still here\n"
        assert (site.folder / "ran").read_text() == "begun\n"
        trail = (site.folder / ".holloway" / "web1" / "agent" / "audit.jsonl").read_bytes()
        assert verify(trail.splitlines(keepends=True)).flaw is None
    finally:
        for pid in running(mark):  # nobody could end it: on a machine the unit does, with all that it has started
            os.kill(pid, signal.SIGKILL)


def test_no_connection_has_a_message_for_each_of_its_causes_and_soon(site: Site) -> None:
    told = []

    def refused(*words: str) -> tuple[int, str]:
        began = time.monotonic()
        done = site.call("echo", "hi", *words)
        told.append((round(time.monotonic() - began, 2), done.stderr.splitlines()[0]))
        assert re.fullmatch(r"error: .+\nwhy:   .+\nfix:   .+\n", done.stderr), done.stderr
        assert done.stdout == ""
        return done.returncode, done.stderr

    keys = site.folder / ".holloway" / "keys.yml"
    known = ServerKeys(site.folder / "b").ensure()
    keys.write_text(f'server_public_key: "{known.public_key}"\n')
    place = f"127.0.0.1:{site.port}"
    code, absent = refused()
    assert (code, absent.splitlines()[0]) == (3, f"error: no broker answers at {place}")
    ours = keys.read_text()
    assert "private_key" in ours  # made before anybody was called, so that who is interrupted comes back as the same
    site.broker()
    began = time.monotonic()
    assert site.call("clients").returncode == 0  # the first client, on his second attempt
    usual = time.monotonic() - began
    assert keys.read_text() == ours
    public = {
        name: re.findall(rf"^{name}: (.*)$", ours, re.MULTILINE)[0] for name in ("public_key", "server_public_key")
    }
    unknown_keys = keys.with_name("unknown.yml")
    unknown_keys.write_text(f"server_public_key: {public['server_public_key']}\n")
    code, unknown = refused("--curve-key-file", "unknown.yml")
    assert (code, unknown.splitlines()[0]) == (77, f"error: the broker at {place} does not let us in")
    foreign_keys = keys.with_name("foreign.yml")
    foreign_keys.touch(mode=0o600)
    foreign_keys.write_text(ours.replace(public["server_public_key"], public["public_key"]))
    code, foreign = refused("--curve-key-file", "foreign.yml")
    assert (code, foreign.splitlines()[0]) == (
        1,
        f"error: what answers at {place} is not the broker that .holloway/foreign.yml names",
    )
    site.processes["broker"].kill()
    site.processes["broker"].wait(10)
    shutil.rmtree(site.folder / "b")
    site.broker()
    code, replaced = refused()
    assert (code, replaced.splitlines()[0]) == (1, f"error: the broker at {place} has been replaced")
    assert "it last let us in on 2" in replaced
    print(*told, sep="\n")
    assert len({line for _, line in told}) == 4
    assert max(took for took, _ in told) < PATIENCE_S + usual  # what a call takes on a machine that is busy


@pytest.mark.soak
def test_a_hundred_megabytes_of_output_come_whole_and_nobody_holds_them(site: Site) -> None:
    site.operator()
    script = "head -c 100000000 /dev/urandom | tee written"
    began = time.monotonic()
    job = site.start("output", "exec", "-t", "web1", "--folder", str(site.folder), "--shell", script)
    assert job.wait(300) == 0, site.log("output")[-1000:]
    took = time.monotonic() - began
    peaks = {name: peak_bytes(site.processes[name].pid) >> 20 for name in ("broker", "web1")}
    print(f"100 MB in {took:.1f} s; MiB in memory at most: {peaks}")
    assert digest(site.folder / "output.log") == digest(site.folder / "written")
    assert max(peaks.values()) < 200


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def peak_bytes(pid: int) -> int:
    """The most that a process had in memory."""
    [said] = re.findall(r"^VmHWM:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(said) * 1024


@pytest.mark.soak
@needs_namespaces
def test_three_machines_by_ten_commands(tmp_path: Path) -> None:
    """The broker and its operator on one machine, agents on two others, on the ports that everything has by itself."""
    commands = 0

    def call(where: Namespace, *words: str) -> subprocess.CompletedProcess[str]:
        nonlocal commands
        commands += 1
        return run_in(where, [*HOLLOWAY, *words], cwd=tmp_path)

    def start(where: Namespace, name: str, *words: str) -> Path:
        nonlocal commands
        commands += 1
        log = tmp_path / f"{name}.log"
        with log.open("wb") as file:
            start_in(where, [*HOLLOWAY, *words], cwd=tmp_path, stdout=file, stderr=file)
        return log

    with namespaces(3) as (hub, *machines):
        there = "--host", hub.ipv4
        log = start(hub, "broker", "broker", "--root", "broker", "--bind", "0.0.0.0")
        wait_until(lambda: "server_public_key" in log.read_text(), "the broker")
        [line] = re.findall(r"^server_public_key: .*$", log.read_text(), re.MULTILINE)
        commands += 1  # echo 'server_public_key: "…"' > .holloway/keys.yml
        (tmp_path / ".holloway").mkdir()
        (tmp_path / ".holloway" / "keys.yml").write_text(line + "\n")
        for name, machine in zip(("web1", "web2"), machines, strict=True):
            call(hub, "client", "create", "--role", "node", "--name", name)
            log = start(machine, name, "agent", *there, "--name", name, "--curve-key-file", f"{name}.yml")
            wait_until(lambda log=log: "registered" in log.read_text(), name)
        assert call(hub, "echo", "hi").stdout.startswith("expecting 2 nodes")
        addresses = call(hub, "exec", "-t", "web2", "--", "ip", "-4", "address", "show", "dev", "eth0").stdout
        assert machines[1].ipv4 in addresses
        (tmp_path / "file").write_bytes(os.urandom(300_000))
        call(hub, "file", "put", "file", "there")
        call(machines[0], *there, "file", "get", "there", "back")
        assert (tmp_path / "back").read_bytes() == (tmp_path / "file").read_bytes()
    assert commands <= 10
