"""`holloway up` processes in namespaces, for integration tests: configuration, start, questions, end.

Not responsible for the namespaces (`namespaces`) nor for what a test expects of the nodes.
"""

from __future__ import annotations

import json
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from namespaces import Namespace, start_in

from holloway.protocols.keys import StaticKey, clamp, encode_key

HOLLOWAY = [sys.executable, "-P", "-c", "from holloway.cli.main import main; main()"]
START_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class KeyPair:
    """A key pair in WireGuard's text form."""

    private: str
    public: str

    @classmethod
    def fresh(cls) -> KeyPair:
        private = clamp(secrets.token_bytes(32))
        return cls(encode_key(private), encode_key(StaticKey(private).public))


@dataclass(kw_only=True)
class Peer:
    """A `[[peer]]` table. `extra` is more TOML for it."""

    name: str
    public: str
    allowed: Sequence[str]
    endpoint: str | None = None
    suite: str = "aes-gcm"
    extra: str = ""


@dataclass(kw_only=True)
class Daemon:
    """A node: its files in `folder`, and its process while it runs."""

    name: str
    namespace: Namespace
    folder: Path
    addresses: Sequence[str]
    keys: KeyPair = field(default_factory=KeyPair.fresh)
    peers: list[Peer] = field(default_factory=list)
    port: int = 1099
    interface: str = ""
    listen: str = ""
    session: str = ""
    extra: str = ""
    process: subprocess.Popen[str] | None = None

    @property
    def config(self) -> Path:
        return self.folder / f"{self.name}.toml"

    @property
    def socket(self) -> Path:
        return self.folder / f"{self.name}.sock"

    @property
    def log(self) -> str:
        path = self.folder / f"{self.name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def write(self) -> Path:
        """Write the key and the configuration."""
        key = self.folder / f"{self.name}.key"
        key.touch(mode=0o600)
        key.write_text(self.keys.private + "\n")
        tables = "".join(
            f'[[peer]]\nname = "{peer.name}"\npublic_key = "{peer.public}"\nallowed = {json.dumps(list(peer.allowed))}\n'
            f'suite = "{peer.suite}"\n'
            + (f'endpoint = "{peer.endpoint}"\n' if peer.endpoint else "")
            + peer.extra
            + "\n"
            for peer in self.peers
        )
        self.config.write_text(
            f'[node]\nname = "{self.name}"\n'
            f'[interface]\nname = "hw0"\naddresses = {json.dumps(list(self.addresses))}\n{self.interface}\n'
            f"[listen]\nport = {self.port}\n{self.listen}\n"
            f'[session]\nprivate_key_file = "{key.name}"\n{self.session}\n{tables}'
            f'[control]\nsocket = "{self.socket}"\n{self.extra}\n'
        )
        return self.config

    def start(self, *, wait: bool = True) -> None:
        """Run it; with `wait`, until its control socket answers."""
        self.write()
        with (self.folder / f"{self.name}.log").open("a") as log:
            self.process = start_in(
                self.namespace,
                [*HOLLOWAY, "up", "-c", str(self.config), "--log-level", "debug"],
                stdout=log,
                stderr=log,
            )
        if wait:
            wait_until(lambda: self.status() is not None, f"{self.name} to answer", of=self)

    def stop(self) -> int:
        """SIGTERM, and its exit code."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(20)

    def kill(self) -> None:
        """SIGKILL."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def ask(self, operation: str) -> Any:
        """The result of one request to the control socket."""
        with socket.socket(socket.AF_UNIX) as client, client.makefile("rwb") as stream:
            client.settimeout(10)
            client.connect(str(self.socket))
            stream.write(json.dumps({"op": operation}).encode() + b"\n")
            stream.flush()
            return json.loads(stream.readline())["result"]

    def status(self) -> Any:
        """The object of `holloway status --json`, or `None` while nobody answers."""
        try:
            return self.ask("status")
        except (OSError, ValueError):
            return None

    def peer(self, name: str) -> Any:
        """One peer of `status`, or `None`."""
        status = self.status()
        return next((peer for peer in status["peers"] if peer["name"] == name), None) if status else None

    def wait_for_session(self, name: str) -> None:
        wait_until(lambda: (self.peer(name) or {}).get("state") == "ok", f"a session with {name}", of=self)


def two_nodes(
    left: Namespace, right: Namespace, folder: Path, *, suite: str = "aes-gcm", session: str = ""
) -> tuple[Daemon, Daemon]:
    """Nodes a and b that know each other, not yet running. Inner addresses end in 1 and 2, in both families."""
    a, b = (
        Daemon(
            name=name,
            namespace=namespace,
            folder=folder,
            addresses=(f"10.99.0.{number}/24", f"fd99::{number}/64"),
            session=session,
        )
        for number, (name, namespace) in enumerate((("a", left), ("b", right)), 1)
    )
    for own, other, number in ((a, b, 2), (b, a, 1)):
        own.peers.append(
            Peer(
                name=other.name,
                public=other.keys.public,
                allowed=(f"10.99.0.{number}/32", f"fd99::{number}/128"),
                endpoint=f"{other.namespace.ipv4}:{other.port}",
                suite=suite,
            )
        )
    return a, b


def wait_until(
    holds: Callable[[], bool], what: str, *, timeout: float = START_TIMEOUT_S, of: Daemon | None = None
) -> float:
    """Wait for a condition; the seconds it took. Fails with what the node logged."""
    began = time.monotonic()
    while not holds():
        waited = time.monotonic() - began
        ended = of is not None and of.process is not None and of.process.poll() is not None
        if waited > timeout or ended:
            raise AssertionError(f"waited {waited:.1f} s for {what}\n{of.log if of else ''}")
        time.sleep(0.05)
    return time.monotonic() - began
