"""A node dials a DTLS server that knows nothing of Holloway: OpenSSL's own program, and another node that takes us for one.

With OpenSSL the node has a real UDP socket on the loopback device and a simulated TUN device, in real time. With another node all
is simulated.
"""

from __future__ import annotations

import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from dtls_certificates import Leaf
from dtls_world import DtlsWorld, authority, good
from namespaces import needs_program
from node_world import config, crosses, drops, eventually_crosses, name, outer, packet, peer, serial, the_peer
from trio.testing import MockClock

from holloway.actors import Endpoint, Node, TimersConfig, open_node
from holloway.actors.config import ConfigProblems
from holloway.actors.ports import DatagramPort
from holloway.actors.udp_binding import open_udp
from holloway.simulations.ports import SimulatedPorts

NAMED_S = 5.0
"""After so long a refusal is known."""
SLOW = 4
"""How much slower a machine may be."""
SOON = TimersConfig(rekey_after_s=0.4, reject_after_s=4.0, rekey_timeout_s=0.5)


class LoopbackPorts(SimulatedPorts):
    """Ports of a host in memory but for its UDP socket, which is on 127.0.0.1."""

    def open_datagrams(self, address: str | None, port: int, **_: Any) -> list[DatagramPort]:
        return list(open_udp("127.0.0.1", 0))


def is_bound(port: int) -> bool:
    """Whether somebody has that UDP port."""
    return f":{port:04X} " in Path("/proc/net/udp").read_text()


class Server:
    """`openssl s_server` as host 2."""

    def __init__(self, folder: Path, leaf: Leaf, *more: str) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
            taken.bind(("127.0.0.1", 0))
            self.port: int = taken.getsockname()[1]
        certificate, key, _ = leaf.write(folder, "server")
        good(2).write(folder, "good")
        self._command = ["openssl", "s_server", "-dtls1_2", "-quiet", "-accept", f"127.0.0.1:{self.port}"]
        self._command += ["-cert", str(certificate), "-key", str(key), "-Verify", "1", "-verify_return_error"]
        self._command += ["-CAfile", str(folder / "good-ca.crt"), *more]
        self.process: trio.Process

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Server]:
        async with trio.open_nursery() as nursery:
            pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
            self.process = await trio.lowlevel.open_process(self._command, **pipes)
            nursery.start_soon(self.process.wait)
            await self._bound()
            try:
                yield self
            finally:
                self.process.kill()

    async def _bound(self) -> None:
        """Wait until it has its port."""
        with trio.fail_after(NAMED_S * SLOW):
            while not is_bound(self.port):  # noqa: ASYNC110
                await trio.sleep(0.01)

    async def read(self, count: int) -> bytes:
        """So many bytes of what it was sent."""
        assert self.process.stdout is not None
        found = b""
        with trio.fail_after(NAMED_S * SLOW):
            while len(found) < count:
                more = await self.process.stdout.receive_some(count - len(found))
                assert more, "it has ended"
                found += more
        return found

    async def say(self, data: bytes) -> None:
        """Let it send a record."""
        assert self.process.stdin is not None
        await self.process.stdin.send_all(data)


def server_as_peer(port: int) -> Any:
    return peer(2, endpoint=Endpoint("127.0.0.1", port), plain_dtls=True)


@asynccontextmanager
async def dialling(world: DtlsWorld, port: int, **changes: Any) -> AsyncIterator[tuple[Node, LoopbackPorts]]:
    """Host 1, whose peer is the server at that port."""
    ports = LoopbackPorts(world.network, outer(1))
    async with open_node(world.config(1, server_as_peer(port), **changes), ports=ports) as node:
        yield node, ports


@needs_program("openssl", package="openssl")
@pytest.mark.parametrize("more", [(), ("-listen",), ("-mtu", "500")], ids=["no cookies", "cookies", "small"])
async def test_packets_go_to_a_server_of_openssl_and_come_from_it(more: tuple[str, ...], tmp_path: Path) -> None:
    world = DtlsWorld(tmp_path)
    async with Server(tmp_path, good(2), *more).running() as server, dialling(world, server.port) as (node, ports):
        with trio.fail_after(NAMED_S * SLOW):
            await node.connected(name(2))
        sent = [packet(1, 2, number) for number in range(3)]
        ports.tun.inject(list(sent))
        assert await server.read(300) == b"".join(sent)
        await server.say(packet(2, 1, 7))
        with trio.fail_after(NAMED_S * SLOW):
            assert await ports.tun.collect() == [packet(2, 1, 7)]
        found = the_peer(node, 2)
        assert (found["state"], found["suite"], found["problem"]) == ("ok", "dtls", None)
        await trio.sleep(0 if more else 1.1)  # it is not asked whether it is there, though it is silent
        assert the_peer(node, 2)["tx"]["packets"] == 3
        assert the_peer(node, 2)["state"] == "ok"


@needs_program("openssl", package="openssl")
async def test_keys_of_a_server_are_changed_and_nothing_that_is_sent_is_lost(tmp_path: Path) -> None:
    world = DtlsWorld(tmp_path)
    async with (
        Server(tmp_path, good(2)).running() as server,
        dialling(world, server.port, timers=SOON) as (node, ports),
    ):
        with trio.fail_after(NAMED_S * SLOW):
            await node.connected(name(2))
        sent = 0
        with trio.fail_after(NAMED_S * SLOW):
            while the_peer(node, 2)["epoch"] < 3 or the_peer(node, 2)["state"] != "ok":
                ports.tun.inject([packet(1, 2, sent)])
                sent += 1
                await trio.sleep(0.02)
        found = await server.read(100 * sent)
        assert [serial(found[at : at + 100]) for at in range(0, 100 * sent, 100)] == list(range(sent))
        status: Any = node.status()
        assert status["node"]["dtls"]["associations"] <= 1


@needs_program("openssl", package="openssl")
async def test_a_server_that_died_is_reached_again_when_keys_are_changed(tmp_path: Path) -> None:
    world = DtlsWorld(tmp_path)
    server = Server(tmp_path, good(2))
    async with server.running(), dialling(world, server.port, timers=SOON) as (node, ports):
        with trio.fail_after(NAMED_S * SLOW):
            await node.connected(name(2))
        server.process.kill()
        await server.process.wait()
        async with server.running():
            with trio.fail_after(NAMED_S * SLOW):
                while the_peer(node, 2)["epoch"] < 2:  # noqa: ASYNC110
                    await trio.sleep(0.02)
            ports.tun.inject([packet(1, 2, 9)])
            assert await server.read(100) == packet(1, 2, 9)


REFUSALS = {
    "foreign": "dtls_certificate_foreign_authority",
    "expired": "dtls_certificate_expired",
    "another node": "dtls_certificate_wrong_name",
    "nameless": "dtls_certificate_no_names",
}


def shown(kind: str) -> Leaf:
    uris = (f"holloway://holloway/{name(2)}",)
    match kind:
        case "foreign":
            return authority("foreign").issue(name(2), uris=uris)
        case "expired":
            return authority().issue(name(2), uris=uris, days=(-30, -1))
        case "nameless":
            return authority().issue(name(2))
        case _:
            return authority().issue(name(3), uris=(f"holloway://holloway/{name(3)}",))


async def named(node: Node, reason: str) -> None:
    """Wait until a refusal is counted and told."""
    with trio.fail_after(NAMED_S):
        while reason not in drops(node):  # noqa: ASYNC110
            await trio.sleep(0.02)
    assert not node.roster.running[name(2)].is_connected


@needs_program("openssl", package="openssl")
@pytest.mark.parametrize("kind", REFUSALS)
async def test_a_server_with_a_bad_certificate_is_refused_and_status_says_why(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world = DtlsWorld(tmp_path)
    async with Server(tmp_path, shown(kind)).running() as server, dialling(world, server.port) as (node, _):
        await named(node, REFUSALS[kind])
        assert the_peer(node, 2)["problem"] == REFUSALS[kind]
        assert the_peer(node, 2)["state"] == "down"
        assert f"peer {name(2)}: the handshake failed: {REFUSALS[kind]}" in caplog.text


@needs_program("openssl", package="openssl")
async def test_a_server_that_refuses_our_certificate_is_believed_to_have_a_reason(tmp_path: Path) -> None:
    world = DtlsWorld(tmp_path)
    foreign = authority("foreign").issue(name(1), uris=(f"holloway://holloway/{name(1)}",))
    async with Server(tmp_path, good(2)).running() as server, dialling(world, server.port, leaf=foreign) as (node, _):
        await named(node, "dtls_refused_by_peer")
        problem: str = the_peer(node, 2)["problem"]
        assert problem == "dtls_refused_by_peer (unknown authority)"


@needs_program("openssl", package="openssl")
async def test_a_server_with_other_ciphers_has_nothing_in_common_with_us(tmp_path: Path) -> None:
    world = DtlsWorld(tmp_path)
    server = Server(tmp_path, good(2), "-cipher", "ECDHE-ECDSA-CHACHA20-POLY1305")
    async with server.running(), dialling(world, server.port) as (node, _):
        await named(node, "dtls_refused_by_peer")
        assert "nothing in common" in the_peer(node, 2)["problem"]


# In memory, against a node that takes us for a foreign program.


async def test_a_server_that_does_not_answer_is_called_again(tmp_path: Path, autojump_clock: MockClock) -> None:
    world = DtlsWorld(tmp_path)
    left, right = world.ports(1), world.ports(2)
    async with world.node(world.config(1, peer(2, plain_dtls=True)), left) as a:
        await trio.sleep(9)
        assert drops(a)["dtls_unanswered"] == 2
        assert the_peer(a, 2)["state"] == "down"
        async with world.node(world.config(2, peer(1, endpoint=False)), right):
            assert await eventually_crosses(left, right, packet(1, 2, 1), within_s=9)


async def test_of_a_server_there_is_one_association_after_the_other_and_what_is_sent_waits(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    world = DtlsWorld(tmp_path)
    left, right = world.ports(1), world.ports(2)
    async with (
        world.node(world.config(2, peer(1, endpoint=False)), right) as b,
        world.node(world.config(1, peer(2, plain_dtls=True)), left) as a,
    ):
        with trio.fail_after(5):
            await a.connected(name(2))
        sent, received = 0, []
        while trio.current_time() < 250.0:
            left.tun.inject([packet(1, 2, sent)])
            sent += 1
            await trio.sleep(0.5)
            received += [serial(each) for each in await right.tun.collect()]
            for node in (a, b):
                assert node.status()["node"]["dtls"]["associations"] <= 1  # type: ignore[index]
        assert received == list(range(sent))
        assert the_peer(a, 2)["epoch"] == 3  # each lasts 120 s
        assert await crosses(right, left, packet(2, 1, 1))
        # Nothing stands before any datagram, and nothing is asked in between.
        assert {data[0] for *_, data in world.wire} <= {20, 21, 22, 23}


async def test_one_address_is_one_server(tmp_path: Path, autojump_clock: MockClock) -> None:
    world = DtlsWorld(tmp_path)
    left, right = world.ports(1), world.ports(2)
    twice = peer(2, plain_dtls=True), peer(3, plain_dtls=True, endpoint=Endpoint(outer(2), 1099))
    async with (
        world.node(world.config(2, peer(1, endpoint=False)), right),
        world.node(world.config(1, *twice), left) as a,
    ):
        assert await eventually_crosses(left, right, packet(1, 2, 1), within_s=20)
        await trio.sleep(20)
        assert drops(a)["dtls_address_in_use"] >= 3
        assert the_peer(a, 3)["problem"] == "dtls_address_in_use"
        assert await crosses(left, right, packet(1, 2, 2))


@pytest.mark.parametrize("backend", [None, "session"])
async def test_with_sessions_there_are_no_servers(
    backend: str | None, tmp_path: Path, autojump_clock: MockClock
) -> None:
    world = DtlsWorld(tmp_path)
    made = config(1, peers=[peer(2, plain_dtls=True)])
    with pytest.raises(ConfigProblems, match=r"speaks? session"):
        async with world.node(replace(made, node=replace(made.node, backend=backend)), world.ports(1)):
            pass
