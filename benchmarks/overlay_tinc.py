"""tinc 1.0 as installed, with its default cipher and digest (AES-256-CBC, SHA-256 cut to four bytes), in router mode."""

from __future__ import annotations

import re
import signal
import subprocess
from pathlib import Path

from namespaces import Namespace, run_in
from overlays import INNER, MTU, Overlay, System, start_daemon, wait_for, wait_for_ping

PORT = 655
FRAME = MTU + 14  # what tinc calls MTU counts an Ethernet header


def start(left: Namespace, right: Namespace, folder: Path) -> Overlay:
    """Returns only when tinc has learnt the path MTU: until then it sends what may not fit through TCP."""
    hosts, log = (left, right), folder / "log"
    processes: list[subprocess.Popen[str]] = []
    for own, other in ((0, 1), (1, 0)):
        home = folder / f"node{own}"
        (home / "hosts").mkdir(parents=True)
        join = f"ConnectTo = node{other}\n" if own == 0 else ""
        (home / "tinc.conf").write_text(f"Name = node{own}\nInterface = tinc0\nAddressFamily = ipv4\n{join}")
        (home / "hosts" / f"node{own}").write_text(f"Address = {hosts[own].ipv4}\nSubnet = {INNER[own]}/32\n")
        up = home / "tinc-up"
        up.write_text(
            f"#!/bin/sh\nip address add {INNER[own]}/24 dev $INTERFACE\nip link set $INTERFACE mtu {MTU} up\n"
        )
        up.chmod(0o755)
        run_in(hosts[own], ["tincd", "-c", str(home), "-K", "2048"])  # adds the public key to its file in hosts
    for own, other in ((0, 1), (1, 0)):
        theirs = (folder / f"node{other}" / "hosts" / f"node{other}").read_text()
        (folder / f"node{own}" / "hosts" / f"node{other}").write_text(theirs)
    for own in (1, 0):
        argv = ["tincd", "-c", str(folder / f"node{own}"), "-D", "--pidfile", str(folder / f"{own}.pid")]
        processes.append(start_daemon(hosts[own], argv, log))
    overlay = Overlay(INNER[1], tuple(processes), log)
    wait_for_ping(overlay, left)
    wait_for(lambda: knows_path_mtu(overlay), "tinc to learn the path MTU", log)
    return overlay


def knows_path_mtu(overlay: Overlay) -> bool:
    """Both daemons, asked with SIGUSR2 for what they know, have said that frames of our MTU go through UDP."""
    assert overlay.log is not None
    for process in overlay.processes:
        process.send_signal(signal.SIGUSR2)
    said = overlay.log.read_text(errors="replace")
    told = re.findall(r"(node\d) at (?!MYSELF).* pmtu \d+ \(min (\d+)", said)  # what each says of the other
    return {node for node, least in told if int(least) >= FRAME} == {"node0", "node1"}


SYSTEMS = (
    System(
        "tinc",
        start,
        "tinc, AES-256-CBC and SHA-256",
        programs=("tincd",),
        package="tinc",
        version=("tincd", "--version"),
    ),
)
