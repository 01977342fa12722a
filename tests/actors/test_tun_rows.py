"""Rows of like UDP packets through real devices: every datagram once, in order, whatever is among them."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence

import trio
from namespaces import in_namespace
from tun_hosts import FAMILIES, HOSTS, PORT, SO_SNDBUFFORCE, Host, device, ip, two_hosts

from holloway.actors.tun import KernelTun
from holloway.protocols.packets import Packet, SuperPacket, whole_packets


def sender(version: int, port: int = 7) -> socket.socket:
    made = socket.socket(FAMILIES[version], socket.SOCK_DGRAM)
    made.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, 8 << 20)
    made.connect((HOSTS[1][version], port))
    return made


def payloads(packets: Sequence[Packet]) -> list[bytes]:
    return [each[28 if each[0] >> 4 == 4 else 48 :] for each in whole_packets(packets)]


async def all_of(tun0: KernelTun, number: int) -> list[Packet]:
    """As many packets as stand for `number` datagrams."""
    got: list[Packet] = []
    with trio.fail_after(5):
        while len(whole_packets(got)) < number:
            got += await tun0.receive()
    return got


def supers(packets: Sequence[Packet]) -> int:
    return sum(isinstance(packet, SuperPacket) for packet in packets)


@in_namespace
async def test_like_datagrams_come_as_rows_once_there_have_been_some() -> None:
    tun0 = device(0)
    for version in (4, 6):
        with sender(version) as out:
            for turn in range(3):
                sent = [b"%d datagram %4d of 64 bytes" % (turn, each) + bytes(40) for each in range(300)]
                for each in sent:
                    out.send(each)
                got = await all_of(tun0, 300)
                assert payloads(got) == sent
                assert turn == 0 or supers(got) >= 4
    assert not tun0.drops
    tun0.close()


@in_namespace
async def test_what_is_among_a_row_keeps_its_place() -> None:
    tun0 = device(0)
    with sender(4) as out, sender(4, 8) as other, sender(6) as third:
        for _ in range(200):
            out.send(b"row".ljust(64))
        await all_of(tun0, 200)
        for odd in (b"", b"short", b"l" * 65, b"long" * 300, b"x" * 5000):  # the last one comes in fragments
            sent = [b"%4d" % each + bytes(60) for each in range(100)]
            for each in sent[:50]:
                out.send(each)
            (other if len(odd) != 65 else third).send(odd)
            for each in sent[50:]:
                out.send(each)
            got = await all_of(tun0, 100 + len(range(0, max(1, len(odd)), 1392)))
            found = payloads(got)
            assert [each for each in found if each in sent] == sent
            assert found[:50] == sent[:50]
            assert found[-50:] == sent[50:]
            assert supers(got)
    assert not tun0.drops
    tun0.close()


@in_namespace
async def test_flows_that_take_turns_are_parted_and_stay_in_order() -> None:
    tun0 = device(0)
    for version in (4, 6):
        with sender(version) as one, sender(version, 8) as two:
            for turn in range(4):
                sent = [b"%d %4d" % (turn, each) + bytes(60) for each in range(200)]
                for number, each in enumerate(sent):
                    (one if number % 2 else two).send(each)
                got = await all_of(tun0, 200)
                found = payloads(got)
                assert [each for each in found if each in sent[::2]] == sent[::2]
                assert [each for each in found if each in sent[1::2]] == sent[1::2]
                assert turn == 0 or supers(got) >= 4
    assert not tun0.drops
    tun0.close()


@in_namespace
async def test_many_flows_that_send_one_packet_each_keep_their_order() -> None:
    tun0 = device(0)
    with sender(4) as out:
        for turn in range(4):
            sent = [b"%d %4d" % (turn, each) + bytes(60) for each in range(200)]
            for number, each in enumerate(sent):
                out.connect((HOSTS[1][4], 1000 + number))
                out.send(each)
            assert payloads(await all_of(tun0, 200)) == sent
    assert not tun0.drops
    tun0.close()


@in_namespace
async def test_rows_reach_the_sockets_of_another_host() -> None:
    left, right = two_hosts()
    assert not left.tun.drops + right.tun.drops
    for version in (4, 6):
        await carried(left, right, version)
    assert not left.tun.drops + right.tun.drops
    assert right.checksum_errors() == left.checksum_errors() == 0
    left.close()
    right.close()


async def carried(left: Host, right: Host, version: int) -> None:
    count = 0
    for turn in range(3):
        sent = [b"%d datagram %4d" % (turn, each) + bytes(50) for each in range(250)]
        for each in sent:
            right.datagrams[version].sendto(each, (HOSTS[0][version], PORT))
        got = await all_of(right.tun, 250)
        count += supers(got)
        left.tun.send(got)
        left.datagrams[version].settimeout(2)
        assert [left.datagrams[version].recv(2000) for _ in sent] == sent
    assert count >= 8


@in_namespace
async def test_after_rows_a_lone_packet_is_not_waited_for_long_and_closing_wakes() -> None:
    tun0 = device(0)
    with sender(4) as out:
        for _ in range(2):
            for each in range(300):
                out.send(b"row %4d" % each)
            await all_of(tun0, 300)
        with trio.fail_after(1):
            async with trio.open_nursery() as nursery:

                async def later() -> None:
                    await trio.sleep(0.05)
                    out.send(b"alone")

                nursery.start_soon(later)
                assert payloads(await tun0.receive()) == [b"alone"]
        for each in range(300):
            out.send(b"row %4d" % each)
        await all_of(tun0, 300)
        ip("link set hw0 down")
        with trio.fail_after(1):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(expect_closed, tun0)
                await trio.sleep(0.0001)
                tun0.close()


@in_namespace
async def test_after_rows_a_reader_asks_once_for_what_comes_alone() -> None:
    tun0 = device(0)
    got: list[Packet] = []
    read = tun0.reader(got.extend)
    asked: list[int] = []
    real = os.read

    def counted(descriptor: int, size: int) -> bytes:
        asked.append(descriptor)
        return real(descriptor, size)

    with sender(4) as out:
        for each in range(500):
            out.send(b"row %4d" % each)
            if each > 300:
                read(False)
        read(False)
        assert payloads(got) == [b"row %4d" % each for each in range(500)]
        assert supers(got)
        os.read = counted  # type: ignore[assignment]
        for _ in range(3):
            got.clear()
            asked.clear()
            out.send(b"alone")
            read(True)
            assert payloads(got) == [b"alone"]
        os.read = real
    assert len(asked) == 1
    tun0.close()


async def expect_closed(tun0: KernelTun) -> None:
    try:
        await tun0.receive()
    except trio.ClosedResourceError:
        return
    raise AssertionError("it is closed")
