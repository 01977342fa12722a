"""Holloway's own rows: two nodes of this checkout for each suite, with and without the kernel's offloads."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from daemons import HOLLOWAY, KeyPair
from dtls_certificates import Authority
from namespaces import Namespace
from overlays import INNER, MTU, Overlay, Start, System, start_daemon

PORT = 1099
DTLS_ROWS = ("dtls", "dtls-exporter")
ROWS = (  # name, suite, offloads
    ("holloway-aes-gcm", "aes-gcm", True),
    ("holloway-wireguard", "wireguard", True),
    ("holloway-aes-gcm-no-offloads", "aes-gcm", False),
    ("holloway-wireguard-no-offloads", "wireguard", False),
)


def start(suite: str, *, offloads: bool) -> Start:
    """Two nodes that know each other from their files."""

    def run(left: Namespace, right: Namespace, folder: Path) -> Overlay:
        hosts, keys, log = (left, right), (KeyPair.fresh(), KeyPair.fresh()), folder / "log"
        processes: list[subprocess.Popen[str]] = []
        for own, other in ((0, 1), (1, 0)):
            key = folder / f"{own}.key"
            key.touch(mode=0o600)
            key.write_text(keys[own].private + "\n")
            path = folder / f"{own}.toml"
            path.write_text(
                f'[node]\nname = "node{own}"\n'
                f'[interface]\nname = "hw0"\naddresses = ["{INNER[own]}/24"]\nmtu = {MTU}\n'
                f"offloads = {json.dumps(offloads)}\n"
                f'[listen]\nport = {PORT}\n[session]\nprivate_key_file = "{key.name}"\n'
                f'[[peer]]\nname = "node{other}"\npublic_key = "{keys[other].public}"\nsuite = "{suite}"\n'
                f'allowed = ["{INNER[other]}/32"]\nendpoint = "{hosts[other].ipv4}:{PORT}"\n'
                f'[control]\nsocket = "{folder / f"{own}.sock"}"\n'
            )
            processes.append(start_daemon(hosts[own], [*HOLLOWAY, "up", "-c", str(path)], log))
        return Overlay(INNER[1], tuple(processes), log)

    return run


def start_over_dtls(backend: str) -> Start:
    """Two nodes that know each other from their files, with certificates."""

    def run(left: Namespace, right: Namespace, folder: Path) -> Overlay:
        hosts, keys, log = (left, right), (KeyPair.fresh(), KeyPair.fresh()), folder / "log"
        authority = Authority()
        processes: list[subprocess.Popen[str]] = []
        for own, other in ((0, 1), (1, 0)):
            key = folder / f"{own}.key"
            key.touch(mode=0o600)
            key.write_text(keys[own].private + "\n")
            leaf = authority.issue(f"node{own}", uris=(f"holloway://holloway/node{own}",))
            certificate, private, trusted = leaf.write(folder, f"node{own}")
            path = folder / f"{own}.toml"
            path.write_text(
                f'[node]\nname = "node{own}"\nbackend = "{backend}"\n'
                f'[interface]\nname = "hw0"\naddresses = ["{INNER[own]}/24"]\nmtu = {MTU}\n'
                f'[listen]\nport = {PORT}\n[session]\nprivate_key_file = "{key.name}"\n'
                f'[dtls]\ncert_file = "{certificate.name}"\nkey_file = "{private.name}"\nca_file = "{trusted.name}"\n'
                f'[[peer]]\nname = "node{other}"\npublic_key = "{keys[other].public}"\n'
                f'allowed = ["{INNER[other]}/32"]\nendpoint = "{hosts[other].ipv4}:{PORT}"\n'
                f'[control]\nsocket = "{folder / f"{own}.sock"}"\n'
            )
            processes.append(start_daemon(hosts[own], [*HOLLOWAY, "up", "-c", str(path)], log))
        return Overlay(INNER[1], tuple(processes), log)

    return run


def start_in_one_task(left: Namespace, right: Namespace, folder: Path) -> Overlay:
    """Two nodes without actors: see `one_task_node`."""
    hosts, keys, log = (left, right), (KeyPair.fresh(), KeyPair.fresh()), folder / "log"
    processes: list[subprocess.Popen[str]] = []
    for own, other in ((0, 1), (1, 0)):
        key = folder / f"{own}.key"
        key.touch(mode=0o600)
        key.write_text(keys[own].private + "\n")
        command = [sys.executable, str(Path(__file__).with_name("one_task_node.py"))]
        options = {
            "mtu": str(MTU),
            "address": f"{INNER[own]}/24",
            "port": str(PORT),
            "private-key": str(key),
            "peer-key": keys[other].public,
            "peer-endpoint": f"{hosts[other].ipv4}:{PORT}",
            "peer-allowed": f"{INNER[other]}/32",
        }
        command += [word for name, value in options.items() for word in (f"--{name}", value)]
        processes.append(start_daemon(hosts[own], command, log))
    return Overlay(INNER[1], tuple(processes), log)


SYSTEMS = (
    *(
        System(
            name,
            start(suite, offloads=offloads),
            f"Holloway, suite {suite}{'' if offloads else ', [interface] offloads = false'}",
            version=(*HOLLOWAY, "--version"),
        )
        for name, suite, offloads in ROWS
    ),
    *(
        System(
            f"holloway-{backend}",
            start_over_dtls(backend),
            f"Holloway, back end {backend}: DTLS 1.2 with P-256 certificates, AES-256-GCM",
            version=(*HOLLOWAY, "--version"),
        )
        for backend in DTLS_ROWS
    ),
    System(
        "holloway-one-task",
        start_in_one_task,
        "the same code without actors, in one loop without Trio: what the walls between actors cost",
        version=(*HOLLOWAY, "--version"),
    ),
)
