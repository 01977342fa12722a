"""What befalls a running daemon from its own host and from the wire: it heals, or says clearly why it ends.

The tests of the first part share three nodes, because starting them is the dearest step: a and b over IPv4 in the `aes-gcm`
suite, a and c over IPv6 in the `wireguard` suite. Each test begins and ends with all of them well.
"""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from daemons import Daemon, Peer, two_nodes, wait_until
from hostile import kernel_counters, watching
from namespaces import Namespace, namespaces, needs_namespaces, needs_program, run_in, start_in
from transfer import transfer

from holloway.actors.netlink_events import SETTLE_S

pytestmark = [needs_namespaces, needs_program("ping", package="iputils-ping")]

MTU = 1420
HEAL_S = 5.0
STOP_S = 5.0
TROUBLE = re.compile("failed|Traceback|did not start|restart in|ERROR|CRITICAL")


@dataclass(frozen=True)
class World:
    """Three nodes on one Ethernet; b and c know a only."""

    a: Daemon
    b: Daemon
    c: Daemon

    @property
    def left(self) -> Namespace:
        return self.a.namespace

    def heal(self, patience_s: float = 20.0) -> float:
        """Wait until every pair and family pings; the seconds it took."""
        began = time.monotonic()
        for target in ("10.99.0.2", "fd99::2", "10.99.0.3", "fd99::3"):
            wait_until(partial(pings, self.left, target), f"{target} to answer", timeout=patience_s, of=self.a)
        return time.monotonic() - began


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with namespaces(3) as (left, right, third):
        folder = tmp_path_factory.mktemp("world")
        a, b = two_nodes(left, right, folder)
        a.peers[0].allowed = (*a.peers[0].allowed, "10.99.7.0/24")
        c = Daemon(name="c", namespace=third, folder=folder, addresses=("10.99.0.3/24", "fd99::3/64"))
        c.peers.append(
            Peer(
                name="a",
                public=a.keys.public,
                allowed=("10.99.0.1/32", "fd99::1/128"),
                endpoint=f"[{left.ipv6}]:1099",
                suite="wireguard",
            )
        )
        a.peers.append(
            Peer(
                name="c",
                public=c.keys.public,
                allowed=("10.99.0.3/32", "fd99::3/128", "10.99.8.0/24"),
                endpoint=f"[{third.ipv6}]:1099",
                suite="wireguard",
            )
        )
        for node in (b, c, a):
            node.start(wait=node is a)
        whole = World(a, b, c)
        whole.heal()
        yield whole


@pytest.fixture
def well(world: World) -> Iterator[World]:
    """The world before a test that must leave no trace in the logs."""
    nodes = (world.a, world.b, world.c)
    before = [len(node.log) for node in nodes]
    yield world
    assert world.heal() < HEAL_S
    for node, length in zip(nodes, before, strict=True):
        assert not TROUBLE.search(node.log[length:]), node.log[length:]


# The control socket.


@pytest.mark.parametrize(
    ("request_bytes", "told"),
    [
        (b"\n", "not a JSON object"),
        (b"\x00\xff\xfe\n", "not a JSON object"),
        (b'{"op": "status"\n', "not a JSON object"),
        (b"[" * 60_000 + b"\n", "not a JSON object"),
        (b'{"op":"ping","peer":"b","count":' + b"9" * 5000 + b"}\n", "not a JSON object"),
        (b'{"op":"ping","peer":"b","count":NaN}\n', "count cannot be nan"),
        (b'{"op":"ping","peer":"\\ud800"}\n', "no peer"),
        (b'{"op":["status"]}\n', "unknown request"),
    ],
)
def test_garbage_on_the_control_socket_gets_an_error(well: World, request_bytes: bytes, told: str) -> None:
    answer = json.loads(asked(well.a, request_bytes))
    assert told in answer["error"]["what"]
    assert answer["error"]["code"] in (1, 2)


def test_half_lines_and_endless_lines_get_no_result(well: World) -> None:
    for request in (b"", b'{"op":"sta', b"A" * 200_000):
        assert b"result" not in asked(well.a, request)


def test_a_hundred_slow_clients_stop_neither_traffic_nor_those_after_them(well: World) -> None:
    with ExitStack() as clients:
        for _ in range(100):
            client = clients.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            if client.connect_ex(str(well.a.socket)) == 0:
                client.send(b'{"op"')
        assert pings(well.left, "10.99.0.2")
    assert wait_until(lambda: well.a.status() is not None, "an answer", of=well.a) < 1.0


def test_clients_that_leave_in_mid_ping_are_forgotten(well: World) -> None:
    for _ in range(40):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(well.a.socket))
            client.send(b'{"op":"ping","peer":"b","count":1000,"interval_s":0.01,"timeout_s":1}\n')
    assert wait_until(lambda: well.a.status() is not None, "an answer", of=well.a) < 3.0


# Packets.


@pytest.mark.parametrize("target", ["10.99.0.2", "fd99::2", "10.99.0.3", "fd99::3"])
def test_packets_of_the_mtu_pass_and_larger_ones_are_refused_by_the_kernel(well: World, target: str) -> None:
    headers = 28 if "." in target else 48
    ping = ["ping", "-c", "2", "-i", "0.02", "-W", "2", "-M", "do", "-s"]
    for size in (MTU, MTU - 1, MTU - 15, MTU - 16):
        run_in(well.left, [*ping, str(size - headers), target])
    refused = run_in(well.left, [*ping, str(MTU + 1 - headers), target], check=False)
    assert "message too long" in refused.stdout
    run_in(well.left, ["ping", "-c", "2", "-i", "0.02", "-W", "2", "-s", "60000", target])  # in fragments


def test_an_inner_source_that_the_peer_may_not_use_is_dropped_and_counted(well: World) -> None:
    for node, target in ((well.b, "10.99.0.2"), (well.c, "10.99.0.3")):
        before = Counter(node.status()["drops"])
        with watching(node.namespace, "hw0") as inner:
            for source in ("10.99.0.66", target, "127.0.0.1", "0.0.0.0", "224.0.0.1"):
                run_in(well.left, [sys.executable, "-S", "-c", SPOOF, source, target, "20"])
            wait_until(partial(has_dropped, node, "source_not_allowed", 100), "drops", of=node)
        assert Counter(node.status()["drops"]) - before == {"source_not_allowed": 100}
        assert not inner.incoming


def test_an_inner_destination_that_is_not_ours_is_dropped_and_counted(well: World) -> None:
    """a believes that b and c have a network behind them, and they know nothing of it."""
    for node, target in ((well.b, "10.99.7.1"), (well.c, "10.99.8.1")):
        before = Counter(node.status()["drops"])
        with watching(node.namespace, "hw0") as inner:
            assert (
                run_in(well.left, ["ping", "-c", "5", "-i", "0.02", "-W", "0.2", target], check=False).returncode == 1
            )
        assert Counter(node.status()["drops"]) - before == {"destination_not_ours": 5}
        assert not inner.incoming


def test_broadcast_multicast_and_nonsense_from_the_host_are_counted(well: World) -> None:
    before, at_b = Counter(well.a.status()["drops"]), Counter(well.b.status()["drops"])
    for target in ("10.99.0.255", "255.255.255.255", "224.0.0.251", "10.99.0.77"):
        run_in(well.left, [sys.executable, "-S", "-c", SPOOF, "10.99.0.1", target, "25"])
    run_in(well.left, [sys.executable, "-S", "-c", NONSENSE])
    wait_until(partial(has_dropped, well.b, "malformed", 100), "drops", of=well.b)
    drops = Counter(well.a.status()["drops"]) - before
    assert drops["no_route"] >= 100
    assert drops["not_ip"] == 50
    assert set(drops) == {"no_route", "not_ip"}
    assert Counter(well.b.status()["drops"]) - at_b == {"malformed": 100}


# Writes packets straight into the device, so that they leave as if the host had made them.
SPOOF = """
import socket, struct, sys
with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM) as raw:
    raw.bind(("hw0", 0x0800))
    addresses = socket.inet_aton(sys.argv[1]) + socket.inet_aton(sys.argv[2])
    for _ in range(int(sys.argv[3])):
        raw.send(struct.pack(">BBHHHBBH", 0x45, 0, 28, 0, 0, 64, 17, 0) + addresses + bytes(8))
"""
NONSENSE = """
import os, socket
with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM) as raw:
    raw.bind(("hw0", 0x0800))
    for length in range(1, 51):
        raw.send(bytes([0x15]) + os.urandom(length))
    pair = socket.inet_aton("10.99.0.1") + socket.inet_aton("10.99.0.2")
    for length in range(100):  # a total length that is not true
        raw.send(bytes([0x45, 0, 0xFF, length]) + bytes(8) + pair + os.urandom(length))
"""


def test_what_the_kernel_drops_before_us_is_counted(well: World) -> None:
    assert well.b.process is not None
    for size, count in ((60_000, 600), (10, 45_000)):
        before, known = kernel_counters(well.b.process.pid), Counter(well.b.status()["drops"])
        well.b.process.send_signal(signal.SIGSTOP)
        run_in(well.c.namespace, [sys.executable, "-S", "-c", BURST, well.b.namespace.ipv4, str(size), str(count)])
        well.b.process.send_signal(signal.SIGCONT)
        wait_until(partial(is_drained, well.b), "an empty socket", of=well.b)
        lost = (kernel_counters(well.b.process.pid) - before)["UdpRcvbufErrors"]
        assert 0 < lost < count
        drops = Counter(well.b.status()["drops"]) - known
        assert drops["receive_buffer_full"] == lost
        assert count <= drops.total() <= count + 10  # a peer may have said something meanwhile, and been lost, too


BURST = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as burst:
    for _ in range(int(sys.argv[3])):
        burst.sendto(bytes([255]) * int(sys.argv[2]), (sys.argv[1], 1099))
"""


# Peers, devices and wires that stop.


def test_a_stopped_peer_goes_on_where_it_stood(well: World) -> None:
    assert well.b.process is not None
    epoch = well.a.peer("b")["epoch"]
    well.b.process.send_signal(signal.SIGSTOP)
    try:
        assert not pings(well.left, "10.99.0.2")
        assert pings(well.left, "10.99.0.3")
        assert well.a.status() is not None
    finally:
        well.b.process.send_signal(signal.SIGCONT)
    assert well.heal() < 1.0
    assert well.a.peer("b")["epoch"] == epoch


def test_an_underlay_that_goes_and_comes_back_is_counted_and_survived(well: World) -> None:
    run_in(well.left, ["ip", "link", "set", "eth0", "down"])
    try:
        assert not pings(well.left, "10.99.0.2", "0.3")
        assert well.a.status()["drops"]["udp_enetunreach"] > 0
    finally:
        run_in(well.left, ["ip", "link", "set", "eth0", "up"])
        run_in(well.left, ["ip", "address", "replace", f"{well.left.ipv6}/64", "dev", "eth0", "nodad"])
    assert well.heal() < HEAL_S


def test_a_transfer_goes_on_when_its_sender_moves_to_another_address(well: World) -> None:
    begun = well.a.peer("b")["tx"]["bytes"]
    moving = start_in(
        well.left,
        [sys.executable, "-c", MOVE, str(well.a.socket), str(begun + 5_000_000), "192.0.2.71", well.left.ipv4],
    )
    transfer(well.left, well.b.namespace, "10.99.0.2", 30_000_000)
    assert moving.wait(5) == 0
    assert well.b.peer("a")["endpoint"] == "192.0.2.71:1099"
    run_in(well.left, ["ip", "address", "add", f"{well.left.ipv4}/24", "dev", "eth0"])
    run_in(well.left, ["ip", "address", "delete", "192.0.2.71/24", "dev", "eth0"])
    run_in(well.left, ["ip", "address", "replace", f"{well.left.ipv4}/24", "dev", "eth0"])
    assert well.heal() < HEAL_S
    assert well.b.peer("a")["endpoint"] == f"{well.left.ipv4}:1099"


def test_a_receiver_that_moves_to_another_address_is_found_again_at_once(well: World) -> None:
    """It has nothing to send, so only its own watch of the host's addresses can make it speak."""
    host = well.b.namespace
    for old, new in ((host.ipv4, "192.0.2.72"), ("192.0.2.72", host.ipv4)):
        run_in(host, ["ip", "address", "add", f"{new}/24", "dev", "eth0"])
        run_in(host, ["ip", "address", "delete", f"{old}/24", "dev", "eth0"])
        run_in(host, ["ip", "address", "replace", f"{new}/24", "dev", "eth0"])  # a secondary address went with it
        assert well.heal() < HEAL_S
        assert well.a.peer("b")["endpoint"] == f"{new}:1099"


# Changes the underlay address once so many bytes have left the node.
MOVE = """
import json, socket, subprocess, sys, time
path, limit, new, old = sys.argv[1:]
while True:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        client.sendall(b'{"op":"status"}\\n')
        status = json.loads(client.makefile("rb").readline())["result"]
    if status["peers"][0]["tx"]["bytes"] > int(limit):
        break
    time.sleep(0.02)
script = f"address delete {old}/24 dev eth0\\naddress add {new}/24 dev eth0\\n"
subprocess.run(["ip", "-batch", "-"], input=script, text=True, check=True)
"""


def test_a_device_that_was_taken_down_works_again_when_it_is_up(world: World) -> None:
    before = world.b.status()["drops"].get("destination_not_ours", 0)
    # The node puts addresses back a moment after they have changed: not on a device that somebody takes down meanwhile.
    changes = "address add 10.99.8.8/32 dev hw0\nlink set hw0 down\n"
    run_in(world.left, ["ip", "-batch", "-"], input=changes, stdin=None)
    time.sleep(3 * SETTLE_S)
    assert not pings(world.b.namespace, "10.99.0.1", "0.3")
    assert world.a.status() is not None
    run_in(world.left, ["ip", "link", "set", "hw0", "up"])
    world.heal(patience_s=3.0)
    assert run_in(world.left, ["ping", "-c", "1", "-W", "0.2", "10.99.7.1"], check=False).returncode == 1
    assert world.b.status()["drops"]["destination_not_ours"] > before


def test_a_deleted_device_is_made_again(world: World) -> None:
    run_in(world.left, ["ip", "link", "delete", "hw0"])
    assert world.heal() < HEAL_S
    assert "lost the TUN device hw0" in world.a.log
    assert world.a.status()["node"]["interface"] == "hw0"


# Ends.


def test_a_recorded_call_moves_no_session(world: World) -> None:
    """a called b while b was down, and somebody else kept the call. b has never seen it and cannot tell its age."""
    world.a.kill()
    world.b.kill()
    with watching(world.left, "eth0") as seen:
        world.a.start()
    world.b.start()
    world.b.wait_for_session("a")
    for host, call in seen.datagrams():
        if host == world.left.ipv4:
            run_in(world.c.namespace, [sys.executable, "-S", "-c", REPLAY, world.b.namespace.ipv4, call.hex()])
    run_in(world.b.namespace, ["ping", "-c", "3", "-i", "0.1", "-W", "1", "10.99.0.1"])
    assert world.b.peer("a")["endpoint"] == f"{world.left.ipv4}:1099"


REPLAY = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as replay:
    replay.sendto(bytes.fromhex(sys.argv[2]), (sys.argv[1], 1099))
"""


@pytest.mark.parametrize("first", ["a", "b"])
def test_both_nodes_killed_meet_again_whoever_starts_first(world: World, first: str) -> None:
    nodes = [world.a, world.b] if first == "a" else [world.b, world.a]
    for node in nodes:
        node.kill()
    for node in nodes:
        node.start()
    assert world.heal() < HEAL_S


def test_sigterm_under_full_load_leaves_nothing_behind(world: World) -> None:
    with (
        ending(start_in(world.b.namespace, [sys.executable, "-S", "-c", SINK])),
        ending(start_in(world.left, [sys.executable, "-S", "-c", SOURCE])),
        ending(start_in(world.b.namespace, ["ping", "-f", "-q", "10.99.0.1"], stdout=subprocess.DEVNULL)),
    ):
        begun = world.a.peer("b")["tx"]["bytes"]
        wait_until(lambda: world.a.peer("b")["tx"]["bytes"] > begun + 20_000_000, "load", of=world.a)
        assert_ends_cleanly(world.a)
    world.a.start()
    assert world.heal() < HEAL_S


def test_sigterm_in_a_flood_of_handshakes_leaves_nothing_behind(world: World) -> None:
    argv = [sys.executable, "-c", HANDSHAKES, world.a.keys.public, world.left.ipv4]
    with ending(start_in(world.c.namespace, argv, stdout=subprocess.DEVNULL)):
        wait_until(partial(has_dropped, world.a, "cookie_required", 1000), "a flood", of=world.a)
        assert_ends_cleanly(world.a)
    world.a.start()
    assert world.heal() < HEAL_S


SINK = """
import socket
with socket.create_server(("", 5001)) as listener:
    connection, _ = listener.accept()
    while connection.recv(1 << 20):
        pass
"""
SOURCE = """
import socket, time
while True:
    try:
        with socket.create_connection(("10.99.0.2", 5001)) as connection:
            while True:
                connection.sendall(bytes(1 << 20))
    except OSError:
        time.sleep(0.1)
"""
HANDSHAKES = """
import os, socket, struct, sys
from holloway.protocols.cookies import MacWriter
from holloway.protocols.keys import decode_key
from holloway.protocols.noise import initiation_bytes
from holloway.protocols.suites import AES_GCM
macs, size = MacWriter(decode_key(sys.argv[1])), initiation_bytes(AES_GCM) - 36
forged = [macs.append(struct.pack("<I", AES_GCM.initiation) + os.urandom(size), 0.0) for _ in range(1000)]
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as flood:
    while True:
        for message in forged:
            flood.sendto(message, (sys.argv[2], 1099))
"""


def asked(node: Daemon, request: bytes) -> bytes:
    """Everything that the control socket says to `request` and the end of the stream."""
    answer = b""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        client.connect(str(node.socket))
        try:
            client.sendall(request)
            client.shutdown(socket.SHUT_WR)
            while piece := client.recv(65_536):
                answer += piece
        except (BrokenPipeError, ConnectionResetError):
            pass
    return answer


def is_drained(node: Daemon) -> bool:
    assert node.process is not None
    table = Path(f"/proc/{node.process.pid}/net/udp").read_text()
    queues = re.findall(r":044B 00000000:0000 07 (\w+:\w+)", table)  # of every socket of the port: sent, received
    return set(queues) == {"00000000:00000000"}


def has_dropped(node: Daemon, reason: str, count: int) -> bool:
    return Counter(node.status()["drops"])[reason] >= count


def pings(namespace: Namespace, target: str, patience: str = "1") -> bool:
    return run_in(namespace, ["ping", "-c", "1", "-W", patience, target], check=False).returncode == 0


def ending(process: subprocess.Popen[str]) -> ExitStack:
    """Kills a process at the end of a `with`."""
    stack = ExitStack()
    stack.callback(process.wait)
    stack.callback(process.kill)
    return stack


def assert_ends_cleanly(node: Daemon) -> None:
    length = len(node.log)
    began = time.monotonic()
    assert node.stop() == 0
    assert time.monotonic() - began < STOP_S
    assert not node.socket.exists()
    assert run_in(node.namespace, ["ip", "link", "show", "hw0"], check=False).returncode != 0
    assert not TROUBLE.search(node.log[length:]), node.log[length:]
