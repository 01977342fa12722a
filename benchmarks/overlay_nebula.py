"""nebula as installed, from its example configuration: AES-256-GCM (its default), a static host map, an open firewall."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from namespaces import Namespace, run_in
from overlays import INNER, MTU, Overlay, System, start_daemon

PORT = 4242


def start(left: Namespace, right: Namespace, folder: Path) -> Overlay:
    """A certificate authority that lives as long as the folder signs both hosts."""
    hosts, log = (left, right), folder / "log"
    authority, secret = folder / "ca.crt", folder / "ca.key"
    run_in(left, ["nebula-cert", "ca", "-name", "bench", "-out-crt", str(authority), "-out-key", str(secret)])
    processes: list[subprocess.Popen[str]] = []
    for own, other in ((0, 1), (1, 0)):
        certificate, key = folder / f"{own}.crt", folder / f"{own}.key"
        sign = f"nebula-cert sign -ca-crt {authority} -ca-key {secret} -name host{own} -ip {INNER[own]}/24"
        run_in(left, [*sign.split(), "-out-crt", str(certificate), "-out-key", str(key)])
        everything = [{"port": "any", "proto": "any", "host": "any"}]
        path = folder / f"{own}.yml"
        settings = {
            "pki": {"ca": str(authority), "cert": str(certificate), "key": str(key)},
            "static_host_map": {INNER[other]: [f"{hosts[other].ipv4}:{PORT}"]},
            "lighthouse": {"am_lighthouse": False, "hosts": []},
            "listen": {"host": "0.0.0.0", "port": PORT},
            "cipher": "aes",
            "tun": {"dev": "nebula1", "mtu": MTU, "tx_queue": 500},
            "firewall": {"outbound": everything, "inbound": everything},
        }
        path.write_text(json.dumps(settings))  # JSON is YAML
        processes.append(start_daemon(hosts[own], ["nebula", "-config", str(path)], log))
    return Overlay(INNER[1], tuple(processes), log)


SYSTEMS = (
    System(
        "nebula",
        start,
        "nebula, AES-256-GCM",
        programs=("nebula", "nebula-cert"),
        package="nebula",
        version=("nebula", "-version"),
    ),
)
