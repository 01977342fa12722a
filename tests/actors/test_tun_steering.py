"""Which packets of the host the kernel puts into the second queue of a device, each test alone in a network namespace."""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
import time

from namespaces import in_namespace, wait_until_local

from holloway.actors.tun import KernelTun
from holloway.actors.tun_opening import open_tun, open_tun_queue
from holloway.actors.tun_steering import LONG_BYTES, MOST_PACKETS, SLOW_S, WINDOW_S, load, steer

HEADERS = {socket.AF_INET: 28, socket.AF_INET6: 48}
OURS = {socket.AF_INET: "10.9.0.1", socket.AF_INET6: "fd09::1"}
THEIRS = {socket.AF_INET: "10.9.0.2", socket.AF_INET6: "fd09::2"}
FAMILIES = tuple(HEADERS)
PORTS = itertools.count(40_000)


def steered() -> tuple[KernelTun, KernelTun]:
    """The queues of a device that is up, with our addresses and no link-local noise."""
    first = open_tun("hw0", 1420, offloads=False, several=True)
    second = open_tun_queue(first)
    program = load()
    steer(first.fileno(), program)
    os.close(program)
    for command in (
        "link set hw0 addrgenmode none",
        "link set hw0 mtu 1420 up",
        "address add 10.9.0.1/24 dev hw0",
        "address add fd09::1/64 dev hw0 nodad",
    ):
        subprocess.run(["ip", *command.split()], check=True)
    wait_until_local("fd09::1")
    return first, second


def count(queue: KernelTun) -> int:
    """How many packets there are in a queue, which is empty then."""
    number = 0
    while True:
        try:
            os.read(queue.fileno(), 65_536)
        except BlockingIOError:
            return number
        number += 1


def sender(family: socket.AddressFamily) -> socket.socket:
    made = socket.socket(family, socket.SOCK_DGRAM)
    made.bind((OURS[family], next(PORTS)))  # no two of which share a place: with random ones one pair in 5000 would
    made.connect((THEIRS[family], 7))
    return made


@in_namespace
def test_short_packets_go_to_the_second_queue_and_long_ones_to_the_first() -> None:
    queues = steered()
    for family in FAMILIES:
        for length, expected in ((LONG_BYTES, [0, 1]), (LONG_BYTES + 1, [1, 0])):
            with sender(family) as flow:
                flow.send(bytes(length - HEADERS[family]))
            assert [count(queue) for queue in queues] == expected, (family, length)


@in_namespace
def test_a_flow_that_sent_something_long_keeps_to_the_first_queue_for_a_while_and_others_do_not() -> None:
    queues = steered()
    for family in FAMILIES:
        with sender(family) as busy, sender(family) as other:
            busy.send(bytes(LONG_BYTES))
            busy.send(b"x")
            other.send(b"x")
            assert [count(queue) for queue in queues] == [2, 1], family
            time.sleep(SLOW_S * 0.5)
            busy.send(b"x")
            assert [count(queue) for queue in queues] == [1, 0], family
            time.sleep(SLOW_S * 0.7)
            busy.send(b"x")
            assert [count(queue) for queue in queues] == [0, 1], family


@in_namespace
def test_a_flow_of_many_short_packets_keeps_to_the_first_queue_until_they_are_few() -> None:
    queues = steered()
    with sender(socket.AF_INET) as flow:
        for _ in range(MOST_PACKETS + 10):
            flow.send(b"x")
        assert [count(queue) for queue in queues] == [10, MOST_PACKETS]
        until = time.monotonic() + 3 * WINDOW_S
        firsts = seconds = 0
        while time.monotonic() < until:
            flow.send(b"x")
            firsts, seconds = firsts + count(queues[0]), seconds + count(queues[1])
        assert firsts
        assert not seconds  # it has never paused
        time.sleep(SLOW_S + WINDOW_S * 1.2)
        flow.send(b"x")
        assert [count(queue) for queue in queues] == [0, 1]


@in_namespace
def test_what_is_not_ip_or_cut_short_goes_to_the_first_queue() -> None:
    queues = steered()
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM) as raw:
        for packet in (
            b"\x30" + bytes(30),
            b"\x45\0\0\x03",
            b"\x60" + bytes(10),
            b"\x45" + bytes(8) + b"\x06" + bytes(10),
        ):
            raw.sendto(packet, ("hw0", 0x0800))
    assert [count(queue) for queue in queues] == [4, 0]


@in_namespace
def test_a_device_that_is_kept_forgets_our_program_when_it_is_opened_again() -> None:
    subprocess.run(["ip", "tuntap", "add", "hw0", "mode", "tun", "multi_queue"], check=True)
    for queue in steered():
        queue.close()
    first = open_tun("hw0", 1420, offloads=False, several=True)
    queues = [first, open_tun_queue(first)]
    for _ in range(40):
        with sender(socket.AF_INET) as flow:
            flow.send(bytes(LONG_BYTES))
    assert all(count(queue) for queue in queues), "long packets of many flows, shared out"
