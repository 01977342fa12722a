"""The TUN port: what it says when it cannot open, without any device."""

from __future__ import annotations

import errno
import os
import socket
import struct

import pytest
import trio
import trio.testing

from holloway.actors import tun, tun_opening
from holloway.protocols.arrivals import Arrival
from holloway.protocols.errors import PortError, TunError


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("", "empty"),
        (".", "dot"),
        ("..", "dot"),
        ("abcdefghijklmnop", "longer than 15 bytes"),
        ("ähäöüäöüä", "longer than 15 bytes"),
        ("hw/0", "one of / : %"),
        ("hw:0", "one of / : %"),
        ("hw%d", "one of / : %"),
        ("hw 0", "space"),
        ("hw\n", "control character"),
        ("hw\x00", "control character"),
        ("hw\ud800", "control character"),
    ],
)
def test_a_name_the_kernel_would_not_take_is_refused_before_it_is_asked(
    name: str, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "open", lambda *_: pytest.fail("asked the kernel"))
    with pytest.raises(TunError) as caught:
        tun_opening.open_tun(name, 1400)
    assert fault in caught.value.why
    assert caught.value.fix


def test_the_longest_name_passes_to_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tun_opening, "CLONE_DEVICE", "/nonexistent/tun")
    with pytest.raises(TunError, match="ENOENT"):
        tun_opening.open_tun("abcdefghijklmno", 1400)


@pytest.mark.parametrize(
    ("number", "fix"),
    [
        (errno.ENOENT, "sudo modprobe tun"),
        (errno.ENODEV, "sudo modprobe tun"),
        (errno.EACCES, "sudo chmod 0666 /dev/net/tun"),
        (errno.EPERM, "--device=/dev/net/tun"),
        (errno.EMFILE, "ulimit -n"),
        (errno.EIO, "dmesg"),
    ],
)
def test_a_clone_device_that_does_not_open_is_explained(number: int, fix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(TunError) as caught:
        tun_opening.open_tun("hw0", 1400)
    assert caught.value.what == "cannot open the TUN device 'hw0'"
    assert caught.value.why.startswith(errno.errorcode[number])
    assert fix in caught.value.fix


@pytest.mark.parametrize("number", [errno.EPERM, errno.EBUSY, errno.EINVAL, errno.ENOSPC, errno.ENFILE])
def test_an_attachment_that_is_refused_is_explained_and_the_descriptor_closed(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tun_opening, "CLONE_DEVICE", os.devnull)
    opened: list[int] = []
    asked: list[int] = []

    def refuse(descriptor: int, request: int, argument: object) -> int:
        assert request == tun_opening.TUNSETIFF
        assert isinstance(argument, bytes)
        name, flags = struct.unpack("16sH22x", argument)
        assert name == b"hw0".ljust(16, b"\0")
        opened.append(descriptor)
        asked.append(flags)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.ioctl", refuse)
    with pytest.raises(TunError) as caught:
        tun_opening.open_tun("hw0", 1400)
    # EINVAL may mean that the kernel knows no virtio header: it is asked again, without.
    assert asked == ([0x5001, 0x1001] if number == errno.EINVAL else [0x5001])
    assert caught.value.why.startswith(errno.errorcode[number])
    assert caught.value.fix
    assert "{" not in caught.value.fix
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(opened[0])


def test_a_tun_error_is_a_port_error() -> None:
    assert issubclass(TunError, PortError)


@pytest.mark.parametrize(
    ("data", "stride", "datagrams"),
    [
        (b"abc", 3, [b"abc"]),
        (b"", 0, [b""]),
        (b"aabbc", 2, [b"aa", b"bb", b"c"]),
        (b"aabb", 2, [b"aa", b"bb"]),
        (memoryview(b"aab"), 2, [b"aa", b"b"]),
    ],
)
def test_an_arrival_is_cut_at_its_stride(data: bytes | memoryview, stride: int, datagrams: list[bytes]) -> None:
    assert Arrival(("192.0.2.1", 7), data, stride).datagrams() == datagrams


async def test_what_is_taken_never_overtakes_what_was_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """While what was read waits for its checkpoint, somebody else's turn looks for answers of the host."""
    monkeypatch.setattr(tun, "has_virtio_header", lambda _: False)
    monkeypatch.setattr(tun, "decline", lambda _: None)
    host, end = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    device = tun.KernelTun(end.detach(), "hw0", 1400)
    found: list[bytes] = []

    async def read() -> None:
        while True:
            found.extend(bytes(each) for each in await device.receive())  # type: ignore[arg-type]

    with host:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            for _ in range(3):  # what comes alone is given on before the device is asked for more
                await trio.testing.wait_all_tasks_blocked()
                host.send(b"alone")
            await trio.testing.wait_all_tasks_blocked()
            for turn in range(40):
                found.clear()
                for word in (b"0", b"1"):
                    host.send(word)
                for number in range(6):
                    await trio.lowlevel.checkpoint()
                    if number == turn % 6:
                        host.send(b"2")
                    found.extend(bytes(each) for each in device.take())  # type: ignore[arg-type]
                await trio.testing.wait_all_tasks_blocked()
                found.extend(bytes(each) for each in device.take())  # type: ignore[arg-type]
                assert found == [b"0", b"1", b"2"]
            nursery.cancel_scope.cancel()
        device.close()


async def test_a_lone_packet_is_written_and_one_answer_taken_in_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tun, "has_virtio_header", lambda _: False)
    monkeypatch.setattr(tun, "decline", lambda _: None)
    host, end = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    device = tun.KernelTun(end.detach(), "hw0", 1400)
    with host:
        assert device.send_lone(b"question") == []
        host.send(b"answer")
        host.send(b"another")
        assert device.send_lone(b"question") == [b"answer"]
        assert device.take() == [b"another"]
        assert [host.recv(100) for _ in range(2)] == [b"question"] * 2
        assert not device.drops
    assert device.send_lone(b"nobody listens") == []
    assert sum(device.drops.values()) == 1
    device.close()
    assert device.send_lone(b"too late") == []
    assert device.drops["tun_ebadf"] == 1
