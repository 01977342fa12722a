"""wireguard-go as installed, set up with wg(8) as its manual shows."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from daemons import KeyPair
from namespaces import Namespace, run_in
from overlays import INNER, Overlay, System, give_address, start_daemon, wait_for

PORT = 51820
CONTROL = Path("/var/run/wireguard")


def start(left: Namespace, right: Namespace, folder: Path) -> Overlay:
    """The control sockets of all namespaces lie in one folder, so devices carry names that no other run has."""
    hosts, keys, log = (left, right), (KeyPair.fresh(), KeyPair.fresh()), folder / "log"
    processes: list[subprocess.Popen[str]] = []
    for own, other in ((0, 1), (1, 0)):
        device = f"wgb{os.getpid() % 10_000_000}x{own}"
        key = folder / f"{own}.key"
        key.touch(mode=0o600)
        key.write_text(keys[own].private)
        processes.append(start_daemon(hosts[own], ["wireguard-go", "-f", device], log))
        wait_for((CONTROL / f"{device}.sock").exists, "wireguard-go's control socket", log)
        setup = f"wg set {device} private-key {key} listen-port {PORT} peer {keys[other].public}"
        reach = f"allowed-ips {INNER[other]}/32 endpoint {hosts[other].ipv4}:{PORT}"
        run_in(hosts[own], [*setup.split(), *reach.split()])
        give_address(hosts[own], device, own)
    return Overlay(INNER[1], tuple(processes), log)


SYSTEMS = (
    System(
        "wireguard-go",
        start,
        "wireguard-go, ChaCha20-Poly1305",
        programs=("wireguard-go", "wg"),
        package="wireguard-go wireguard-tools",
        version=("wireguard-go", "--version"),
    ),
)
