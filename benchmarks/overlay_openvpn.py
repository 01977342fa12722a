"""OpenVPN as installed: TLS mode with pinned certificates, as openvpn-examples(5) sets it up, AES-256-GCM in user space."""

from __future__ import annotations

import subprocess
from pathlib import Path

from namespaces import Namespace, run_in
from overlays import INNER, INNER_NETWORK, MTU, Overlay, System, start_daemon

PORT = 1194


def start(left: Namespace, right: Namespace, folder: Path) -> Overlay:
    """The left host is the server, which takes the first address of the network; its only client gets the second."""
    hosts, log = (left, right), folder / "log"
    prints = []
    for own in (0, 1):
        crt, key = folder / f"{own}.crt", folder / f"{own}.key"
        make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:secp384r1 -nodes -sha256 -days 2"
        run_in(left, [*make.split(), "-subj", f"/CN=host{own}", "-keyout", str(key), "-out", str(crt)])
        said = run_in(left, ["openssl", "x509", "-fingerprint", "-sha256", "-noout", "-in", str(crt)]).stdout
        prints.append(said.partition("=")[2].strip())
    network = INNER_NETWORK.removesuffix("/24")
    roles = (
        f"server {network} 255.255.255.0\ntopology subnet\ndh none\nlocal {left.ipv4}\nport {PORT}\nkeepalive 60 300\n",
        f"client\nnobind\nremote {left.ipv4} {PORT}\n",
    )
    processes: list[subprocess.Popen[str]] = []
    for own, other in ((0, 1), (1, 0)):
        path = folder / f"{own}.conf"
        path.write_text(
            f"{roles[own]}dev tun0\nproto udp4\ntun-mtu {MTU}\ndata-ciphers AES-256-GCM\n"
            f"cert {folder / f'{own}.crt'}\nkey {folder / f'{own}.key'}\npeer-fingerprint {prints[other]}\n"
            # Before 2.6 there was no kernel data channel to switch off.
            "ignore-unknown-option disable-dco\ndisable-dco\nverb 1\n"
        )
        processes.append(start_daemon(hosts[own], ["openvpn", "--config", str(path)], log))
    return Overlay(INNER[1], tuple(processes), log)


SYSTEMS = (
    System(
        "openvpn",
        start,
        "OpenVPN, TLS mode, AES-256-GCM, no kernel data channel",
        programs=("openvpn", "openssl"),
        package="openvpn openssl",
        version=("openvpn", "--version"),
    ),
)
