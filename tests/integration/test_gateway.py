"""A machine whose default route leads through another one, with real kernels: what goes where, and what never does.

    client ──── router ──── exit ──── world
    192.0.2.1   .2 / 198.51.100.2   .3 / 203.0.113.3   203.0.113.4

The client knows the exit and the store by its default route alone, and the world answers nobody but the exit. What is planned
for which exit is in `protocols/test_gateway`.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from daemons import wait_until
from machines import Machine
from namespaces import Namespace, namespaces, needs_namespaces, needs_program, run_in, start_in
from node_world import validate

pytestmark = [
    needs_namespaces,
    needs_program("ping", package="iputils-ping"),
    needs_program("nft", package="nftables"),
    needs_program("etcd", package="etcd-server"),
    needs_program("tcpdump", package="tcpdump"),
]

WORLD = {4: "203.0.113.4", 6: "2001:db8:3::4"}
STORE = "198.51.100.2"
OFFERS = ["--prefix", "0.0.0.0/0", "--prefix", "::/0", "--prefix", "172.20.0.0/16"]
CLIENT = (
    "address add 2001:db8:1::1/64 dev eth0 nodad\n"
    "route add default via 192.0.2.2\n"
    "route add default via 2001:db8:1::2\n"
)
"""What a client loses when its interface goes down."""


@dataclass
class Site:
    """The four hosts, and the registry in the router."""

    client: Namespace
    router: Namespace
    exit: Namespace
    world: Namespace
    folder: Path
    url: str


@contextmanager
def site(folder: Path) -> Iterator[Site]:
    with namespaces(4) as (client, router, out, world):
        for host, addresses in (
            (client, ("192.0.2.1/24",)),
            (router, ("192.0.2.2/24", "198.51.100.2/24", "2001:db8:1::2/64", "2001:db8:2::2/64")),
            (out, ("198.51.100.3/24", "2001:db8:2::3/64", "203.0.113.3/24", "2001:db8:3::3/64")),
            (world, ("203.0.113.4/24", "2001:db8:3::4/64")),
        ):
            lines = "".join(f"address add {each} dev eth0 {'nodad' if ':' in each else ''}\n" for each in addresses)
            ip(host, "address flush dev eth0 scope global\n" + lines)
        ip(client, CLIENT)
        ip(out, "route add default via 198.51.100.2\nroute add default via 2001:db8:2::2\n")
        for host in (router, out):
            run_in(host, ["sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"])
        etcd = f"http://{STORE}:2379"
        start_in(
            router,
            [
                "etcd",
                f"--data-dir={folder / 'etcd'}",
                f"--listen-client-urls={etcd}",
                f"--advertise-client-urls={etcd}",
                "--listen-peer-urls=http://127.0.0.1:2380",
                "--log-level=error",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        yield Site(client, router, out, world, folder, f"etcd://{STORE}:2379/")


def ip(host: Namespace, script: str) -> None:
    run_in(host, ["ip", "-batch", "-"], input=script, stdin=None)


def way_to(host: Namespace, target: str, *selectors: str) -> str:
    """What the kernel says of the way of a packet, on one line."""
    return " ".join(run_in(host, ["ip", "route", "get", target, *selectors], check=False).stdout.split())


def rules(host: Namespace) -> str:
    return run_in(host, ["ip", "rule"]).stdout + run_in(host, ["ip", "-6", "rule"]).stdout


def ways(host: Namespace) -> set[str]:
    """The devices by which the world is reached, in both families."""
    return {way_to(host, target).partition(" dev ")[2].partition(" ")[0] for target in WORLD.values()}


@contextmanager
def capturing(host: Namespace) -> Iterator[list[str]]:
    """What leaves a host in clear: all that is neither a datagram of a node, nor of the store, nor about neighbours."""
    expected = "udp port 1099 or tcp port 2379 or arp or ip6 multicast or (icmp6 and ip6[40] >= 133 and ip6[40] <= 137)"
    tap = start_in(
        host,
        ["tcpdump", "-nli", "eth0", "-Q", "out", f"not ({expected})"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert tap.stderr is not None
    while "listening on" not in tap.stderr.readline():
        assert tap.poll() is None
    seen: list[str] = []
    yield seen
    time.sleep(0.2)
    tap.terminate()
    seen += filter(None, tap.communicate()[0].splitlines())


def test_everything_goes_through_the_exit_and_nothing_around_it(tmp_path: Path) -> None:
    with site(tmp_path) as where:
        out, client = Machine(where.exit, "exit", tmp_path), Machine(where.client, "client", tmp_path)
        token = out.run("init", "home", "--name", "exit", "--registry", where.url, *OFFERS)
        out.up("--masquerade", "--listen", "198.51.100.3:1099")
        client.run("join", token, "--name", "client", "--timeout", "30")
        before = rules(where.client)
        client.up("--gateway", "exit")
        with capturing(where.client) as seen:
            for world in WORLD.values():
                wait_until(lambda: client.pings(world), f"{world} to answer\n{client.log}")  # noqa: B023
            assert ways(where.client) == {"hw0"}
            assert "dev eth0" in way_to(where.client, "198.51.100.3", "mark", hex(mark(client)))
            assert "dev eth0" in way_to(where.client, STORE, "ipproto", "tcp", "dport", "2379")
            assert "dev hw0" in way_to(where.client, STORE, "ipproto", "tcp", "dport", "80")
            assert "dev eth0" in way_to(where.client, "192.0.2.2")
            assert "172.20.0.0/16 dev hw0" in run_in(where.client, ["ip", "route"]).stdout
            assert client.asked()["node"]["registry"]["in_touch"]
            gateway = client.asked()["node"]["gateway"]
            assert gateway == {"through": "exit", "state": "ok", "problem": None, "masquerade": False}
            answer = json.loads(client.run("routes", "--json"))
            validate("routes", answer)
            assert {
                "prefix": "0.0.0.0/0",
                "via": "exit",
                "kind": "gateway",
                "kernel": "installed",
                "why": None,
            } in answer["routes"]

            # The exit goes, and so does the interface for a while: nothing is sent in another way.
            out.kill()
            for world in WORLD.values():
                assert not client.pings(world, "-W", "0.3")
            ip(where.client, "link set eth0 down\nlink set eth0 up\n" + CLIENT)
            assert not client.pings(WORLD[4], "-W", "0.3")
            assert ways(where.client) == {"hw0"}
            out.up("--masquerade", "--listen", "198.51.100.3:1099")
            wait_until(lambda: client.pings(WORLD[4]), f"the world to answer again\n{client.log}", timeout=30)
        assert seen == [], "\n".join(seen)

        # A kill gives the default route back at once; the next life has rules of its own, and not twice.
        own = rules(where.client)
        client.kill()
        assert ways(where.client) == {"eth0"}
        client.up("--gateway", "exit")
        assert rules(where.client) == own != before
        assert ways(where.client) == {"hw0"}
        client.stop()
        assert rules(where.client) == before
        assert ways(where.client) == {"eth0"}
        assert "Traceback" not in client.log + out.log
        assert "holloway_hw0" in run_in(where.exit, ["nft", "list", "tables"]).stdout
        out.stop()
        assert run_in(where.exit, ["nft", "list", "tables"]).stdout == ""


def mark(machine: Machine) -> int:
    from holloway.protocols.gateway import gateway_table

    return gateway_table(machine.asked()["node"]["interface"])
