"""Networks whose back end is DTLS, on real kernels: made by `init` and `join`, and as good as any other."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from daemons import wait_until
from machines import Machine
from namespaces import Namespace, namespaces, needs_namespaces, needs_program, run_in
from node_world import validate
from transfer import transfer

pytestmark = [needs_namespaces, needs_program("ping", package="iputils-ping")]

MTU = 1400
BULK_BYTES = 5_000_000
GIGABYTE_IN_PARTS = 10
HEALED_S = 5.0


@contextmanager
def a_network(folder: Path) -> Iterator[tuple[Machine, Machine]]:
    """Two machines that reach each other over DTLS."""
    with namespaces(2) as (left, right):
        a, b = Machine(left, "a", folder), Machine(right, "b", folder)
        registry = f"sqlite://{folder / 'net.db'}"
        token = a.run("init", "home", "--name", "a", "--registry", registry, "--backend", "dtls")
        a.up()
        b.run("join", token, "--name", "b", "--timeout", "30")
        b.up()
        wait_until(lambda: a.pings(address(b)), "a to reach b")
        yield a, b


def address(machine: Machine, version: int = 4) -> str:
    """An overlay address of a machine that runs."""
    found: list[str] = machine.asked()["node"]["addresses"]
    return next(each.partition("/")[0] for each in found if (":" in each) == (version == 6))


def fragments(host: Namespace) -> int:
    """Datagrams that this host took apart, of either family."""
    lines = run_in(host, ["cat", "/proc/net/snmp", "/proc/net/snmp6"]).stdout
    header, values = (line.split() for line in re.findall(r"^Ip: .*$", lines, re.MULTILINE))
    found = re.search(r"^Ip6FragCreates\s+(\d+)", lines, re.MULTILINE)
    assert found is not None
    return int(values[header.index("FragCreates")]) + int(found[1])


def test_a_network_over_dtls_pings_carries_and_heals(tmp_path: Path) -> None:
    with a_network(tmp_path) as (a, b):
        status = a.asked()
        validate("status", status)
        assert (status["node"]["backend"], status["node"]["mtu"]) == ("dtls", MTU)
        assert status["node"]["dtls"]["verified"] is True
        assert (status["peers"][0]["suite"], status["peers"][0]["state"]) == ("dtls", "ok")
        assert "backend dtls" in a.run("status")

        # Full-size packets of both families leave in one datagram each.
        assert a.pings(address(b), "-M", "do", "-s", str(MTU - 28))
        assert a.pings(address(b, 6), "-M", "do", "-s", str(MTU - 48))
        transfer(a.namespace, b.namespace, address(b), BULK_BYTES)
        transfer(b.namespace, a.namespace, address(a, 6), BULK_BYTES)
        assert fragments(a.namespace) == fragments(b.namespace) == 0

        for killed, other in ((a, b), (b, a)):
            target = address(killed)
            killed.kill()
            killed.up()
            up_at = time.monotonic()
            while not other.pings(target, "-W", "0.2"):
                assert time.monotonic() - up_at < HEALED_S
            assert killed.pings(address(other), "-W", "0.5")


@pytest.mark.soak
def test_a_gigabyte_arrives_as_it_left(tmp_path: Path) -> None:
    with a_network(tmp_path) as (a, b):
        for _ in range(GIGABYTE_IN_PARTS):
            transfer(a.namespace, b.namespace, address(b), 10**9 // GIGABYTE_IN_PARTS)
        assert fragments(a.namespace) == fragments(b.namespace) == 0
        assert a.asked()["peers"][0]["epoch"] >= 1
