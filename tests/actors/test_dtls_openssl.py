"""OpenSSL's own program speaks to a node: with a good certificate it gets through, with any other it is refused, and that is said.

The node has a real UDP socket on the loopback device; its TUN device is a simulated one. Real time.
"""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from dtls_certificates import Leaf
from dtls_world import DtlsWorld, authority, good
from namespaces import needs_program
from node_world import drops, name, packet, peer, the_peer

from holloway.actors import Node, open_node
from holloway.actors.ports import DatagramPort
from holloway.actors.udp_binding import open_udp
from holloway.simulations.ports import SimulatedPorts

pytestmark = needs_program("openssl", package="openssl")

NAMED_S = 5.0
"""After so long a refusal is known."""
SLOW = 4
"""How much slower a machine may be."""


class LoopbackPorts(SimulatedPorts):
    """Ports of a host in memory but for its UDP socket, which is on 127.0.0.1."""

    def open_datagrams(self, address: str | None, port: int, **_: Any) -> list[DatagramPort]:
        return list(open_udp("127.0.0.1", 0))


@asynccontextmanager
async def listening(world: DtlsWorld) -> AsyncIterator[tuple[Node, LoopbackPorts, int]]:
    """Host 1 with host 2 as a peer, and its port."""
    ports = LoopbackPorts(world.network, "192.0.2.1")
    async with open_node(world.config(1, peer(2, endpoint=False)), ports=ports) as node:
        status: Any = node.status()
        yield node, ports, int(status["node"]["listen"][0].rpartition(":")[2])


@asynccontextmanager
async def client(port: int, folder: Path, leaf: Leaf | None, *more: str) -> AsyncIterator[trio.Process]:
    """`openssl s_client` with a certificate, or none."""
    command = ["openssl", "s_client", "-dtls1_2", "-quiet", "-no_ign_eof", "-connect", f"127.0.0.1:{port}", *more]
    if leaf is not None:
        certificate, key, _ = leaf.write(folder, "client")
        command += ["-cert", str(certificate), "-key", str(key)]
    async with trio.open_nursery() as nursery:
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "check": False}
        process: trio.Process = await nursery.start(partial(trio.run_process, command, stdin=subprocess.PIPE, **quiet))
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("mtu", [[], ["-mtu", "400"]])
async def test_openssl_with_a_good_certificate_sends_packets_through_the_tunnel(mtu: list[str], tmp_path: Path) -> None:
    world = DtlsWorld(tmp_path)
    trusted = tmp_path / "ca.crt"
    async with listening(world) as (node, ports, port):
        more = [*mtu, "-CAfile", str(trusted), "-verify_return_error", "-cipher", "ECDHE-ECDSA-AES256-GCM-SHA384"]
        async with client(port, tmp_path, good(2), *more) as process:
            with trio.fail_after(NAMED_S * SLOW):
                await node.connected(name(2))
            assert process.stdin is not None
            sent = packet(2, 1, 7)
            await process.stdin.send_all(sent)
            with trio.fail_after(NAMED_S * SLOW):
                assert await ports.tun.collect() == [sent]
            assert (the_peer(node, 2)["state"], the_peer(node, 2)["suite"]) == ("ok", "dtls")
            # What is sent to it goes out as plain records, and is followed by no probes.
            ports.tun.inject([packet(1, 2, 1)])
            await trio.sleep(0.1 if mtu else 1.5)
            assert the_peer(node, 2)["tx"]["packets"] == 1
            assert the_peer(node, 2)["state"] == "ok"


REFUSALS = {
    "none": "dtls_no_certificate",
    "foreign": "dtls_certificate_foreign_authority",
    "expired": "dtls_certificate_expired",
    "another node": "dtls_unknown_node",
}


def shown(kind: str) -> Leaf | None:
    uris = ("holloway://holloway/node-2",)
    match kind:
        case "none":
            return None
        case "foreign":
            return authority("foreign").issue(name(2), uris=uris)
        case "expired":
            return authority().issue(name(2), uris=uris, days=(-30, -1))
        case _:
            return authority().issue(name(2), uris=("holloway://holloway/node-3",))


@pytest.mark.parametrize("kind", REFUSALS)
async def test_openssl_with_any_other_certificate_is_refused_by_name(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world = DtlsWorld(tmp_path)
    async with listening(world) as (node, _, port), client(port, tmp_path, shown(kind)):
        with trio.fail_after(NAMED_S):
            while REFUSALS[kind] not in drops(node):  # noqa: ASYNC110
                await trio.sleep(0.02)
        assert f"is refused: {REFUSALS[kind]}" in caplog.text
        assert not node.roster.running[name(2)].is_connected


async def test_a_cipher_that_we_do_not_speak_is_nothing_in_common(tmp_path: Path) -> None:
    world = DtlsWorld(tmp_path)
    async with (
        listening(world) as (node, _, port),
        client(port, tmp_path, good(2), "-cipher", "AES128-SHA"),
    ):
        with trio.fail_after(NAMED_S):
            while "dtls_nothing_in_common" not in drops(node):  # noqa: ASYNC110
                await trio.sleep(0.02)
