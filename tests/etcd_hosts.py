"""An etcd cluster on a host of its own, in a namespace, with everything that may befall it; and pings that count every loss.

Responsible for the members, their users and what an administrator does with `etcdctl`. Not responsible for the nodes
(`machines`), nor for servers on this machine's own loopback (`etcd_servers`).
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from daemons import wait_until
from etcd_servers import FOLDERS
from namespaces import Namespace, run_in, start_in

USER, PASSWORD = "mesh", "of the nodes"
INTERVAL_S = 0.01
IN_FLIGHT = 30
RUN_PREFIX = "/trial"


@dataclass
class Member:
    """One process of the cluster."""

    name: str
    client: str
    argv: Sequence[str]
    process: subprocess.Popen[str] | None = field(default=None, repr=False)

    def send(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)


class EtcdHost:
    """`count` members on one host, all healthy when it is made."""

    def __init__(self, host: Namespace, folder: Path, count: int, *extra: str) -> None:
        self.host, self.folder = host, folder
        peers = [f"http://127.0.0.1:{2380 + 10 * number}" for number in range(count)]
        initial = ",".join(f"m{number}={peer}" for number, peer in enumerate(peers))
        self.members = [
            Member(
                f"m{number}",
                client := f"http://{host.ipv4}:{2379 + 10 * number}",
                [
                    "etcd",
                    f"--name=m{number}",
                    f"--data-dir={folder / f'm{number}'}",
                    f"--listen-client-urls={client}",
                    f"--advertise-client-urls={client}",
                    f"--listen-peer-urls={peer}",
                    f"--initial-advertise-peer-urls={peer}",
                    f"--initial-cluster={initial}",
                    "--log-level=error",
                    *extra,
                ],
            )
            for number, peer in enumerate(peers)
        ]
        self._credentials: list[str] = []
        for member in self.members:
            self.start(member)
        wait_until(lambda: self.is_healthy(), "etcd to be healthy")

    def url(self, folder: Path | None = None) -> str:
        """What nodes are told. With a folder: by user and password."""
        hosts = ",".join(member.client.removeprefix("http://") for member in self.members)
        if folder is None:
            return f"etcd://{hosts}{RUN_PREFIX}"
        password = folder / "etcd.password"
        password.touch(mode=0o600)
        password.write_text(PASSWORD)
        return f"etcd://{hosts}{RUN_PREFIX}?user={USER}&password_file={password}"

    def start(self, member: Member) -> None:
        """Start it, again on the same data if it ran before."""
        with (self.folder / f"{member.name}.log").open("a") as log:
            member.process = start_in(self.host, member.argv, stdout=log, stderr=log)

    def kill(self, member: Member) -> None:
        """As a crash would."""
        assert member.process is not None
        member.process.kill()
        member.process.wait(10)

    def signal(self, number: int) -> None:
        """Send every member a signal."""
        for member in self.members:
            member.send(number)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """All are there and say nothing."""
        self.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.signal(signal.SIGCONT)

    def ctl(self, *words: str, check: bool = True, member: Member | None = None) -> str:
        """What `etcdctl` says."""
        running = [each for each in self.members if each.process is not None and each.process.poll() is None]
        endpoints = ",".join(each.client for each in ([member] if member else running))
        argv = ["env", "ETCDCTL_API=3", "etcdctl", f"--endpoints={endpoints}", *self._credentials, *words]
        return str(run_in(self.host, argv, check=check).stdout)

    def transact(self, script: str) -> None:
        """Puts, as `etcdctl txn` reads them, one a line; all or nothing."""
        endpoint = f"--endpoints={self.members[0].client}"
        argv = ["env", "ETCDCTL_API=3", "etcdctl", endpoint, *self._credentials, "txn"]
        run_in(self.host, argv, stdin=None, input=f"\n{script}\n\n\n")

    def is_healthy(self) -> bool:
        return all("is healthy" in self.ctl("endpoint", "health", member=each, check=False) for each in self.members)

    def leader(self) -> Member:
        """The member that leads."""
        for member in self.members:
            (answer,) = json.loads(self.ctl("endpoint", "status", "-w", "json", member=member))
            if answer["Status"]["leader"] == answer["Status"]["header"]["member_id"]:
                return member
        raise AssertionError("nobody leads")

    def keys(self, under: str = "") -> set[str]:
        """The names of all keys of the network, without what stands before each."""
        place = f"{RUN_PREFIX}/holloway/home/{under}"
        lines = self.ctl("get", "--prefix", "--keys-only", place).split("\n")
        return {line.removeprefix(place) for line in lines if line.startswith(place)}

    def leases(self) -> list[str]:
        return re.findall(r"^[0-9a-f]{16}$", self.ctl("lease", "list"), re.MULTILINE)

    def compact(self) -> None:
        """Forget all history."""
        (answer, *_) = json.loads(self.ctl("endpoint", "status", "-w", "json"))
        self.ctl("compact", "--physical", str(answer["Status"]["header"]["revision"]))

    def enable_users(self) -> None:
        """Nobody is let in without a password from now on."""
        self.ctl("user", "add", "root:root")
        self.ctl("user", "grant-role", "root", "root", check=False)
        self.ctl("role", "add", USER)
        self.ctl("role", "grant-permission", USER, "--prefix=true", "readwrite", f"{RUN_PREFIX}/holloway/")
        self.ctl("user", "add", f"{USER}:{PASSWORD}")
        self.ctl("user", "grant-role", USER, USER)
        self.ctl("auth", "enable")
        self._credentials = ["--user=root:root"]


@contextmanager
def etcd_host(host: Namespace, name: str, count: int = 1, *extra: str) -> Iterator[EtcdHost]:
    """An etcd whose data lie in memory, so that no disk of this machine is what is tried."""
    folder = FOLDERS / f"holloway-{host.name}-{name}"
    folder.mkdir()
    try:
        made = EtcdHost(host, folder, count, *extra)
        try:
            yield made
        finally:
            for member in made.members:
                if member.process is not None and member.process.poll() is None:
                    made.kill(member)
    finally:
        subprocess.run(["rm", "-r", str(folder)], check=True)


class Pings:
    """A program that asks an address a hundred times a second, and what came back."""

    def __init__(self, namespace: Namespace, address: str, folder: Path) -> None:
        self._output = folder / f"pings-{namespace.name}"
        with self._output.open("w") as output:
            command = ["ping", "-n", "-i", str(INTERVAL_S), "-W", "2", address]
            self._process = start_in(namespace, command, stdout=output, stderr=subprocess.STDOUT)

    def answered(self) -> set[int]:
        """The numbers that were answered."""
        return {int(number) for number in re.findall(r"icmp_seq=(\d+) ttl", self._output.read_text())}

    def end(self) -> tuple[int, int]:
        """Stop. How many were sent, but for the last ones, which may be under way; and how many of those were lost."""
        before = max(self.answered(), default=0)
        time.sleep(1)
        answered = self.answered()
        until = max(answered, default=0) - IN_FLIGHT
        self._process.send_signal(signal.SIGINT)
        self._process.wait(10)
        assert until > before - IN_FLIGHT > 0, f"nothing is answered any more: {self._output.read_text()[-1000:]}"
        return until, until - len({number for number in answered if number <= until})
