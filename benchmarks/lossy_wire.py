"""Two hosts joined through a hub that loses a share of what passes, the same for every system that is measured.

    left eth0 ── port1 [ bridge in a namespace of its own, nft at the ingress of both ports ] port2 ── eth0 right

Each frame is judged alone: the hosts' devices cut and join nothing, as one frame lost would otherwise be up to 64 datagrams
lost. That costs the bare wire more than half of its speed, so compare only what was measured over the same wire.
Responsible for the wire; not for what is sent over it.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from device_features import cut_on_the_wire
from namespaces import DEVICE, Namespace, namespaces, run_in, wait_until_local

PORTS = ("port1", "port2")
OF = 100_000  # loss is told to nft as so many in this many
LEAST_PERCENT = 100 / OF
PACKAGE = "nftables"
KERNEL = "this kernel cannot lose packets by nft(8)"


def why_not_lossy() -> tuple[str, str] | None:
    """Why no loss can be made here, and what mends it; None when it can. Needs what `namespaces` needs."""
    if not shutil.which("nft"):
        return "nft is missing", f"sudo apt-get install {PACKAGE}"
    with namespaces(1) as (alone,):
        tried = run_in(alone, ["nft", "-f", "-"], check=False, stdin=None, input=rules(1.0, ("lo",)))
    if tried.returncode:
        return f"{KERNEL}: {' '.join(tried.stdout.split())[:200]}", "sudo modprobe -a nf_tables nft_numgen"
    return None


@contextmanager
def lossy_wire(percent: float) -> Iterator[tuple[Namespace, Namespace]]:
    """Two hosts between which `percent` of all IP packets are lost in each direction, at random, but for neighbour discovery."""
    with namespaces(1) as (first,), namespaces(1) as (second,), namespaces(1) as (hub,):
        hosts = (
            replace(first, ipv4="192.0.2.1", ipv6="2001:db8::1"),
            replace(second, ipv4="192.0.2.2", ipv6="2001:db8::2"),
        )
        run_in(hub, ["ip", "link", "add", "bridge", "type", "bridge"])
        run_in(hub, ["ip", "link", "set", "bridge", "up"])
        for host, port in zip(hosts, PORTS, strict=True):
            pair = ["type", "veth", "peer", "name", DEVICE, "netns", host.name]
            run_in(hub, ["ip", "link", "add", port, *pair])
            run_in(hub, ["ip", "link", "set", port, "master", "bridge", "up"])
            run_in(host, ["ip", "link", "set", DEVICE, "up"])
            cut_on_the_wire(host, DEVICE)
            cut_on_the_wire(hub, port)
        for host in hosts:
            run_in(host, ["ip", "address", "add", f"{host.ipv4}/24", "dev", DEVICE])
            run_in(host, ["ip", "address", "add", f"{host.ipv6}/64", "dev", DEVICE, "nodad"])
            wait_until_local(host.ipv6, inside=["ip", "netns", "exec", host.name])
        run_in(hub, ["nft", "-f", "-"], stdin=None, input=rules(percent, PORTS))
        yield hosts


def rules(percent: float, devices: tuple[str, ...]) -> str:
    """What nft(8) is told: at the ingress of each device, IP packets are dropped at random.

    Let be are ARP and neighbour discovery (RFC 4861): losing one of these stops a host for a second, which is no share.
    """
    known = "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept"
    drop = f"meta protocol {{ ip, ip6 }} numgen random mod {OF} < {round(percent / 100 * OF)} drop"
    chains = "".join(
        f'chain {device} {{ type filter hook ingress device "{device}" priority 0; policy accept; {known}; {drop}; }}\n'
        for device in devices
    )
    return f"table netdev loss {{\n{chains}}}\n"
