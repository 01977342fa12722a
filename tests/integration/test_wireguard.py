"""A node of the `wireguard` suite against the real thing: wireguard-go, configured by `wg`, on another host."""

from __future__ import annotations

import itertools
import os
import secrets
import subprocess
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from daemons import HOLLOWAY, Daemon, KeyPair, Peer, wait_until
from namespaces import (
    Namespace,
    namespaces,
    needs_namespaces,
    needs_program,
    run_in,
    start_in,
    wait_until_local,
)
from transfer import transfer

pytestmark = [
    needs_namespaces,
    needs_program("wireguard-go", package="wireguard-go"),
    needs_program("wg", package="wireguard-tools"),
    needs_program("ping", package="iputils-ping"),
]
PORT = 51820
_numbers = itertools.count()


class WireGuard:
    """A wireguard-go device. Its control socket is shared by all namespaces, so its name is its own."""

    def __init__(self, namespace: Namespace, folder: Path, keys: KeyPair) -> None:
        self.namespace = namespace
        self.keys = keys
        self.device = f"wg{os.getpid() % 100000}x{next(_numbers)}"
        self._key = folder / f"{self.device}.key"
        self._key.touch(mode=0o600)
        self._key.write_text(keys.private)

    def wg(self, *arguments: str) -> str:
        return run_in(self.namespace, ["wg", *arguments]).stdout

    def start(self, address: int) -> None:
        start_in(self.namespace, ["wireguard-go", "-f", self.device], env={**os.environ, "LOG_LEVEL": "error"})
        control = Path("/var/run/wireguard", f"{self.device}.sock")
        wait_until(control.exists, "wireguard-go")
        self.wg("set", self.device, "private-key", str(self._key), "listen-port", str(PORT))
        for command in (
            f"address add 10.99.0.{address}/24 dev {self.device}",
            f"address add fd99::{address}/64 dev {self.device} nodad",
            f"link set {self.device} mtu 1420 up",
        ):
            run_in(self.namespace, ["ip", *command.split()])
        wait_until_local(f"fd99::{address}", inside=["ip", "netns", "exec", self.namespace.name])

    def add_peer(self, public: str, *options: str) -> None:
        self.wg("set", self.device, "peer", public, "allowed-ips", "10.99.0.1/32,fd99::1/128", *options)

    def handshake(self) -> int:
        """When the last handshake was, in seconds since 1970; 0 before the first."""
        return int(self.wg("show", self.device, "latest-handshakes").split()[1])


@contextmanager
def node_and_wireguard(
    folder: Path, *, calls: str, session: str = "", wireguard_keys: KeyPair | None = None, peer_extra: str = ""
) -> Iterator[tuple[Daemon, WireGuard]]:
    """A node at .1, running, and a WireGuard device at .2 that knows it. `calls` is who knows the other's endpoint."""
    with namespaces(2) as (left, right):
        keys = KeyPair.fresh()
        node = Daemon(
            name="a", namespace=left, folder=folder, addresses=("10.99.0.1/24", "fd99::1/64"), session=session
        )
        node.peers.append(
            Peer(
                name="w",
                public=keys.public,
                allowed=("10.99.0.2/32", "fd99::2/128"),
                endpoint=f"{right.ipv4}:{PORT}" if calls == "node" else None,
                suite="wireguard",
                extra=peer_extra,
            )
        )
        wireguard = WireGuard(right, folder, wireguard_keys or keys)
        wireguard.start(2)
        node.start()
        if calls == "wireguard":
            wireguard.add_peer(node.keys.public, "endpoint", f"{left.ipv4}:{node.port}")
        else:
            wireguard.add_peer(node.keys.public)
        yield node, wireguard


@pytest.mark.parametrize("calls", ["node", "wireguard"])
def test_either_side_begins_the_handshake_and_both_families_pass(tmp_path: Path, calls: str) -> None:
    with node_and_wireguard(tmp_path, calls=calls) as (node, wireguard):
        first, second = (node.namespace, ("10.99.0.2", "fd99::2")), (wireguard.namespace, ("10.99.0.1", "fd99::1"))
        for namespace, targets in (first, second) if calls == "node" else (second, first):
            for target in targets:
                run_in(namespace, ["ping", "-c", "3", "-i", "0.1", "-W", "8", target], timeout=30)
        assert wireguard.handshake() > 0
        assert {"gso", "gro"} == set(node.status()["node"]["offloads"]), (
            "the kernel cuts for peers that take no records"
        )
        peer = node.peer("w")
        assert (peer["state"], peer["suite"]) == ("ok", "wireguard")
        assert peer["endpoint"] == f"{wireguard.namespace.ipv4}:{PORT}"


def test_a_hundred_megabytes_arrive_whole_both_ways(tmp_path: Path) -> None:
    with node_and_wireguard(tmp_path, calls="node") as (node, wireguard):
        node.wait_for_session("w")
        transfer(node.namespace, wireguard.namespace, "10.99.0.2", 100_000_000)
        transfer(wireguard.namespace, node.namespace, "fd99::1", 100_000_000)


def test_a_rekey_loses_nothing(tmp_path: Path) -> None:
    """Our timers are shortened; WireGuard accepts a new initiation whenever we begin one."""
    timers = "rekey_after_s = 1.0\nreject_after_s = 8.0\nrekey_timeout_s = 0.5\nkeepalive_timeout_s = 1.0"
    with node_and_wireguard(tmp_path, calls="node", session=timers) as (node, wireguard):
        node.wait_for_session("w")
        first = wireguard.handshake()
        done = run_in(node.namespace, ["ping", "-q", "-c", "2000", "-i", "0.003", "-W", "3", "10.99.0.2"], timeout=60)
        assert "2000 packets transmitted, 2000 received, 0% packet loss" in done.stdout
        assert node.ask("peers")["peers"][0]["handshakes"] >= 5
        assert wireguard.handshake() > first


def test_the_peers_port_may_change_in_mid_session(tmp_path: Path) -> None:
    with node_and_wireguard(tmp_path, calls="wireguard") as (node, wireguard):
        run_in(wireguard.namespace, ["ping", "-c", "1", "-W", "8", "10.99.0.1"])
        before = node.ask("peers")["peers"][0]
        wireguard.wg("set", wireguard.device, "listen-port", "51999")
        run_in(wireguard.namespace, ["ping", "-c", "3", "-i", "0.1", "-W", "3", "10.99.0.1"])
        run_in(node.namespace, ["ping", "-c", "3", "-i", "0.1", "-W", "3", "10.99.0.2"])
        after = node.ask("peers")["peers"][0]
        assert after["endpoint"] == f"{wireguard.namespace.ipv4}:51999"
        assert after["epoch"] == before["epoch"]


def test_a_wrong_key_is_refused_whoever_begins(tmp_path: Path) -> None:
    with node_and_wireguard(tmp_path, calls="wireguard", wireguard_keys=KeyPair.fresh()) as (node, wireguard):
        lost = run_in(wireguard.namespace, ["ping", "-c", "2", "-i", "0.2", "-W", "1", "10.99.0.1"], check=False)
        assert lost.returncode == 1
        assert wireguard.handshake() == 0
        assert node.status()["drops"]["unknown_peer"] >= 1
        assert node.peer("w")["state"] != "ok"


def test_a_preshared_key_must_be_the_same_on_both_sides(tmp_path: Path) -> None:
    right_key, wrong_key = (b64encode(secrets.token_bytes(32)).decode() for _ in range(2))
    for name, key in (("right.psk", right_key), ("wrong.psk", wrong_key)):
        path = tmp_path / name
        path.touch(mode=0o600)
        path.write_text(key + "\n")
    extra = 'preshared_key_file = "right.psk"'
    with node_and_wireguard(tmp_path, calls="wireguard", peer_extra=extra) as (node, wireguard):
        wireguard.add_peer(node.keys.public, "preshared-key", str(tmp_path / "wrong.psk"))
        lost = run_in(wireguard.namespace, ["ping", "-c", "1", "-W", "1", "10.99.0.1"], check=False)
        assert lost.returncode == 1
        wireguard.add_peer(node.keys.public, "preshared-key", str(tmp_path / "right.psk"))
        run_in(wireguard.namespace, ["ping", "-c", "1", "-W", "12", "10.99.0.1"], timeout=30)


def test_keygen_and_pubkey_agree_with_wg() -> None:
    with namespaces(1) as (alone,):
        private = run_in(alone, [*HOLLOWAY, "keygen"], stderr=subprocess.DEVNULL).stdout
        theirs = subprocess.run(["wg", "pubkey"], input=private, capture_output=True, text=True, check=True).stdout
        ours = subprocess.run([*HOLLOWAY, "pubkey"], input=private, capture_output=True, text=True, check=True).stdout
        assert ours == theirs
        private = subprocess.run(["wg", "genkey"], capture_output=True, text=True, check=True).stdout
        ours, theirs = (
            subprocess.run(argv, input=private, capture_output=True, text=True, check=True).stdout
            for argv in ([*HOLLOWAY, "pubkey"], ["wg", "pubkey"])
        )
        assert ours == theirs


def test_a_wireguard_device_is_the_way_out(tmp_path: Path) -> None:
    with node_and_wireguard(tmp_path, calls="node") as (node, wireguard):
        world = "198.51.100.1"
        run_in(wireguard.namespace, ["ip", "address", "add", f"{world}/32", "dev", "lo"])
        ping = ["ping", "-c", "1", "-W", "1", world]
        assert run_in(node.namespace, ping, check=False).returncode
        node.stop()
        node.peers[0].allowed = ("10.99.0.2/32", "0.0.0.0/0")
        node.extra = '[gateway]\nthrough = "w"\n'
        node.start()
        wait_until(lambda: not run_in(node.namespace, ping, check=False).returncode, "the world to answer", of=node)
        assert "dev hw0" in run_in(node.namespace, ["ip", "route", "get", world]).stdout
        assert node.ask("routes")["gateway"]["state"] == "ok"
