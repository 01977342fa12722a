"""The world of the demo: two network namespaces joined by a wire, a node in each, and a capture of the wire.

Run as a program, in a process of its own that has no threads: `TIER COUNT SUITE FOLDER`. Prints the result as JSON, or, with
exit code 75, why the tier cannot be had on this machine. Everything vanishes with the process. The nodes are unchanged
`holloway up` processes; only the namespaces are the demo's.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import secrets
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from holloway.cli.demo import TIER_REFUSED
from holloway.cli.demo_report import INNER, NAMES, OUTER, PING_INTERVAL_S, report
from holloway.protocols.icmp import echo_request, parse_echo_reply
from holloway.protocols.keys import StaticKey, clamp, encode_key

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000  # sched.h
PR_SET_PDEATHSIG = 1  # sys/prctl.h
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x1, 0x1000  # linux/if_tun.h
ETH_P_ALL = 3  # linux/if_ether.h
UDP_PAYLOAD = 42  # after Ethernet (14), IPv4 without options (20) and UDP (8)
READY_TIMEOUT_S = 20.0
PING_TIMEOUT_S = 5.0
_libc = ctypes.CDLL(None, use_errno=True)


class TierRefused(Exception):
    """This machine does not allow the tier; the text says why, with the way out where there is one."""


def main() -> None:
    tier, count, suite, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3], Path(sys.argv[4])
    _die_with_parent()
    try:
        _enter(tier)
        _check_tun()
        result = demonstrate(count, suite, folder)
    except TierRefused as refusal:
        print(refusal)
        sys.exit(TIER_REFUSED)
    print(json.dumps(result))


def _check_tun() -> None:
    """Make a TUN device and let it go again. Raises `TierRefused`."""
    try:
        device = os.open("/dev/net/tun", os.O_RDWR)
        try:
            fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", b"probe", IFF_TUN | IFF_NO_PI))
        finally:
            os.close(device)
    except OSError as error:
        fix = "modprobe tun" if error.errno in (errno.ENOENT, errno.ENODEV) else "sudo chmod 666 /dev/net/tun"
        raise TierRefused(f"/dev/net/tun cannot be used: {os.strerror(error.errno or 0)} (fix: {fix})") from None


def _enter(tier: str) -> None:
    """Move this process into namespaces of its own."""
    flags = CLONE_NEWNET | (CLONE_NEWUSER if tier == "userns" else 0)
    user, group = os.getuid(), os.getgid()
    if _libc.unshare(flags):
        number = ctypes.get_errno()
        # ENOSPC is how the kernel says that user.max_user_namespaces is used up, or zero.
        why = "user.max_user_namespaces is too low" if number == errno.ENOSPC else os.strerror(number)
        raise TierRefused(f"namespaces cannot be made: {why}")
    if tier == "userns":
        try:
            for name, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
                Path("/proc/self", name).write_text(text)
        except OSError as error:
            raise TierRefused(f"a user namespace cannot be used: {os.strerror(error.errno or 0)}") from None


def demonstrate(count: int, suite: str, folder: Path) -> Any:
    """Build the world, run the nodes, ping, and report."""
    keys = [StaticKeyPair() for _ in NAMES]
    with ExitStack() as world:
        other = world.enter_context(_second_namespace())
        _lay_wire(other.pid)
        other.configure()
        tap = world.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)))
        tap.bind(("u0", 0))
        tap.setblocking(False)
        for position, name in enumerate(NAMES):
            config = _write_config(folder, position, keys, suite)
            world.enter_context(_node(config, folder / f"{name}.log", other.prefix() if position else []))
        for name in NAMES:
            _wait_until_up(folder / f"{name}.sock")
        marker = secrets.token_bytes(16)
        frames: list[bytes] = []
        times = _ping(count, marker, lambda: frames.extend(_captured(tap)))
        frames.extend(_captured(tap))
        suites = [_ask(folder / f"{name}.sock", "status")["peers"][0]["suite"] for name in NAMES]
    wire = [frame[UDP_PAYLOAD:] for frame in frames if frame[12:14] == b"\x08\x00" and frame[23:24] == b"\x11"]
    return report(suites, count, times, wire, marker)


class StaticKeyPair:
    """A key pair for one node of the demo."""

    def __init__(self) -> None:
        private = clamp(secrets.token_bytes(32))
        self.private, self.public = encode_key(private), encode_key(StaticKey(private).public)


class SecondNamespace:
    """A child that only holds a network namespace open, so that node b has one of its own."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def prefix(self) -> list[str]:
        """What to put before a command to run it in the namespace."""
        return [sys.executable, "-P", "-m", "holloway.cli.demo_world", "--enter", str(self.pid)]

    def configure(self) -> None:
        code = subprocess.run([*self.prefix(), "--configure"], check=False).returncode  # noqa: S603
        if code:
            raise TierRefused("the second namespace cannot be configured")


@contextmanager
def _second_namespace() -> Iterator[SecondNamespace]:
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:  # the child: make the namespace, say so, and wait to be ended
        status = 1
        try:
            _die_with_parent()
            status = _libc.unshare(CLONE_NEWNET)
            os.write(write_end, b"\1" if status == 0 else b"\0")
            signal.pause()
        finally:
            os._exit(status)
    os.close(write_end)
    try:
        if os.read(read_end, 1) != b"\1":
            raise TierRefused("a second network namespace cannot be made")
        yield SecondNamespace(pid)
    finally:
        os.close(read_end)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _lay_wire(other: int) -> None:
    """A veth pair `u0`, one end here and one in the namespace of `other`, and our end's address."""
    from pyroute2 import IPRoute, NetlinkError

    try:
        with IPRoute() as ip:
            ip.link("add", ifname="u0", kind="veth", peer={"ifname": "u0", "net_ns_pid": other})
    except NetlinkError as error:
        raise TierRefused(f"a veth pair cannot be made: {os.strerror(error.code)}") from None
    _configure(OUTER[0])


def _configure(address: str) -> None:
    from pyroute2 import IPRoute

    with IPRoute() as ip:
        ip.link("set", index=socket.if_nametoindex("lo"), state="up")
        index = socket.if_nametoindex("u0")
        ip.addr("add", index=index, address=address, prefixlen=24)
        ip.link("set", index=index, state="up")


def _write_config(folder: Path, position: int, keys: list[StaticKeyPair], suite: str) -> Path:
    name, other = NAMES[position], 1 - position
    key = folder / f"{name}.key"
    key.touch(mode=0o600)
    key.write_text(keys[position].private + "\n")
    config = folder / f"{name}.toml"
    config.write_text(
        f"""[node]
name = "{name}"
[interface]
name = "hw0"
addresses = ["{INNER[position]}/24"]
[listen]
port = 1099
[session]
private_key_file = "{key.name}"
[[peer]]
name = "{NAMES[other]}"
public_key = "{keys[other].public}"
endpoint = "{OUTER[other]}:1099"
allowed = ["{INNER[other]}/32"]
suite = "{suite}"
[control]
socket = "{folder / name}.sock"
"""
    )
    return config


@contextmanager
def _node(config: Path, log: Path, prefix: list[str]) -> Iterator[None]:
    """A `holloway up` process; SIGTERM on the way out, and SIGKILL if that does not help."""
    program = [sys.executable, "-P", "-c", "from holloway.cli.main import main; main()", "up", "-c", str(config)]
    with log.open("wb") as sink:
        # This process has no threads, so a function between fork and exec is safe.
        node = subprocess.Popen([*prefix, *program], stdout=sink, stderr=sink, preexec_fn=_die_with_parent)  # noqa: S603, PLW1509
    try:
        yield
    finally:
        node.terminate()
        try:
            node.wait(5)
        except subprocess.TimeoutExpired:
            node.kill()
            node.wait()


def _ask(path: Path, operation: str) -> Any:
    with socket.socket(socket.AF_UNIX) as client, client.makefile("rwb") as stream:
        client.settimeout(5)
        client.connect(str(path))
        stream.write(json.dumps({"op": operation}).encode() + b"\n")
        stream.flush()
        return json.loads(stream.readline())["result"]


def _wait_until_up(path: Path) -> None:
    give_up_at = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < give_up_at:
        try:
            peers = _ask(path, "status")["peers"]
        except (OSError, ValueError, KeyError):
            peers = []
        if peers and peers[0]["state"] == "ok":
            return
        time.sleep(0.05)
    raise SystemExit(f"{path.stem} did not come up")


def _ping(count: int, marker: bytes, capture: Callable[[], None]) -> list[float]:
    """Ping b from a's namespace through the kernel; round trips in milliseconds."""
    times = []
    identifier = os.getpid() & 0xFFFF
    source, target = (socket.inet_aton(address) for address in INNER)
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as pinger:
        for sequence in range(1, count + 1):
            request = echo_request(source, target, identifier, sequence, marker)
            began = time.perf_counter()
            pinger.sendto(request[20:], (INNER[1], 0))  # the kernel writes the IP header
            while (left := began + PING_TIMEOUT_S - time.perf_counter()) > 0:
                if not select.select([pinger], [], [], left)[0]:
                    break
                reply = parse_echo_reply(pinger.recv(2048))
                if reply and (reply.identifier, reply.sequence) == (identifier, sequence):
                    times.append((time.perf_counter() - began) * 1000)
                    break
            capture()
            time.sleep(PING_INTERVAL_S)
    return times


def _captured(tap: socket.socket) -> Iterator[bytes]:
    while True:
        try:
            yield tap.recv(65536)
        except BlockingIOError:
            return


def _die_with_parent() -> None:
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _enter_second(pid: int, rest: list[str]) -> None:
    """Go into the network namespace of `pid`; then configure its wire, or become another program."""
    with open(f"/proc/{pid}/ns/net") as namespace:
        if _libc.setns(namespace.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
    if rest == ["--configure"]:
        _configure(OUTER[1])
    else:
        os.execv(rest[0], rest)  # noqa: S606 - the demo's own node


if __name__ == "__main__":
    if sys.argv[1] == "--enter":
        _enter_second(int(sys.argv[2]), sys.argv[3:])
    else:
        main()
