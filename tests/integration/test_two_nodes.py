"""Two `holloway up` processes on two hosts, with real devices, sockets and a real kernel between them."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from daemons import HOLLOWAY, KeyPair, Peer, two_nodes, wait_until
from namespaces import Namespace, namespaces, needs_namespaces, needs_program, run_in, start_in
from transfer import transfer

FLOOD = """
import socket, time
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as flood:
    for number in range(2000):
        flood.sendto(bytes(100), ("10.99.0.77", 9))
        time.sleep(0.0005)
"""

pytestmark = [needs_namespaces, needs_program("ping", package="iputils-ping")]


@pytest.mark.parametrize("suite", ["aes-gcm", "wireguard"])
def test_a_ping_passes_in_both_families_and_both_ways(tmp_path: Path, suite: str) -> None:
    with namespaces(2) as (left, right):
        a, b = two_nodes(left, right, tmp_path, suite=suite)
        a.start()
        b.start()
        a.wait_for_session("b")
        for namespace, targets in ((left, ("10.99.0.2", "fd99::2")), (right, ("10.99.0.1", "fd99::1"))):
            for target in targets:
                run_in(namespace, ["ping", "-c", "3", "-i", "0.1", "-W", "3", target])
        peer = a.peer("b")
        assert peer["suite"] == suite
        assert peer["rx"]["packets"] >= 12
        assert peer["tx"]["bytes"] > peer["tx"]["packets"] * 84


def test_a_gigabyte_arrives_whole_both_ways(tmp_path: Path) -> None:
    with namespaces(2) as (left, right):
        a, b = two_nodes(left, right, tmp_path)
        a.start()
        b.start()
        a.wait_for_session("b")
        transfer(left, right, "10.99.0.2", 1_000_000_000)
        transfer(right, left, "fd99::1", 250_000_000)
        for node in (a, b):
            assert node.status()["node"]["superseded_acknowledgements"] > 0
            assert not node.status()["drops"]


def test_a_killed_node_is_back_within_five_seconds_of_its_restart(tmp_path: Path) -> None:
    with namespaces(2) as (left, right):
        a, b = two_nodes(left, right, tmp_path)
        a.start()
        b.start()
        a.wait_for_session("b")
        b.kill()
        b.start(wait=False)
        began = time.monotonic()
        wait_until(lambda: pings(left, "10.99.0.2"), "a ping after the restart", timeout=10, of=b)
        assert time.monotonic() - began < 5


def test_a_restarted_node_without_an_endpoint_is_called_back_at_once(tmp_path: Path) -> None:
    """It cannot call the others, so only its answer to their datagrams can tell them that it has lost their session."""
    with namespaces(2) as (left, right):
        a, b = two_nodes(left, right, tmp_path)
        b.peers[0].endpoint = None
        b.start()
        a.start()
        a.wait_for_session("b")
        b.kill()
        b.start()
        began = time.monotonic()
        wait_until(lambda: pings(left, "10.99.0.2"), "a ping after the restart", timeout=10, of=b)
        assert time.monotonic() - began < 5


def test_sigterm_removes_device_routes_and_socket(tmp_path: Path) -> None:
    with namespaces(2) as (left, right):
        a, b = two_nodes(left, right, tmp_path)
        a.peers[0].allowed = (*a.peers[0].allowed, "10.50.0.0/16")
        a.start()
        b.start()
        a.wait_for_session("b")
        assert "10.50.0.0/16 dev hw0" in run_in(left, ["ip", "route"]).stdout
        assert "1420" in run_in(left, ["ip", "link", "show", "hw0"]).stdout
        assert a.socket.stat().st_mode & 0o777 == 0o600
        began = time.monotonic()
        assert a.stop() == 0
        assert time.monotonic() - began < 5
        assert not a.socket.exists()
        assert run_in(left, ["ip", "link", "show", "hw0"], check=False).returncode != 0
        assert "hw0" not in run_in(left, ["ip", "route"]).stdout
        assert "Traceback" not in a.log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_during_the_start_ends_it_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    with namespaces(2) as (left, right):
        a, _ = two_nodes(left, right, tmp_path)
        for delay in (0.3, 0.6, 0.8, 1.0, 1.2):
            a.start(wait=False)
            time.sleep(delay)
            assert a.process is not None
            a.process.send_signal(number)
            code = a.process.wait(10)
            # Before the handlers are set, Python's own behaviour ends the process.
            assert code in (0, 130, -number), a.log
            assert not a.socket.exists(), f"its code is {code}\n{a.log}"
            assert run_in(left, ["ip", "link", "show", "hw0"], check=False).returncode != 0


def test_a_rekey_under_traffic_loses_no_ping(tmp_path: Path) -> None:
    """Keys live for a second here; ten thousand pings see many rekeys begun by either side."""
    timers = "rekey_after_s = 1.0\nreject_after_s = 4.0\nrekey_timeout_s = 0.5\nkeepalive_timeout_s = 1.0"
    with namespaces(2) as (left, right):
        a, b = two_nodes(left, right, tmp_path, session=timers)
        a.start()
        b.start()
        a.wait_for_session("b")
        run_in(left, ["ping", "-c", "1", "-W", "3", "10.99.0.2"])
        done = run_in(left, ["ping", "-q", "-c", "10000", "-i", "0.002", "-W", "3", "10.99.0.2"], timeout=90)
        assert "10000 packets transmitted, 10000 received, 0% packet loss" in done.stdout
        assert a.ask("peers")["peers"][0]["handshakes"] >= 10


def test_a_stopped_peer_does_not_stop_the_others(tmp_path: Path) -> None:
    with namespaces(2) as (left, right):
        a, b = two_nodes(left, right, tmp_path)
        a.peers.append(stranger())
        a.start()
        b.start()
        a.wait_for_session("b")
        start_in(left, [sys.executable, "-c", FLOOD])
        run_in(left, ["ping", "-c", "20", "-i", "0.05", "-W", "2", "10.99.0.2"])
        assert a.status()["drops"]["staging_full"] > 0


def test_two_daemons_cannot_share_a_control_socket(tmp_path: Path) -> None:
    with namespaces(2) as (left, right):
        a, b = two_nodes(left, right, tmp_path)
        a.start()
        b.write()
        b.config.write_text(b.config.read_text().replace(str(b.socket), str(a.socket)))
        b.socket.unlink(missing_ok=True)
        second = run_in(right, [*HOLLOWAY, "up", "-c", str(b.config)], check=False)
        assert second.returncode == 1
        assert "is in use" in second.stdout
        assert "fix:" in second.stdout
        assert a.status()["node"]["name"] == "a"


def test_a_dead_daemons_socket_is_taken_over(tmp_path: Path) -> None:
    with namespaces(2) as (left, right):
        a, _ = two_nodes(left, right, tmp_path)
        a.start()
        a.kill()
        assert a.socket.exists()
        a.start()
        assert a.status()["node"]["name"] == "a"


def test_a_port_in_use_is_said_in_three_lines(tmp_path: Path) -> None:
    with namespaces(2) as (left, right):
        a, _ = two_nodes(left, right, tmp_path)
        a.write()
        holder = start_in(
            left,
            [
                "python3",
                "-c",
                "import socket,time; s=socket.socket(2,2); s.bind(('',1099)); print(1,flush=True); time.sleep(30)",
            ],
            stdout=subprocess.PIPE,
        )
        assert holder.stdout is not None
        holder.stdout.readline()
        ended = run_in(left, [*HOLLOWAY, "up", "-c", str(a.config), "--log-level", "error"], check=False)
        assert ended.returncode == 1
        assert "1099" in ended.stdout
        assert "why:" in ended.stdout
        assert "Traceback" not in ended.stdout


def pings(namespace: Namespace, target: str) -> bool:
    return run_in(namespace, ["ping", "-c", "1", "-W", "1", target], check=False).returncode == 0


def stranger() -> Peer:
    """A configured peer that is not there."""
    return Peer(name="gone", public=KeyPair.fresh().public, allowed=["10.99.0.77/32"], endpoint="192.0.2.77:1099")
