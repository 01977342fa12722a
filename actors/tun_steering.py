"""Has the kernel sort what the host sends: flows that send little go to the second queue of a TUN device, all others to its first.

The queue of a device is first in, first out, and a bulk flow keeps it filled: whatever else is sent waits behind that. A flow that
sends little does not fill anything, so it may be read first; and as all of it goes by the same queue, nothing of it overtakes itself.

A flow counts as sparse as long as it sends no packet of more than `LONG_BYTES` and no more than `MOST_PACKETS` in `WINDOW_S`, and
again once it has kept to that for `SLOW_S`. The kernel runs a program for each packet to find out (eBPF), which remembers flows
by a hash of their addresses and ports: two that share a place are treated as one, as the busier of them.

Responsible for the program, and for giving it to a device. Not responsible for queues (`tun`), nor for what is read first (`fast_lane`).

Sources: Linux, Documentation/bpf/standardization/instruction-set.rst; include/uapi/linux/bpf.h; drivers/net/tun.c, TUNSETSTEERINGEBPF.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
from struct import Struct

LONG_BYTES = 500  # of an IP packet: speech, keystrokes, questions and their acknowledgements are shorter
MOST_PACKETS = 64
WINDOW_S = 0.1
SLOW_S = 0.5  # longer than anything stands in a queue, unless the machine is at its end
PLACES_BITS = 12

TUNSETSTEERINGEBPF = 0x800454E0
SYS_BPF = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "loongarch64": 280, "ppc64le": 361, "s390x": 351}
BPF_MAP_CREATE, BPF_PROG_LOAD = 0, 5
BPF_MAP_TYPE_ARRAY, BPF_PROG_TYPE_SOCKET_FILTER = 2, 1
MAP_LOOKUP, KTIME_NS = 1, 5  # helpers
SLOW_UNTIL, WINDOW_BEGAN, COUNT, VALUE_BYTES = 0, 8, 16, 24  # of what is remembered in a place
MIX = 0x61C88647  # 2^32 divided by the golden ratio, negated
PROTOCOL_TCP, PROTOCOL_UDP = 6, 17

_CREATE = Struct("=IIII")  # union bpf_attr of BPF_MAP_CREATE: type, bytes of a key and of a value, number
_LOAD = Struct("=IIQQ")  # of BPF_PROG_LOAD: type, number of instructions, where they are, where the licence is
_INSTRUCTION = Struct("=BBhi")  # code, registers, offset, number

_MOV, _MOV_IMM, _ADD_IMM, _SUB = 0xBF, 0xB7, 0x07, 0x1F
_ADD32, _MUL32_IMM, _RSH32_IMM, _AND_IMM = 0x0C, 0x24, 0x74, 0x57
_LOAD_PACKET = {1: 0x30, 2: 0x28, 4: 0x20}  # beyond its end: the program ends with 0
_LOAD_WORD, _LOAD_LONG, _STORE_WORD, _STORE_LONG, _STORE_WORD_IMM = 0x61, 0x79, 0x63, 0x7B, 0x62
_JUMP, _IF_EQUAL, _IF_OTHER, _IF_MORE, _IF_LESS, _IF_LESS_THAN = 0x05, 0x15, 0x55, 0x25, 0xA5, 0xAD
_CALL, _EXIT, _MAP = 0x85, 0x95, 0x18


def steer(descriptor: int, loaded: int) -> None:
    """Steer the device that `descriptor` is a queue of by a program that `load` has given: 0 is the first one attached, 1 the second.
    Raises `OSError`.
    """
    fcntl.ioctl(descriptor, TUNSETSTEERINGEBPF, loaded.to_bytes(4, "little"))


def load() -> int:
    """A descriptor of the program, to be closed. Raises `OSError` where the kernel does not let us, as without CAP_BPF."""
    places = _bpf(BPF_MAP_CREATE, _CREATE.pack(BPF_MAP_TYPE_ARRAY, 4, VALUE_BYTES, 1 << PLACES_BITS))
    try:
        code = ctypes.create_string_buffer(program(places))
        licence = ctypes.create_string_buffer(b"GPL")  # what the kernel asks of a program, to let it see the clock
        number = (len(code) - 1) // _INSTRUCTION.size
        return _bpf(
            BPF_PROG_LOAD,
            _LOAD.pack(BPF_PROG_TYPE_SOCKET_FILTER, number, ctypes.addressof(code), ctypes.addressof(licence)),
        )
    finally:
        os.close(places)


def unsteer(descriptor: int) -> None:
    """Have the device that `descriptor` is a queue of share its flows out as it does by itself, whatever an earlier user of a
    persistent device has left. Raises `OSError`.
    """
    fcntl.ioctl(descriptor, TUNSETSTEERINGEBPF, (-1).to_bytes(4, "little", signed=True))


def program(places: int) -> bytes:
    """The instructions. `places`: the descriptor of the map."""
    code = _Assembly()
    code.add(_MOV, 6, 1)
    code.add(_LOAD_WORD, 7, 6)  # __sk_buff.len
    _hash_flow(code)
    code.add(_MUL32_IMM, 8, number=MIX)
    code.add(_RSH32_IMM, 8, number=32 - PLACES_BITS)
    code.add(_STORE_WORD, 10, 8, -4)
    code.add(_MAP, 1, 1, number=places)
    code.add(0)
    code.add(_MOV, 2, 10)
    code.add(_ADD_IMM, 2, number=-4)
    code.add(_CALL, number=MAP_LOOKUP)
    code.jump(_IF_EQUAL, "first", 0, number=0)
    code.add(_MOV, 9, 0)
    code.add(_CALL, number=KTIME_NS)
    _judge(code)
    return code.assembled()


def _hash_flow(code: _Assembly) -> None:
    """Register 8 becomes a number of 32 bits for the flow. What is not IP ends in the first queue."""
    code.add(_MOV_IMM, 8, number=0)
    code.load(0, 1)
    code.add(_RSH32_IMM, 0, number=4)
    code.jump(_IF_EQUAL, "version 6", 0, number=6)
    code.jump(_IF_OTHER, "first", 0, number=4)
    code.mix(12, 4)
    code.mix(16, 4)
    code.mix(9, 1)
    code.add(_MOV, 9, 0)
    code.load(6, 2)
    code.add(_AND_IMM, 0, number=0x3FFF)
    code.jump(_IF_OTHER, "hashed", 0, number=0)  # a fragment
    code.load(0, 1)
    code.jump(_IF_OTHER, "hashed", 0, number=0x45)  # options
    code.jump(_IF_EQUAL, "ports 4", 9, number=PROTOCOL_TCP)
    code.jump(_IF_OTHER, "hashed", 9, number=PROTOCOL_UDP)
    code.label("ports 4")
    code.mix(20, 4)
    code.jump(_JUMP, "hashed")
    code.label("version 6")
    for at in range(8, 40, 4):
        code.mix(at, 4)
    code.mix(6, 1)
    code.jump(_IF_EQUAL, "ports 6", 0, number=PROTOCOL_TCP)
    code.jump(_IF_OTHER, "hashed", 0, number=PROTOCOL_UDP)
    code.label("ports 6")
    code.mix(40, 4)
    code.label("hashed")


def _judge(code: _Assembly) -> None:
    """Register 0 is the time, 7 the length of the packet, 9 the place of its flow."""
    window_ns, slow_ns = round(WINDOW_S * 1e9), round(SLOW_S * 1e9)
    code.jump(_IF_MORE, "slow", 7, number=LONG_BYTES)
    code.add(_LOAD_LONG, 1, 9, WINDOW_BEGAN)
    code.add(_MOV, 2, 0)
    code.add(_SUB, 2, 1)
    code.jump(_IF_LESS, "same window", 2, number=window_ns)
    code.add(_STORE_LONG, 9, 0, WINDOW_BEGAN)
    code.add(_STORE_WORD_IMM, 9, offset=COUNT)
    code.label("same window")
    code.add(_LOAD_WORD, 1, 9, COUNT)
    code.add(_ADD_IMM, 1, number=1)
    code.add(_STORE_WORD, 9, 1, COUNT)
    code.jump(_IF_MORE, "slow", 1, number=MOST_PACKETS)
    code.add(_LOAD_LONG, 1, 9, SLOW_UNTIL)
    code.jump(_IF_LESS_THAN, "first", 0, 1)
    code.add(_MOV_IMM, 0, number=1)
    code.add(_EXIT)
    code.label("slow")
    code.add(_ADD_IMM, 0, number=slow_ns)
    code.add(_STORE_LONG, 9, 0, SLOW_UNTIL)
    code.label("first")
    code.add(_MOV_IMM, 0, number=0)
    code.add(_EXIT)


class _Assembly:
    """Instructions, and where their jumps go."""

    def __init__(self) -> None:
        self._code: list[tuple[int, int, int, int]] = []
        self._labels: dict[str, int] = {}
        self._jumps: dict[int, str] = {}

    def add(self, code: int, to: int = 0, source: int = 0, offset: int = 0, *, number: int = 0) -> None:
        self._code.append((code, to | source << 4, offset, number))

    def jump(self, code: int, label: str, left: int = 0, right: int = 0, *, number: int = 0) -> None:
        self._jumps[len(self._code)] = label
        self.add(code, left, right, number=number)

    def load(self, at: int, size: int) -> None:
        """Bytes of the packet into register 0."""
        self.add(_LOAD_PACKET[size], number=at)

    def mix(self, at: int, size: int) -> None:
        """Bytes of the packet into the hash; they are left in register 0."""
        self.load(at, size)
        self.add(_MUL32_IMM, 8, number=MIX)
        self.add(_ADD32, 8, 0)

    def label(self, name: str) -> None:
        self._labels[name] = len(self._code)

    def assembled(self) -> bytes:
        return b"".join(
            _INSTRUCTION.pack(
                code, registers, self._labels[self._jumps[at]] - at - 1 if at in self._jumps else offset, number
            )
            for at, (code, registers, offset, number) in enumerate(self._code)
        )


def _bpf(command: int, attributes: bytes) -> int:
    """bpf(2): a descriptor. Raises `OSError`."""
    call = SYS_BPF.get(platform.machine())
    if call is None:
        raise OSError(errno.ENOSYS, "bpf")
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(attributes.ljust(128, b"\0"), 128)
    made: int = libc.syscall(ctypes.c_long(call), ctypes.c_long(command), buffer, ctypes.c_long(128))
    if made < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return made
