"""Two hosts with a router between them, whose way gets narrower; and a stream that passes it meanwhile.

Not responsible for what runs on the hosts.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from device_features import cut_on_the_wire
from namespaces import Namespace, namespaces, run_in, start_in, wait_until_local

NARROW = 1280
TRANSFER_S = 3.2


@dataclass(frozen=True)
class Path3:
    """Two hosts and the router between them, its devices named after whoever is behind them."""

    left: Namespace
    router: Namespace
    right: Namespace


@contextmanager
def routed() -> Iterator[Path3]:
    """Both families, forwarded, not bridged. Each packet is one frame on every wire."""
    with namespaces(1) as (first,), namespaces(1) as (router,), namespaces(1) as (second,):
        left = replace(first, ipv4="192.0.2.1", ipv6="2001:db8:1::1")
        right = replace(second, ipv4="198.51.100.2", ipv6="2001:db8:2::2")
        forward = "echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding"
        run_in(router, ["sh", "-ec", forward])
        for host, name in ((left, "left"), (right, "right")):
            run_in(host, f"ip link add eth0 type veth peer name {name} netns {router.name}".split())
            for namespace, device in ((host, "eth0"), (router, name)):
                cut_on_the_wire(namespace, device)
                run_in(namespace, ["ip", "link", "set", device, "up"])
            gateways = re.sub(r"\d+$", "254", host.ipv4), re.sub(r"\d+$", "fe", host.ipv6)
            for namespace, device, addresses in ((host, "eth0", (host.ipv4, host.ipv6)), (router, name, gateways)):
                script = (
                    f"address add {addresses[0]}/24 dev {device}\naddress add {addresses[1]}/64 dev {device} nodad\n"
                )
                run_in(namespace, ["ip", "-batch", "-"], stdin=None, input=script)
            wait_until_local(host.ipv6, inside=["ip", "netns", "exec", host.name])
            wait_until_local(gateways[1], inside=["ip", "netns", "exec", router.name])
            for gateway in gateways:
                run_in(host, ["ip", "route", "add", "default", "via", gateway])
        yield Path3(left, router, right)


def say_too_big(path: Path3) -> None:
    """The router's device towards the right gets narrow: who sends more towards it is told."""
    run_in(path.router, ["ip", "link", "set", "right", "mtu", str(NARROW)])


def say_nothing(path: Path3) -> None:
    """The router drops what is too long, either way."""
    rules = (
        f"table inet narrow {{ chain way {{ type filter hook forward priority 0; meta length > {NARROW} drop; }}; }}\n"
    )
    run_in(path.router, ["nft", "-f", "-"], stdin=None, input=rules)


def widen(path: Path3) -> None:
    """Undo `say_nothing`."""
    run_in(path.router, ["nft", "flush", "ruleset"])


SINK = """
import json, socket, time
with socket.create_server(("::", 5203), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
    print("ready", flush=True)
    connection, _ = listener.accept()
    began = last = time.monotonic()
    tenths, longest = [], 0.0
    while True:
        piece = connection.recv(1 << 20)
        now = time.monotonic()
        longest, last = max(longest, now - last), now
        if not piece:
            break
        tenths += [0] * (int((now - began) * 10) + 1 - len(tenths))
        tenths[-1] += len(piece)
    print(json.dumps([tenths, longest]))
"""
SOURCE = """
import socket, sys, time
end = time.monotonic() + float(sys.argv[2])
with socket.create_connection((sys.argv[1], 5203)) as connection:
    while time.monotonic() < end:
        connection.sendall(bytes(65536))
"""


def stream(path: Path3, address: str, at: float, happens: Callable[[Path3], None]) -> tuple[list[int], float]:
    """A transfer from left to right in which something happens: bytes received in each tenth of a second, and the longest
    time without any.
    """
    sink = start_in(path.right, [sys.executable, "-S", "-c", SINK], stdout=subprocess.PIPE)
    assert sink.stdout is not None
    assert sink.stdout.readline() == "ready\n"
    source = start_in(path.left, [sys.executable, "-S", "-c", SOURCE, address, str(TRANSFER_S)])
    time.sleep(at)
    happens(path)
    assert source.wait(30) == 0
    tenths, longest = json.loads(sink.communicate(timeout=30)[0])
    return tenths, longest
