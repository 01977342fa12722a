"""Where a node says it can be reached, when nobody has told it."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

import pytest

from holloway.actors.own_endpoints import MAX_ENDPOINTS, OwnEndpoints, reachable
from holloway.protocols.addresses import Address
from holloway.protocols.errors import PortError

EVERYWHERE: list[Address] = [("0.0.0.0", 1099), ("::", 1099, 0, 0)]


def addresses(*texts: str) -> list[IPv4Address | IPv6Address]:
    return [ip_address(each) for each in texts]


@pytest.mark.parametrize(
    ("found", "listening", "endpoints"),
    [
        ([], EVERYWHERE, []),
        (["10.0.0.1"], [], []),
        (["10.0.0.1", "8.8.4.4", "2600::1", "fd00::1"], EVERYWHERE, ["2600::1", "8.8.4.4", "fd00::1", "10.0.0.1"]),
        (["8.8.4.4", "2600::1"], EVERYWHERE[:1], ["8.8.4.4"]),
        (["8.8.4.4", "8.8.8.8"], [("8.8.8.8", 1099)], ["8.8.8.8"]),
        (["8.8.4.4", "8.8.4.4"], EVERYWHERE, ["8.8.4.4"]),
    ],
)
def test_the_addresses_of_the_host_at_the_ports_of_the_sockets_best_first(
    found: list[str], listening: list[Address], endpoints: list[str]
) -> None:
    assert reachable(addresses(*found), listening) == tuple((each, 1099) for each in endpoints)


def test_there_are_not_too_many() -> None:
    assert len(reachable(addresses(*(f"10.0.0.{n}" for n in range(1, 100))), EVERYWHERE)) == MAX_ENDPOINTS


class Host:
    """A host that can refuse to tell."""

    def __init__(self) -> None:
        self.refuses = False

    async def host_addresses(self) -> list[tuple[str, IPv4Address | IPv6Address]]:
        if self.refuses:
            raise PortError("the kernel refuses", "EPERM")
        return [("eth0", ip_address("10.0.0.1")), ("hw0", ip_address("10.99.4.1"))]


async def test_our_own_device_leads_nowhere_and_what_was_known_last_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    host: Any = Host()
    own = OwnEndpoints("hw0")
    assert await own.find(host, ()) == ()
    known = await own.find(host, EVERYWHERE)
    assert known == (("10.0.0.1", 1099),)
    host.refuses = True
    assert await own.find(host, EVERYWHERE) == known
    assert "cannot be read" in caplog.text
    assert await own.find(None, EVERYWHERE) == known
