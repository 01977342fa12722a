"""The control plane in a network, as a new user meets it: real nodes in namespaces, and nobody copies a key or types an address."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio
from daemons import HOLLOWAY, wait_until
from machines import Machine, meet
from namespaces import Namespace, namespaces, needs_namespaces, needs_program, run_in, start_in

from holloway.actors import open_registry
from holloway.protocols.keys import StaticKey
from holloway.protocols.membership import NodeRecord, encode_record, node_key

pytestmark = needs_namespaces
GONE_S = 5.0
NOBODY = 65534


@dataclass
class Site:
    """Machines of one network, each with a folder of its own for what people and programs of the control plane keep there."""

    folder: Path
    machines: list[Machine]
    started: dict[str, subprocess.Popen[str]] = field(default_factory=dict)

    @property
    def registry(self) -> str:
        return f"sqlite://{self.folder / 'net.db'}"

    def home(self, machine: Machine) -> Path:
        home = self.folder / f"home-{machine.name}"
        home.mkdir(exist_ok=True)
        return home

    def call(self, machine: Machine, *words: str) -> subprocess.CompletedProcess[str]:
        """A verb of a person on that machine."""
        verb, *rest = words
        argv = [*HOLLOWAY, verb, *rest[: _subcommands(verb)], *machine.state, *rest[_subcommands(verb) :]]
        return run_in(machine.namespace, argv, check=False, timeout=60, cwd=self.home(machine), stderr=subprocess.PIPE)

    def start(self, machine: Machine, verb: str, *words: str) -> None:
        with (self.folder / f"{verb}-{machine.name}.log").open("a") as log:
            argv = [*HOLLOWAY, verb, *words, *machine.state]
            self.started[verb + machine.name] = start_in(
                machine.namespace, argv, cwd=self.home(machine), stdout=log, stderr=log
            )

    def log(self, machine: Machine, verb: str) -> str:
        return (self.folder / f"{verb}-{machine.name}.log").read_text()

    def agent(self, machine: Machine, *words: str) -> None:
        self.start(machine, "agent", *words)
        wait_until(
            lambda: f"registered as {machine.name}" in self.log(machine, "agent"), f"the agent on {machine.name}"
        )

    def broker(self, machine: Machine, *words: str) -> None:
        self.start(machine, "broker", "--root", str(self.folder / f"broker-{machine.name}"), *words)
        wait_until(lambda: "server_public_key" in self.log(machine, "broker"), f"the broker on {machine.name}")


def _subcommands(verb: str) -> int:
    return 1 if verb in ("client", "file", "jobs") else 0


@contextmanager
def network(folder: Path, count: int) -> Iterator[tuple[Site, list[Machine]]]:
    """So many machines in a network, up, with a registry in a file."""
    with namespaces(count) as hosts:
        machines = [Machine(host, name, folder) for host, name in zip(hosts, "abcd", strict=False)]
        site = Site(folder, machines)
        first, *others = machines
        token = first.run("init", "home", "--name", "a", "--registry", site.registry)
        first.up()
        for machine in others:
            machine.run("join", token, "--name", machine.name, "--timeout", "30")
            machine.up()
            if machine is not others[-1]:
                token = first.run("invite")
        yield site, machines


def results(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    document: Any = json.loads(done.stdout)
    return {each["node"]: each["state"] for each in document["results"]}


def test_a_command_on_another_machine_without_a_key_file_or_an_address(tmp_path: Path) -> None:
    with network(tmp_path, 2) as (site, (a, b)):
        site.start(b, "agent")  # before there is a broker
        site.broker(a)
        wait_until(lambda: "registered as b" in site.log(b, "agent"), "the agent on b")
        done = site.call(a, "exec", "--json", "--", "uname")
        assert (done.returncode, results(done)) == (0, {"b": "ok"}), done.stderr
        a.run("revoke", "b")
        revoked_at = time.monotonic()
        wait_until(lambda: "let in no more by the network: b" in site.log(a, "broker"), "it to be gone")
        gone_s = time.monotonic() - revoked_at
        print(f"the agent was out {gone_s:.2f} s after its node was revoked")
        assert gone_s < GONE_S


@pytest.mark.soak
def test_everybody_in_a_network_and_what_somebody_else_may_not(tmp_path: Path) -> None:
    with network(tmp_path, 3) as (site, (a, b, c)):
        site.broker(a)
        for machine in (a, b, c):
            site.agent(machine)
        done = site.call(a, "exec", "--json", "--", "uname")
        assert (done.returncode, results(done)) == (0, {"a": "ok", "b": "ok", "c": "ok"}), done.stderr
        # Another person, on another machine: the network says where the broker is, and an admin lets him in.
        stranger = site.call(b, "clients")
        assert stranger.returncode == 77, stranger.stderr
        key = stranger.stderr.partition("--public-key '")[2].partition("'")[0]
        made = site.call(a, "client", "create", "--role", "operator", "--name", "bob", "--public-key", key)
        assert made.returncode == 0, made.stderr
        for more in ([], ["--host", "a"], ["--host", a.address()]):
            done = site.call(b, "exec", *more, "--json", "-t", "c", "--", "uname")
            assert (done.returncode, results(done)) == (0, {"c": "ok"}), done.stderr
        (site.home(b) / "note").write_text("hi\n")
        assert site.call(b, "file", "put", "note", "note").returncode == 0
        # Files, too: the agent of c is let in there as it is for commands.
        (site.home(b) / "conf").mkdir()
        (site.home(b) / "conf" / "motd").write_text("hi\n")
        assert site.call(b, "upload", "conf", "conf").returncode == 0
        synced = site.call(b, "sync", "-t", "c", "conf")
        assert synced.returncode == 0, synced.stderr
        assert (site.home(c) / ".holloway" / "c" / "files" / "conf" / "motd").read_text() == "hi\n"
        assert "no broker on node c" in site.call(b, "exec", "--host", "c", "--", "uname").stderr

        forged(site, a, c)
        # What c says of itself makes it no broker.
        site.broker(c)
        wait_until(
            lambda: "does not name this node for a broker" in site.log(c, "broker"), "c to hear that nobody obeys"
        )
        assert results(site.call(b, "exec", "--json", "--", "uname")) == {"a": "ok", "b": "ok", "c": "ok"}
        assert "no broker on node c" in site.call(b, "exec", "--host", "c", "--", "uname").stderr

        # Daemons that are started again: the connection outlives that, or comes back.
        for machine in (a, b):
            machine.kill()
            machine.up()
        time.sleep(3)
        wait_until(
            lambda: results(site.call(a, "exec", "--json", "--timeout", "5", "--", "uname")).get("b") == "ok",
            "b",
            timeout=60,
        )
        # Two brokers that both may: one has to be named.
        assert a.run("network", "--broker", "a", "--broker", "c")
        wait_until(lambda: "2 brokers" in site.call(b, "clients").stderr, "both", timeout=30)
        assert site.call(b, "clients", "--host", "a").returncode == 0

        # Agents leave the one that may not have a broker any more, though it is there.
        a.run("network", "--broker", "c")
        wait_until(lambda: "home is on node c" in site.log(b, "agent"), "b to go over", timeout=30)
        a.run("network", "--broker", "a")
        wait_until(lambda: site.log(b, "agent").count("home is on node a") == 2, "b to come back", timeout=30)
        again = ("exec", "--json", "--timeout", "5", "-t", "b", "--", "uname")
        wait_until(lambda: results(site.call(a, *again)) == {"b": "ok"}, "b", timeout=60)

        a.run("revoke", "c")
        wait_until(lambda: "let in no more by the network: c" in site.log(a, "broker"), "c to be gone")
        done = site.call(a, "exec", "--json", "--timeout", "5", "--", "uname")
        assert {name for name, state in results(done).items() if state == "ok"} == {"a", "b"}


@pytest.mark.soak
@needs_program("etcd", package="etcd-server")
@pytest.mark.skipif(os.geteuid() != 0, reason="another user: run it as root")
def test_an_agent_of_another_user_over_etcd_and_another_key(tmp_path: Path) -> None:
    with namespaces(3) as (store, left, right), tempfile.TemporaryDirectory(dir="/tmp") as folder:
        start_in(
            store,
            ["etcd", f"--data-dir={tmp_path / 'etcd'}", *plain_etcd(store)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        a, b = Machine(left, "a", tmp_path), Machine(right, "b", tmp_path)
        meet(a, b, registry=f"etcd://{store.ipv4}:2379/test")
        site = Site(tmp_path, [a, b])
        site.broker(a)
        assert site.call(a, "clients").returncode == 0

        # A user who may not talk to the daemon is told what root has to do.
        home = Path(folder)
        home.chmod(0o755)
        os.chown(home, NOBODY, NOBODY)
        own = [
            "setpriv",
            f"--reuid={NOBODY}",
            f"--regid={NOBODY}",
            "--clear-groups",
            *HOLLOWAY,
            "agent",
            "--root",
            "agent",
            "--name",
            "b",
        ]
        environ = os.environ | {"HOLLOWAY_CONTROL_SOCKET": str(tmp_path / "b" / "control.sock"), "HOME": str(home)}
        told = run_in(right, own, check=False, cwd=home, env=environ, stderr=subprocess.PIPE)
        assert told.returncode == 77, told.stderr
        key = told.stderr.partition("client enrol '")[2].partition("'")[0]
        assert len(key) == 40, told.stderr
        enrolled = site.call(b, "client", "enrol", key)
        assert enrolled.returncode == 0, enrolled.stderr
        keys = home / "agent" / "security" / "curve" / "client_keys.yml"
        with keys.open("a") as file:
            file.write(enrolled.stdout)
        where = enrolled.stderr.partition("--host ")[2].split()[0]
        with (home / "log").open("a") as log:
            agent = start_in(
                right,
                [*own, "--host", where, "--curve-key-file", str(keys)],
                cwd=home,
                env=environ,
                stdout=log,
                stderr=log,
            )
        wait_until(lambda: "registered as b" in (home / "log").read_text(), "the agent of nobody")
        done = site.call(a, "exec", "-t", "b", "--", "id", "-u")
        assert (done.returncode, done.stdout.strip()) == (0, str(NOBODY)), done.stderr
        agent.terminate()
        agent.wait(20)

        # The same node's agent as root: its key takes the place of that one, and is changed by removing it.
        site.agent(b, "--root", str(tmp_path / "own"))
        assert site.call(a, "exec", "-t", "b", "--", "id", "-u").stdout.strip() == "0"
        own_keys = tmp_path / "own" / "security" / "curve" / "client_keys.yml"
        before = own_keys.read_text()
        site.started["agentb"].terminate()
        site.started["agentb"].wait(20)
        own_keys.unlink()
        site.start(b, "agent", "--root", str(tmp_path / "own"))
        wait_until(lambda: site.log(b, "agent").count("registered as b") == 2, "the agent with another key")
        assert own_keys.read_text() != before
        assert key not in (tmp_path / "b" / "agent.curve").read_text()
        done = site.call(a, "client", "list", "--json")
        assert {each["name"]: each["created"] for each in json.loads(done.stdout)["clients"]}["b"] == "by the network"


def plain_etcd(store: Namespace) -> list[str]:
    client, peer = f"http://{store.ipv4}:2379", "http://127.0.0.1:2380"
    return [
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        "--log-level=error",
    ]


def forged(site: Site, broker: Machine, thief: Machine) -> None:
    """Whoever owns the registry writes a record of node b there, with a key of his own; it lets nobody in."""
    folder = site.home(thief)
    (folder / "thief.yml").write_text(f'server_public_key: "{server_key(site, broker)}"\n')
    said = site.call(thief, "agent", "--name", "b", "--host", broker.address(), "--curve-key-file", "thief.yml")
    key = said.stderr.partition("--public-key '")[2].partition("'")[0]
    assert len(key) == 40, said.stderr

    async def forge() -> None:
        async with open_registry(site.registry, wall_ns=time.time_ns) as registry:
            record = NodeRecord(name="b", public_key=StaticKey(bytes([9]) * 32).public, curve_key=key)
            await registry.put(node_key("home", "b"), encode_record(record))

    trio.run(forge)
    site.start(
        thief,
        "agent",
        "--root",
        str(folder / "thief"),
        "--name",
        "b",
        "--host",
        broker.address(),
        "--curve-key-file",
        "thief.yml",
    )
    wait_until(lambda: "does not let us in" in site.log(thief, "agent"), "the thief to be turned away")
    time.sleep(3)
    site.started["agent" + thief.name].terminate()
    assert "registered as b" not in site.log(thief, "agent")


def server_key(site: Site, broker: Machine) -> str:
    return site.log(broker, "broker").partition('server_public_key: "')[2].partition('"')[0]
