"""Netlink against the kernel, each test alone in a network namespace with a TUN device of its own."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
import subprocess
import sys
from ipaddress import IPv4Interface, IPv6Interface, ip_interface, ip_network
from typing import Any

import pytest
import trio
import trio.testing
from namespaces import drop_capabilities, in_namespace

from holloway.actors import netlink as netlink_module
from holloway.actors.netlink import TrioNetlink, open_netlink
from holloway.actors.ports import Netlink
from holloway.actors.tun import KernelTun
from holloway.actors.tun_opening import open_tun
from holloway.protocols.errors import PortError

V4, V6 = ip_interface("10.9.0.1/24"), ip_interface("fd09::1/64")


def ip(command: str) -> list[dict[str, Any]]:
    """What `ip -json` says."""
    said = subprocess.run(["ip", "-json", *command.split()], check=True, stdout=subprocess.PIPE).stdout
    return [entry for entry in json.loads(said or b"[]") if entry]


def addresses(interface: str = "hw0") -> set[str]:
    (link,) = ip(f"address show dev {interface}")
    return {f"{entry['local']}/{entry['prefixlen']}" for entry in link["addr_info"]}


def routes(interface: str = "hw0") -> set[str]:
    """Prefixes of the main tables of both families, without the kernel's multicast route."""
    return {
        entry["dst"]
        for family in ("-4", "-6")
        for entry in ip(f"{family} route show dev {interface}")
        if entry["dst"] != "ff00::/8"
    }


def device(name: str = "hw0") -> KernelTun:
    return open_tun(name, 1400)


async def refused(
    netlink: Netlink, *wanted: IPv4Interface | IPv6Interface, mtu: int = 1400, on: str = "hw0"
) -> PortError:
    with pytest.raises(PortError) as caught:
        await netlink.configure(on, wanted, mtu)
    return caught.value


@in_namespace
async def test_an_interface_gets_its_addresses_and_mtu_and_comes_up() -> None:
    tun = device()
    async with open_netlink() as netlink:
        port: Netlink = netlink
        await port.configure("hw0", [V4, V6], 1380)
    (link,) = ip("link show dev hw0")
    assert link["mtu"] == 1380
    assert "UP" in link["flags"]
    assert addresses() == {"10.9.0.1/24", "fd09::1/64"}, "no link-local address either"
    assert routes() == {"10.9.0.0/24", "fd09::/64"}
    tun.close()


@in_namespace
async def test_a_tunnel_sends_no_link_local_noise() -> None:
    for setting in ("router_solicitation_delay", "router_solicitation_interval"):  # seconds, so as not to wait for one
        with open(f"/proc/sys/net/ipv6/conf/default/{setting}", "w") as knob:  # noqa: ASYNC230 - not a disk
            knob.write("0")
    tun = device()
    async with open_netlink() as netlink:
        await netlink.configure("hw0", [V4, V6], 1400)
    with trio.move_on_after(0.3):
        pytest.fail(f"the kernel sent {await tun.receive()}")
    tun.close()


@in_namespace
async def test_configuring_twice_changes_nothing() -> None:
    tun = device()
    async with open_netlink() as netlink:
        await netlink.configure("hw0", [V4, V6], 1380)
        before = ip("address show dev hw0")
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as monitor:
            monitor.bind((0, 0x1 | 0x10 | 0x40 | 0x100 | 0x400))  # links, addresses and routes of both families
            monitor.setblocking(False)
            await netlink.configure("hw0", [V4, V6], 1380)
            await netlink.configure("hw0", [V6, V4, V4], 1380)
            with pytest.raises(BlockingIOError):
                monitor.recv(65536)
            await netlink.configure("hw0", [V6, V4], 1381)
            assert monitor.recv(65536), "the monitor sees nothing at all"
            await netlink.configure("hw0", [V4, V6], 1380)
    assert ip("address show dev hw0") == before
    tun.close()


@in_namespace
async def test_an_interface_that_is_down_is_left_alone_unless_it_is_to_be_brought_up() -> None:
    tun = device()
    async with open_netlink() as netlink:
        await netlink.configure("hw0", [V4, V6], 1380)
        ip("link set hw0 down")
        ip(f"address delete {V4} dev hw0")
        before = ip("address show dev hw0")
        await netlink.configure("hw0", [V4, V6], 1400, bring_up=False)
        assert ip("address show dev hw0") == before
        await netlink.configure("hw0", [V4, V6], 1400)
        assert "UP" in ip("link show dev hw0")[0]["flags"]
        assert str(V4) in addresses()
    tun.close()


@in_namespace
async def test_the_host_tells_the_addresses_of_its_interfaces_that_others_might_reach() -> None:
    tun = device()
    ip("link set lo up")
    async with open_netlink() as netlink:
        assert await netlink.host_addresses() == []
        await netlink.configure("hw0", [V4, V6], 1400)
        with trio.fail_after(10):  # the kernel looks for a double of the IPv6 address from a work queue
            while len(await netlink.host_addresses()) < 2:  # noqa: ASYNC110
                await trio.sleep(0.01)
        assert sorted(await netlink.host_addresses(), key=str) == [("hw0", V4.ip), ("hw0", V6.ip)]
        ip("link set hw0 down")
        assert await netlink.host_addresses() == []
    tun.close()


@in_namespace
async def test_addresses_that_are_not_wanted_any_more_go_and_the_new_ones_stay() -> None:
    tun = device()
    async with open_netlink() as netlink:
        await netlink.configure("hw0", [V4, V6, ip_interface("10.8.0.1/16")], 1400)
        # Both new IPv4 addresses are in the network of the old first one, whose removal would take later ones along.
        wanted = [ip_interface(text) for text in ("10.9.0.2/24", "10.9.0.1/32", "fd09::2/64")]
        await netlink.configure("hw0", wanted, 1400)
        assert addresses() == {"10.9.0.2/24", "10.9.0.1/32", "fd09::2/64"}
        await netlink.configure("hw0", [ip_interface("10.9.0.2/24"), ip_interface("10.9.0.3/24")], 1400)
        assert addresses() == {"10.9.0.2/24", "10.9.0.3/24"}
        await netlink.configure("hw0", [ip_interface("10.9.0.3/24")], 1400)
        assert addresses() == {"10.9.0.3/24"}
        await netlink.configure("hw0", [], 1400)
        assert addresses() == set()
    tun.close()


@in_namespace
async def test_other_interfaces_are_left_alone() -> None:
    first, second = device("hw0"), device("hw1")
    async with open_netlink() as netlink:
        await netlink.configure("hw0", [V4, V6], 1400)
        await netlink.configure("hw1", [ip_interface("10.10.0.1/24")], 1300)
        await netlink.add_route("hw0", ip_network("10.20.0.0/16"))
        await netlink.remove_route("hw1", ip_network("10.20.0.0/16"))
        await netlink.configure("hw1", [], 1300)
    assert addresses("hw0") == {"10.9.0.1/24", "fd09::1/64"}
    assert "10.20.0.0/16" in routes("hw0")
    first.close()
    second.close()


@in_namespace
async def test_a_link_local_address_the_kernel_made_before_stays() -> None:
    tun = device()
    ip("link set hw0 up")
    (kernels_own,) = addresses()
    assert kernels_own.startswith("fe80:")
    async with open_netlink() as netlink:
        await netlink.configure("hw0", [V6], 1400)
    assert addresses() == {kernels_own, "fd09::1/64"}
    tun.close()


@in_namespace
async def test_routes_come_and_go_and_both_twice() -> None:
    tun = device()
    prefixes = [
        ip_network(text) for text in ("10.20.0.0/16", "192.0.2.7/32", "0.0.0.0/0", "fd20::/48", "::/0", "fd21::7/128")
    ]
    async with open_netlink() as netlink:
        await netlink.configure("hw0", [V4, V6], 1400)
        for prefix in prefixes * 2:
            await netlink.add_route("hw0", prefix)
        added = routes() - {"10.9.0.0/24", "fd09::/64"}
        assert added == {"10.20.0.0/16", "192.0.2.7", "default", "fd20::/48", "fd21::7"}
        assert len(ip("-4 route show default")) == len(ip("-6 route show default")) == 1
        for prefix in prefixes * 2:
            await netlink.remove_route("hw0", prefix)
        assert routes() == {"10.9.0.0/24", "fd09::/64"}
    tun.close()


@in_namespace
async def test_a_route_moves_from_one_interface_to_another() -> None:
    first, second = device("hw0"), device("hw1")
    async with open_netlink() as netlink:
        await netlink.configure("hw0", [V4], 1400)
        await netlink.configure("hw1", [ip_interface("10.10.0.1/24")], 1400)
        await netlink.add_route("hw0", ip_network("10.20.0.0/16"))
        await netlink.add_route("hw1", ip_network("10.20.0.0/16"))
    assert "10.20.0.0/16" in routes("hw1")
    assert "10.20.0.0/16" not in routes("hw0")
    first.close()
    second.close()


@in_namespace
async def test_the_connected_network_keeps_the_route_the_kernel_made() -> None:
    tun = device()
    async with open_netlink() as netlink:
        await netlink.configure("hw0", [V4, V6], 1400)
        before = ip("route show dev hw0"), ip("-6 route show dev hw0")
        assert before[0][0]["prefsrc"] == "10.9.0.1"
        for prefix in (V4.network, V6.network):
            await netlink.add_route("hw0", prefix)
            await netlink.remove_route("hw0", prefix)
        assert (ip("route show dev hw0"), ip("-6 route show dev hw0")) == before
    tun.close()


@in_namespace
async def test_removing_a_route_from_an_interface_that_is_gone_is_fine() -> None:
    async with open_netlink() as netlink:
        await netlink.remove_route("hw9", ip_network("10.20.0.0/16"))


@in_namespace
async def test_refusals_say_what_why_and_how_to_mend_it() -> None:
    tun = device()
    async with open_netlink() as netlink:
        gone = await refused(netlink, V4, on="hw9")
        assert gone.what == "cannot configure hw9"
        assert gone.why == "ENODEV: there is no such interface"
        for mtu in (0, 67, 70_000):
            invalid = await refused(netlink, V4, mtu=mtu)
            assert invalid.why.startswith("EINVAL")
            assert "68 to 65535" in invalid.fix
        with pytest.raises(PortError) as caught:
            await netlink.add_route("hw9", ip_network("10.20.0.0/16"))
        assert caught.value.what == "cannot route 10.20.0.0/16 into hw9"
        with pytest.raises(PortError) as caught:
            await netlink.add_route("hw0", ip_network("10.20.0.0/16"))
        assert caught.value.why == "ENETDOWN: the interface is down"
        assert caught.value.fix == "sudo ip link set hw0 up"
        with open("/proc/sys/net/ipv6/conf/hw0/disable_ipv6", "w") as switch:  # noqa: ASYNC230 - not a disk
            switch.write("1")
        off = await refused(netlink, V6)
        assert off.why == "EACCES: IPv6 is switched off for this interface"
        assert "net.ipv6.conf.hw0.disable_ipv6=0" in off.fix
        too_small = await refused(netlink, V6, mtu=1000)
        assert "IPv6" in too_small.fix
        await netlink.configure("hw0", [V4], 1400)
    tun.close()


@in_namespace
async def test_what_an_administrator_prepared_needs_no_privilege() -> None:
    for command in (
        f"tuntap add hw0 mode tun user {os.geteuid()}",
        "link set hw0 mtu 1380 up",
        "address add 10.9.0.1/24 dev hw0",
        "address add fd09::1/64 dev hw0",
        "route add 10.20.0.0/16 dev hw0",
        "route add default dev hw0",
        "-6 route add fd20::/48 dev hw0",
    ):
        ip(command)
    drop_capabilities()
    tun = device()
    async with open_netlink() as netlink:
        await netlink.configure("hw0", [V4, V6], 1380)
        for text in ("10.9.0.0/24", "10.20.0.0/16", "fd20::/48"):
            await netlink.add_route("hw0", ip_network(text))
        for text in ("10.20.0.0/17", "10.21.0.0/16", "fd20::/47"):
            with pytest.raises(PortError) as caught:
                await netlink.add_route("hw0", ip_network(text))
            assert caught.value.why == "EPERM: this process lacks CAP_NET_ADMIN"
        more = await refused(netlink, V4, V6, ip_interface("10.9.0.2/24"), mtu=1380)
        assert more.why == "EPERM: this process lacks CAP_NET_ADMIN"
        assert "sudo ip link set hw0 mtu MTU up" in more.fix
    tun.close()


@in_namespace
async def test_requests_of_several_tasks_are_all_carried_out() -> None:
    tun = device()
    async with open_netlink() as netlink:
        await netlink.configure("hw0", [V4], 1400)
        async with trio.open_nursery() as nursery:
            for third in range(50):
                nursery.start_soon(netlink.add_route, "hw0", ip_network(f"10.20.{third}.0/24"))
        assert len(routes()) == 51
    tun.close()


@in_namespace
async def test_nothing_is_left_open() -> None:
    async with open_netlink():
        pass  # what the libraries keep open for good is open after the first time
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        async with open_netlink() as netlink:
            await netlink.remove_route("hw9", ip_network("10.20.0.0/16"))
    assert len(os.listdir("/proc/self/fd")) == before


async def hang(_kernel: object) -> None:
    await asyncio.sleep(60)


@in_namespace
async def test_a_cancelled_request_is_given_up_at_once_and_the_next_one_works() -> None:
    async with open_netlink() as netlink:
        with trio.fail_after(5):
            with trio.move_on_after(0.05) as impatient:
                await netlink._ask("hang", "hw0", hang)
        assert impatient.cancelled_caught
    async with open_netlink() as netlink:
        await netlink.remove_route("hw9", ip_network("10.20.0.0/16"))


@in_namespace
async def test_leaving_gives_up_what_is_being_carried_out() -> None:
    async def ask(netlink: TrioNetlink) -> None:
        with pytest.raises(PortError, match="ECANCELED"):
            await netlink._ask("cannot wait", "hw0", hang)

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery, open_netlink() as netlink:
            nursery.start_soon(ask, netlink)
            await trio.testing.wait_all_tasks_blocked(0.05)
    with pytest.raises(trio.ClosedResourceError):
        await netlink.remove_route("hw9", ip_network("10.20.0.0/16"))


@in_namespace
async def test_cancelling_the_context_is_prompt() -> None:
    with trio.fail_after(5):
        with trio.move_on_after(0.2) as outer:
            async with open_netlink() as netlink, trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(netlink._ask, "hang", "hw0", hang)
        assert outer.cancelled_caught
        with trio.CancelScope() as already:
            already.cancel()
            async with open_netlink():
                await trio.sleep_forever()
        assert already.cancelled_caught


@in_namespace
async def test_a_kernel_that_does_not_answer_is_a_port_error() -> None:
    netlink_module.REQUEST_TIMEOUT_S = 0.05
    async with open_netlink() as netlink:
        with trio.fail_after(5), pytest.raises(PortError) as caught:
            await netlink._ask("cannot wait for {interface}", "hw0", hang)
        assert caught.value.what == "cannot wait for hw0"
        assert caught.value.why.startswith("ETIMEDOUT")
        await netlink.remove_route("hw9", ip_network("10.20.0.0/16"))


@in_namespace
async def test_what_the_body_raises_comes_out_as_it_is() -> None:
    with pytest.raises(ValueError, match="mine"):
        async with open_netlink():
            raise ValueError("mine")
    with pytest.raises(PortError, match="hw9"):
        async with open_netlink() as netlink:
            await netlink.configure("hw9", [V4], 1400)


@in_namespace
async def test_a_kernel_that_gives_no_socket_is_a_port_error() -> None:
    class Sandboxed(socket.socket):
        """As under a systemd unit whose RestrictAddressFamilies= forgets AF_NETLINK."""

        def __init__(self, family: int = socket.AF_INET, *rest: int, **named: int | None) -> None:
            if family == socket.AF_NETLINK:
                raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
            super().__init__(family, *rest, **named)  # type: ignore[arg-type]

    socket.socket = Sandboxed  # type: ignore[assignment, misc]
    with trio.fail_after(5), pytest.raises(PortError) as caught:
        async with open_netlink():
            pytest.fail("there is no socket")
    assert caught.value.what == "cannot open a netlink socket"
    assert caught.value.why.startswith("EAFNOSUPPORT")
    assert "allow AF_NETLINK" in caught.value.fix


def test_a_node_that_never_touches_the_kernel_does_not_get_asyncio_patched() -> None:
    program = """
import asyncio, sys
before = asyncio.new_event_loop, asyncio.get_running_loop, asyncio.get_event_loop_policy()
from holloway.actors.kernel import KernelPorts
context = KernelPorts().open_netlink()
assert "trio_asyncio" not in sys.modules and "pyroute2" not in sys.modules, "imported without need"
assert before == (asyncio.new_event_loop, asyncio.get_running_loop, asyncio.get_event_loop_policy())
import trio
async def main():
    async with context:
        assert "trio_asyncio" in sys.modules, "the test looks for the wrong module"
trio.run(main)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


@in_namespace
async def test_one_address_comes_and_goes_among_the_others() -> None:
    tun = device()
    alone = ip_interface("10.9.0.200/32")
    async with open_netlink() as netlink:
        await netlink.configure("hw0", [V4], 1400)
        for _ in range(2):
            await netlink.add_address("hw0", alone)
            assert addresses() == {str(V4), str(alone)}
        for _ in range(2):
            await netlink.remove_address("hw0", alone)
            assert addresses() == {str(V4)}
        await netlink.remove_address("hw9", alone)
        with pytest.raises(PortError, match="ENODEV"):
            await netlink.add_address("hw9", alone)
    tun.close()
