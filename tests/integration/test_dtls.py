"""Networks whose back end is DTLS, on real kernels: made by `init` and `join`, and as good as any other."""

from __future__ import annotations

import re
import time
from pathlib import Path

from daemons import wait_until
from machines import Machine
from namespaces import Namespace, namespaces, needs_namespaces, needs_program, run_in
from transfer import transfer

pytestmark = [needs_namespaces, needs_program("ping", package="iputils-ping")]

BULK_BYTES = 30_000_000
HEALED_S = 5.0


def meet(a: Machine, b: Machine, registry: str) -> None:
    token = a.run("init", "home", "--name", "a", "--registry", registry, "--backend", "dtls")
    a.up()
    b.run("join", token, "--name", "b", "--timeout", "30")
    b.up()
    wait_until(lambda: a.pings(b.address()), "a to reach b")
    wait_until(lambda: b.pings(a.address()), "b to reach a")


def fragments(host: Namespace) -> int:
    """Datagrams that this host took apart, of either family."""
    lines = run_in(host, ["cat", "/proc/net/snmp", "/proc/net/snmp6"]).stdout
    header, values = (line.split() for line in re.findall(r"^Ip: .*$", lines, re.MULTILINE))
    found = re.search(r"^Ip6FragCreates\s+(\d+)", lines, re.MULTILINE)
    assert found is not None
    return int(values[header.index("FragCreates")]) + int(found[1])


def test_a_network_over_dtls_pings_carries_and_heals(tmp_path: Path) -> None:
    with namespaces(2) as (left, right):
        a, b = Machine(left, "a", tmp_path), Machine(right, "b", tmp_path)
        meet(a, b, f"sqlite://{tmp_path / 'net.db'}")
        status = a.status()
        assert (status["node"]["backend"], status["node"]["mtu"]) == ("dtls", 1400)
        assert status["node"]["dtls"]["verified"] is True
        assert (status["peers"][0]["suite"], status["peers"][0]["state"]) == ("dtls", "ok")
        assert b.pings(a.address(6))

        # Full-size packets of both families leave in one datagram each.
        assert a.pings(b.address(), "-M", "do", "-s", str(1400 - 28))
        assert a.pings(b.address(6), "-M", "do", "-s", str(1400 - 48))
        transfer(left, right, b.address(), BULK_BYTES)
        transfer(right, left, a.address(6), BULK_BYTES)
        assert fragments(left) == fragments(right) == 0

        for killed, other in ((a, b), (b, a)):
            killed.kill()
            killed.up()
            up_at = time.monotonic()
            while not other.pings(killed.address(), "-W", "0.2"):
                assert time.monotonic() - up_at < HEALED_S
            assert killed.pings(other.address(), "-W", "0.5")
