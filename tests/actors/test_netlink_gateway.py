"""Rules and the table of a gateway in a real kernel: made, changed, found again and removed."""

from __future__ import annotations

import os
import select
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from namespaces import drop_capabilities, in_namespace, needs_program

from holloway.actors import udp_binding
from holloway.actors.masquerade import table_name
from holloway.actors.netlink import open_netlink
from holloway.actors.tun_opening import open_tun
from holloway.protocols.errors import PortError
from holloway.protocols.gateway import Pin, gateway_table, plan_gateway

PINS = (Pin(ip_address("203.0.113.7"), 2379), Pin(ip_address("2001:db8::7"), 2379))
TABLE = gateway_table("hw0")
RULES = {
    4: [
        "20000: from all to 203.0.113.7 fwmark 0/{mark} ipproto tcp dport 2379 lookup main proto 72",
        "20001: not from all fwmark {mark} lookup main suppress_prefixlength 0 proto 72",
        "20002: not from all fwmark {mark} lookup {table} proto 72",
    ],
    6: [
        "20000: from all to 2001:db8::7 fwmark 0/{mark} ipproto tcp dport 2379 lookup main proto 72",
        "20001: not from all fwmark {mark} lookup main suppress_prefixlength 0 proto 72",
        "20002: not from all fwmark {mark} lookup {table} proto 72",
    ],
}


def ip(*words: str) -> list[str]:
    said = subprocess.run(["ip", *words], check=False, capture_output=True, text=True).stdout
    return [" ".join(line.split()) for line in said.splitlines()]


def setting(name: str, value: int) -> None:
    Path("/proc/sys/net", name).write_text(str(value))


def rules(version: int) -> list[str]:
    return [line for line in ip(f"-{version}", "rule") if "proto 72" in line]


def table(version: int, number: int = TABLE) -> list[str]:
    return [line.partition(" proto")[0] for line in ip(f"-{version}", "route", "show", "table", str(number))]


def expected(version: int) -> list[str]:
    return [line.format(mark=hex(TABLE), table=TABLE) for line in RULES[version]]


@contextmanager
def complaining(program: str, words: str) -> Iterator[None]:
    """A program of this name is found first, which fails with these words."""
    with TemporaryDirectory() as folder:
        script = Path(folder, program)
        script.write_text(f"#!/bin/sh\ncat > /dev/null; echo '{words}' >&2; exit 1\n")
        script.chmod(0o755)
        os.environ["PATH"] = f"{folder}:{os.environ['PATH']}"
        yield


@in_namespace
async def test_a_plan_is_carried_out_changed_and_taken_back() -> None:
    tun = open_tun("hw0", 1400)
    both = plan_gateway("hw0", own={4, 6}, offered=None, pins=PINS, is_strict=True)
    async with open_netlink() as netlink:
        await netlink.configure("hw0", [], 1400)
        for _ in range(2):  # the second time there is nothing to do
            await netlink.set_gateway("hw0", both)
            for version in (4, 6):
                assert rules(version) == expected(version)
                assert table(version) == ["default dev hw0", f"unreachable default{' dev lo' * (version == 6)}"]
        await netlink.set_gateway("hw0", plan_gateway("hw0", own={4, 6}, offered={4}, pins=PINS[:1]))
        assert table(4) == ["default dev hw0"]
        assert table(6) == ["unreachable default dev lo"]
        assert rules(4) == expected(4)
        assert rules(6) == expected(6)[1:]
        for _ in range(2):
            await netlink.set_gateway("hw0", None)
            assert [*rules(4), *rules(6), *table(4), *table(6)] == []
    tun.close()


@in_namespace
async def test_what_a_killed_node_left_is_found_by_the_next_one_and_by_no_other() -> None:
    tun = open_tun("hw0", 1400)
    async with open_netlink() as netlink:
        await netlink.configure("hw0", [], 1400)
        await netlink.set_gateway("hw0", plan_gateway("hw0", own={4}, offered={4}, pins=PINS, is_strict=True))
    tun.close()
    assert table(4) == ["unreachable default"]
    ip("rule", "add", "not", "fwmark", hex(TABLE), "lookup", str(TABLE), "priority", "9", "protocol", "4")  # not ours
    async with open_netlink() as netlink:
        await netlink.set_gateway("hw1", None)
        assert len(rules(4)) == 3
        await netlink.set_gateway("hw0", None)
        assert [*rules(4), *rules(6), *table(4), *table(6)] == []
    assert any(line.startswith("9:") for line in ip("rule"))


@in_namespace
async def test_no_packet_is_led_astray_while_rules_come_and_go() -> None:
    tun = open_tun("hw0", 1400)
    plan = plan_gateway("hw0", own={4}, offered={4}, pins=PINS)
    with subprocess.Popen(["ip", "monitor", "rule"], stdout=subprocess.PIPE, text=True) as monitor:  # noqa: ASYNC220
        assert monitor.stdout is not None
        async with open_netlink() as netlink:
            await netlink.configure("hw0", [], 1400)
            while not select.select([monitor.stdout], [], [], 0.05)[0]:  # until it listens
                ip("rule", "add", "priority", "1", "lookup", "main")
                ip("rule", "delete", "priority", "1")
            await netlink.set_gateway("hw0", plan)
            await netlink.set_gateway("hw0", None)
        priorities: list[tuple[bool, int]] = []
        while len(priorities) < 12:
            line = monitor.stdout.readline()
            number = int(line.removeprefix("Deleted ").partition(":")[0])
            if number != 1:
                priorities.append((line.startswith("Deleted"), number))
        monitor.kill()
    for version in (4, 6):
        assert priorities[3 * (version == 6) :][:3] == [(False, 20_000), (False, 20_001), (False, 20_002)]
        assert priorities[6 + 3 * (version == 6) :][:3] == [(True, 20_002), (True, 20_001), (True, 20_000)]
    tun.close()


@in_namespace
def test_datagrams_carry_a_mark_and_without_the_right_to_that_is_told() -> None:
    (ipv4, ipv6) = udp_binding.open_udp(None, 0, mark=TABLE)
    for port in (ipv4, ipv6):
        assert port._socket.getsockopt(socket.SOL_SOCKET, socket.SO_MARK) == TABLE
        port.close()
    drop_capabilities()
    with pytest.raises(PortError, match="kept out of the tunnel: EPERM"):
        udp_binding.open_udp(None, 0, mark=TABLE)


@in_namespace
async def test_a_rule_that_is_there_twice_is_there_once_afterwards() -> None:
    tun = open_tun("hw0", 1400)
    plan = plan_gateway("hw0", own={4}, offered={4}, pins=())
    async with open_netlink() as netlink:
        await netlink.configure("hw0", [], 1400)
        ip("rule", "add", "not", "fwmark", hex(TABLE), "lookup", str(TABLE), "priority", "7", "protocol", "72")
        await netlink.set_gateway("hw0", plan)
        assert rules(4) == expected(4)[1:]
    tun.close()


@in_namespace
async def test_a_strict_reverse_path_filter_is_told_of_with_what_mends_it() -> None:
    ip("link", "add", "up0", "up", "type", "veth", "peer", "up1")
    ip("link", "set", "up1", "up")
    ip("address", "add", "192.0.2.1/24", "dev", "up0")
    ip("route", "add", "default", "via", "192.0.2.2")
    tun = open_tun("hw0", 1400)
    plan = plan_gateway("hw0", own={4}, offered={4}, pins=())
    async with open_netlink() as netlink:
        await netlink.configure("hw0", [], 1400)
        setting("ipv4/conf/all/rp_filter", 0)
        setting("ipv4/conf/up0/rp_filter", 1)
        with pytest.raises(PortError, match="up0 drops what comes by another way") as caught:
            await netlink.set_gateway("hw0", plan)
        assert "rp_filter=2" in caught.value.fix
        await netlink.set_gateway("hw0", None)  # that can be had all the same
        setting("ipv4/conf/up0/rp_filter", 2)
        await netlink.set_gateway("hw0", plan)
    tun.close()


@in_namespace
async def test_a_host_without_ipv6_has_no_way_to_close() -> None:
    setting("ipv6/conf/all/disable_ipv6", 1)
    tun = open_tun("hw0", 1400)
    async with open_netlink() as netlink:
        await netlink.configure("hw0", [], 1400)
        await netlink.set_gateway("hw0", plan_gateway("hw0", own={4}, offered={4}, pins=()))
        assert table(4) == ["default dev hw0"]
        await netlink.set_gateway("hw0", None)
        assert [*rules(4), *rules(6), *table(4), *table(6)] == []
    tun.close()


@needs_program("nft", package="nftables")
@in_namespace
async def test_masquerading_is_set_up_once_and_goes_again() -> None:
    def tables(*options: str) -> str:
        command = ["nft", *options, "list", "ruleset"]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    async with open_netlink() as netlink:
        setting("ipv4/ip_forward", 0)
        with pytest.raises(PortError, match="does not forward IPv4 packets") as caught:
            await netlink.set_masquerade("hw@0", {4})
        assert "net.ipv4.ip_forward=1" in caught.value.fix
        assert tables() == ""
        setting("ipv4/ip_forward", 1)
        for _ in range(2):
            await netlink.set_masquerade("hw@0", {4})
            assert tables().count("masquerade") == 1
            assert "table inet holloway_hw_0" in tables()
        listed = tables("-a")
        await netlink.set_masquerade("hw@0", {4})
        assert tables("-a") == listed, "what is there is left alone, handles and all"
        setting("ipv6/conf/all/forwarding", 1)
        await netlink.set_masquerade("hw@0", {4, 6})
        assert "{ ipv4, ipv6 } masquerade" in tables()
        await netlink.set_masquerade("hw@0", {4, 6})
        assert tables().count("masquerade") == 1
        await netlink.set_masquerade("hw1", ())
        assert "masquerade" in tables()
        for _ in range(2):
            await netlink.set_masquerade("hw@0", ())
            assert tables() == ""


@in_namespace
async def test_masquerading_that_nft_does_not_take_back_is_told_of_in_its_words() -> None:
    with complaining("nft", "Error: it is busy"):
        async with open_netlink() as netlink:
            with pytest.raises(PortError, match="cannot be taken back: nft: Error: it is busy") as caught:
                await netlink.set_masquerade("hw0", ())
            assert "nft delete table inet holloway_hw0" in caught.value.fix


@in_namespace
async def test_masquerading_without_nft_says_what_to_install() -> None:
    os.environ["PATH"] = "/nowhere"
    setting("ipv4/ip_forward", 1)
    async with open_netlink() as netlink:
        with pytest.raises(PortError, match="there is no program nft") as caught:
            await netlink.set_masquerade("hw0", {4})
        assert "install nftables" in caught.value.fix
        await netlink.set_masquerade("hw0", ())


def test_the_table_of_a_device_is_named_as_nft_can_read() -> None:
    assert table_name("hw0") == "holloway_hw0"
    assert table_name("a@b-c.d") == "holloway_a_b-c.d"
