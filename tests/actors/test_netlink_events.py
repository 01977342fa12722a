"""What the kernel tells of its interfaces, read from real messages and from any bytes."""

from __future__ import annotations

import socket
import struct

import trio
from hypothesis import given
from hypothesis import strategies as st
from namespaces import in_namespace

from holloway.actors.netlink import open_netlink
from holloway.actors.netlink_events import IFF_UP, RTM_DELADDR, RTM_NEWADDR, RTM_NEWLINK, changed_interfaces

RTM_DELLINK = 17


def message(kind: int, body: bytes) -> bytes:
    whole = struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body
    return whole + bytes(-len(whole) % 4)


def link(index: int, flags: int) -> bytes:
    return message(RTM_NEWLINK, struct.pack("=BxHiII", 0, 1, index, flags, 0))


def address(kind: int, index: int) -> bytes:
    return message(kind, struct.pack("=BBBBI", socket.AF_INET, 24, 0, 0, index) + b"attributes")


def test_interfaces_that_are_up_and_addresses_that_came_or_went_are_told() -> None:
    data = link(3, IFF_UP) + address(RTM_NEWADDR, 4) + address(RTM_DELADDR, 5)
    assert changed_interfaces(data) == {3, 4, 5}


def test_an_interface_that_goes_down_or_away_is_not_told() -> None:
    assert changed_interfaces(link(3, 0) + message(RTM_DELLINK, struct.pack("=BxHiII", 0, 1, 6, IFF_UP, 0))) == set()


@given(st.binary(max_size=200), st.integers(0, 60))
def test_any_bytes_are_read_and_a_cut_message_is_passed_over(data: bytes, cut: int) -> None:
    changed_interfaces(data)
    whole = link(3, IFF_UP) + address(RTM_NEWADDR, 4)
    assert changed_interfaces(whole[: len(whole) - cut]) <= {3, 4}


@in_namespace
async def test_the_kernel_tells_of_changes_by_anybody() -> None:
    async def ip(*arguments: str) -> None:
        await trio.run_process(["ip", *arguments])

    async with open_netlink() as netlink:
        with trio.fail_after(20):
            await ip("address", "add", "10.1.1.1/32", "dev", "lo")
            assert await netlink.wait_changed() == {"lo"}
            await ip("link", "set", "lo", "down")
            with trio.move_on_after(0.5):
                await netlink.wait_changed()  # of the addresses that went with it
            with trio.move_on_after(0.5) as silence:
                await netlink.wait_changed()
            assert silence.cancelled_caught
            await ip("link", "set", "lo", "up")
            assert await netlink.wait_changed() == {"lo"}
