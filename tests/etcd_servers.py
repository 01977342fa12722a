"""Real etcd servers for tests: started on free ports of this machine, and always ended by their process id.

    with etcd_server() as server:
        url = server.url("/prefix")

Responsible for the processes, their certificates, users and data folders, and for a door through which a test does
what only an administrator may (`EtcdServer.ask`: the JSON gateway on a plain listener of its own). NOT responsible for
the back end under test. `shared_server` is one plain server for all tests of a process; each test takes a prefix of
its own.
"""

from __future__ import annotations

import atexit
import base64
import functools
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from etcd_certificates import Authority
from namespaces import needs_program

START_S = 20.0
END_S = 5.0
LOGIN = "/v3/auth/authenticate"
PREFIX = "holloway-etcd-"
MEMORY = Path("/dev/shm")  # etcd calls fsync for every change
FOLDERS = MEMORY if os.access(MEMORY, os.W_OK) else Path(tempfile.gettempdir())

needs_etcd = needs_program("etcd", package="etcd-server")

_prefixes = itertools.count()


@dataclass
class EtcdServer:
    """One member. `port` is for clients (TLS when there is an authority), `admin_port` is plain HTTP always."""

    name: str
    folder: Path
    arguments: Sequence[str]
    port: int
    admin_port: int
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    administrator: tuple[str, str] | None = None
    """Who asks, when nobody is named."""

    def url(self, prefix: str = "/", **query: object) -> str:
        """A registry URL of this server."""
        return etcd_url([self], prefix, **query)

    def start(self, *, wait: bool = True) -> None:
        """Start it, again on the same data if it ran before, and wait until it serves."""
        ending = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*ending, "etcd", *self.arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={"PATH": os.environ["PATH"]},
            )
        if wait:
            self.wait_until_healthy()

    def wait_until_healthy(self) -> None:
        give_up = time.monotonic() + START_S
        while not self._is_healthy():
            assert self.process is not None
            if self.process.poll() is not None or time.monotonic() > give_up:
                raise AssertionError(f"etcd did not start:\n{(self.folder / 'log').read_text()[-4000:]}")
            time.sleep(0.02)

    def _is_healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port}/health", timeout=2) as answer:
                return json.load(answer)["health"] == "true"
        except (OSError, urllib.error.URLError):
            return False

    def kill(self) -> None:
        """As a crash would."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(END_S)
            self.process = None

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """It is there and says nothing."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        try:
            while not all(_state_of(thread) == "T" for thread in Path(f"/proc/{self.process.pid}/task").iterdir()):
                time.sleep(0.001)
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def ask(self, path: str, body: object, *, user: tuple[str, str] | None = None) -> Any:
        """One call of the JSON gateway (https://etcd.io/docs/v3.4/dev-guide/api_grpc_gateway/), blocking."""
        headers = {"Content-Type": "application/json"}
        user = user or self.administrator
        if user is not None and path != LOGIN:
            token = self.ask(LOGIN, {"name": user[0], "password": user[1]})["token"]
            headers["Authorization"] = token
        data = json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.admin_port}{path}", data, headers)
        with urllib.request.urlopen(request, timeout=5) as answer:
            return json.load(answer)

    def put(self, key: bytes, value: bytes) -> int:
        """Put a key by its full name, past the back end. Returns the revision."""
        return int(self.ask("/v3/kv/put", {"key": text(key), "value": text(value)})["header"]["revision"])

    def compact(self) -> None:
        """Forget all history."""
        revision = self.ask("/v3/kv/range", {"key": text(b"\0")})["header"]["revision"]
        self.ask("/v3/kv/compaction", {"revision": revision, "physical": True})

    def revoke_all(self) -> None:
        """End all leases, so that no test sees the keys of another expire."""
        for lease in self.leases():
            self.ask("/v3/kv/lease/revoke", {"ID": lease})

    def leases(self) -> set[str]:
        """The numbers of all leases, as the gateway writes them."""
        return {str(lease["ID"]) for lease in self.ask("/v3/lease/leases", {}).get("leases", [])}

    def enable_users(self, users: dict[str, tuple[str | None, str]]) -> None:
        """Switch authentication on. `users`: name to password (None: by certificate) and the prefix it may use."""
        self._add_user("root", "root")
        self.ask("/v3/auth/role/add", {"name": "root"})
        self.ask("/v3/auth/user/grant", {"user": "root", "role": "root"})
        for name, (password, prefix) in users.items():
            self._add_user(name, password)
            self.ask("/v3/auth/role/add", {"name": name})
            end = prefix.encode()[:-1] + bytes([prefix.encode()[-1] + 1])
            permission = {"permType": "READWRITE", "key": text(prefix.encode()), "range_end": text(end)}
            self.ask("/v3/auth/role/grant", {"name": name, "perm": permission})
            self.ask("/v3/auth/user/grant", {"user": name, "role": name})
        self.ask("/v3/auth/enable", {})

    def _add_user(self, name: str, password: str | None) -> None:
        how = {"options": {"no_password": True}} if password is None else {"password": password}
        self.ask("/v3/auth/user/add", {"name": name, **how})


@contextmanager
def etcd_server(*extra: str, authority: Authority | None = None) -> Iterator[EtcdServer]:
    """One server, with `extra` arguments. With an authority, clients need TLS and a certificate of that authority."""
    with etcd_cluster(1, *extra, authority=authority) as (server,):
        yield server


@contextmanager
def etcd_cluster(count: int, *extra: str, authority: Authority | None = None) -> Iterator[list[EtcdServer]]:
    """`count` members of one cluster, all healthy."""
    ports = _free_ports(3 * count)
    peers = [f"http://127.0.0.1:{port}" for port in ports[2::3]]
    initial = ",".join(f"m{number}={peer}" for number, peer in enumerate(peers))
    with ExitStack() as stack:
        _sweep()
        folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=FOLDERS))
        stack.callback(shutil.rmtree, folder)
        servers = []
        for number, (port, admin_port) in enumerate(zip(ports[::3], ports[1::3], strict=True)):
            own = folder / f"m{number}"
            own.mkdir()
            scheme, tls = "http", list[str]()
            if authority is not None:
                certificate, key = authority.issue(own / "server", names=["localhost"], addresses=["127.0.0.1"])
                scheme = "https"
                tls = [f"--cert-file={certificate}", f"--key-file={key}"]
                tls += ["--client-cert-auth", f"--trusted-ca-file={authority.path}"]
            arguments = [
                f"--name=m{number}",
                f"--data-dir={own / 'data'}",
                f"--listen-client-urls={scheme}://127.0.0.1:{port},http://127.0.0.1:{admin_port}",
                f"--advertise-client-urls={scheme}://127.0.0.1:{port}",
                f"--listen-peer-urls={peers[number]}",
                f"--initial-advertise-peer-urls={peers[number]}",
                f"--initial-cluster={initial}",
                f"--initial-cluster-token={folder.name}",
                f"--heartbeat-interval={50 if count > 1 else 20}",  # alone, it need not wait for others
                f"--election-timeout={500 if count > 1 else 200}",
                "--bcrypt-cost=4",
                "--logger=zap",
                "--log-level=warn",
                *tls,
                *extra,
            ]
            servers.append(EtcdServer(f"m{number}", own, arguments, port, admin_port))
            stack.callback(servers[-1].kill)
        for server in servers:
            server.start(wait=False)
        for server in servers:
            server.wait_until_healthy()
        yield servers


@functools.cache
def shared_server() -> EtcdServer:
    """One plain server for all tests of this process; ended when the process ends."""
    stack = ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(etcd_server())


def fresh_prefix() -> str:
    """A prefix that no other test of this process has."""
    return f"/test-{next(_prefixes)}/"


def etcd_url(servers: Sequence[EtcdServer], prefix: str = "/", **query: object) -> str:
    """A registry URL of these servers."""
    hosts = ",".join(f"127.0.0.1:{server.port}" for server in servers)
    return f"etcd://{hosts}{prefix}" + ("?" if query else "") + "&".join(f"{key}={query[key]}" for key in query)


def text(data: bytes) -> str:
    """Bytes as the gateway wants them."""
    return base64.b64encode(data).decode()


def _sweep() -> None:
    """Remove the folders of test runs that were killed; their servers ended with them."""
    for folder in FOLDERS.glob(f"{PREFIX}*"):
        if not Path(f"/proc/{folder.name.removeprefix(PREFIX).partition('-')[0]}").exists():
            shutil.rmtree(folder, ignore_errors=True)


def _state_of(thread: Path) -> str:
    return (thread / "stat").read_text().rpartition(") ")[2][:1]  # proc(5)


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
