"""The systems that are measured: each joins two hosts with an overlay, 10.98.0.1 to 10.98.0.2, and takes it down again.

Peers are configured as their documentation recommends, at the same inner MTU. Not responsible for what is measured.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from daemons import Daemon, KeyPair, Peer
from namespaces import Namespace, run_in, start_in

INNER = ("10.98.0.1", "10.98.0.2")
MTU = 1420
READY_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class Overlay:
    """A system under measurement that is up. `target`: the far host's address. `pids`: its processes at both ends."""

    target: str
    pids: tuple[int, ...]


def raw(left: Namespace, right: Namespace) -> Iterator[Overlay]:
    """The underlay itself: the ceiling."""
    yield Overlay(right.ipv4, ())


def holloway(suite: str) -> Callable[[Namespace, Namespace], Iterator[Overlay]]:
    """Two nodes with one suite."""

    def run(left: Namespace, right: Namespace) -> Iterator[Overlay]:
        with tempfile.TemporaryDirectory(prefix="holloway-bench-") as folder:
            nodes = [
                Daemon(name=name, namespace=host, folder=Path(folder), addresses=(f"{address}/24",))
                for name, host, address in (("a", left, INNER[0]), ("b", right, INNER[1]))
            ]
            for own, other in (nodes, nodes[::-1]):
                peer = Peer(
                    name=other.name,
                    public=other.keys.public,
                    allowed=(other.addresses[0].replace("/24", "/32"),),
                    endpoint=f"{other.namespace.ipv4}:{other.port}",
                    suite=suite,
                )
                own.peers.append(peer)
            for node in nodes:
                node.start()
            nodes[0].wait_for_session("b")
            yield Overlay(INNER[1], tuple(node.process.pid for node in nodes if node.process))
            for node in nodes:
                node.stop()

    return run


def wireguard_go(left: Namespace, right: Namespace) -> Iterator[Overlay]:
    """The installed wireguard-go at both ends."""
    with tempfile.TemporaryDirectory(prefix="holloway-bench-") as folder:
        keys = [KeyPair.fresh(), KeyPair.fresh()]
        processes = []
        for number, host in enumerate((left, right)):
            device = f"wgb{os.getpid() % 100000}x{number}"
            path = Path(folder, device)
            path.touch(mode=0o600)
            path.write_text(keys[number].private)
            processes.append(
                start_in(
                    host,
                    ["wireguard-go", "-f", device],
                    env={**os.environ, "LOG_LEVEL": "error"},
                    stderr=subprocess.DEVNULL,
                )
            )
            control = Path("/var/run/wireguard", f"{device}.sock")
            until = time.monotonic() + READY_TIMEOUT_S
            while not control.exists() and time.monotonic() < until:
                time.sleep(0.02)
            other = (right, left)[number]
            setup = f"wg set {device} private-key {path} listen-port 51820 peer {keys[1 - number].public}"
            run_in(host, [*setup.split(), "allowed-ips", f"{INNER[1 - number]}/32", "endpoint", f"{other.ipv4}:51820"])
            run_in(host, ["ip", "address", "add", f"{INNER[number]}/24", "dev", device])
            run_in(host, ["ip", "link", "set", device, "mtu", str(MTU), "up"])
        yield Overlay(INNER[1], tuple(process.pid for process in processes))
        for process in processes:
            process.terminate()
            process.wait(10)


Join: TypeAlias = Callable[[Namespace, Namespace], AbstractContextManager[Overlay]]
OVERLAYS: dict[str, Join] = {
    "raw": contextmanager(raw),
    "holloway-aes-gcm": contextmanager(holloway("aes-gcm")),
    "holloway-wireguard": contextmanager(holloway("wireguard")),
}
if shutil.which("wireguard-go") and shutil.which("wg"):
    OVERLAYS["wireguard-go"] = contextmanager(wireguard_go)


def versions() -> dict[str, str]:
    """What was measured against."""
    if "wireguard-go" not in OVERLAYS:
        return {}
    said = subprocess.run(["wireguard-go", "--version"], capture_output=True, text=True, check=False).stdout
    return {"wireguard-go": said.splitlines()[0] if said else "unknown"}
