"""Nodes over DTLS in one program: the hosts of `node_world`, with certificates of an authority that their configurations name.

Not responsible for time: the tests run under a MockClock.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import trio
from dtls_certificates import Authority, Leaf
from node_world import FragilePorts, World, config, name, peer

from holloway.actors import Config, DtlsConfig, Node, PeerConfig
from holloway.actors.ports import DatagramPort
from holloway.protocols.addresses import Address
from holloway.simulations.network import SimulatedNetwork

NETWORK = "holloway"


@cache
def authority(called: str = "authority") -> Authority:
    return Authority(called)


@cache
def good(number: int) -> Leaf:
    """The certificate that host `number` should have."""
    return authority().issue(name(number), uris=(f"holloway://{NETWORK}/{name(number)}",))


class DtlsWorld(World):
    """`folder`: where certificates lie."""

    def __init__(self, folder: Path, **options: Any) -> None:
        super().__init__(**options)
        self.folder = folder

    def config(
        self,
        number: int,
        *peers: PeerConfig,
        leaf: Leaf | None = None,
        skip_verify: bool = False,
        **changes: Any,
    ) -> Config:
        """Host `number`, which shows `leaf` (its good certificate) and believes the authority."""
        certificate, key, _ = (leaf or good(number)).write(self.folder, name(number))
        trusted = self.folder / "ca.crt"
        if not trusted.exists():
            good(number).write(self.folder, "trusted")[2].rename(trusted)
        made = config(number, peers=peers, **changes)
        return replace(
            made,
            node=replace(made.node, backend="dtls"),
            dtls=DtlsConfig(cert_file=certificate, key_file=key, ca_file=trusted, skip_verify=skip_verify),
        )

    @asynccontextmanager
    async def dtls_pair(self, **changes: Any) -> AsyncIterator[tuple[Node, Node, FragilePorts, FragilePorts]]:
        """Hosts 1 and 2 as peers of one another, with an association between them."""
        left, right = self.ports(1), self.ports(2)
        async with (
            self.node(self.config(1, peer(2), **changes), left) as a,
            self.node(self.config(2, peer(1), **changes), right) as b,
        ):
            with trio.fail_after(5):
                await a.connected(name(2))
                await b.connected(name(1))
            yield a, b, left, right


def hellos(wire: Sequence[tuple[float, Any, Any, bytes]]) -> list[tuple[Any, Any, bytes]]:
    """Every datagram on the wire that began a handshake, with where it came from and went."""
    return [
        (source, target, data) for _, source, target, data in wire if data[12:13] == b"\x16" and data[25:26] == b"\x01"
    ]


class SpoilingPorts(FragilePorts):
    """Ports of a host whose datagrams are changed before they reach the wire."""

    def __init__(self, network: SimulatedNetwork, number: int, spoil: Callable[[bytes], bytes]) -> None:
        super().__init__(network, number)
        self._spoil = spoil

    def open_datagrams(self, address: str | None, port: int, **options: Any) -> list[DatagramPort]:
        (opened,) = super().open_datagrams(address, port, **options)
        send, spoil = opened.send, self._spoil

        def spoilt(datagrams: Sequence[bytes], destination: Address, *, may_fragment: bool = False) -> None:
            send([spoil(datagram) for datagram in datagrams], destination, may_fragment=may_fragment)

        opened.send = spoilt  # type: ignore[method-assign]
        return [opened]


__all__ = ["DtlsWorld", "SpoilingPorts", "authority", "good", "hellos"]
