"""Real network namespaces for tests: joined by an underlay, with programs running inside, always taken down again.

    @needs_namespaces
    def test_two_hosts_reach_each_other() -> None:
        with namespaces(2) as (left, right):
            run_in(left, ["ping", "-c1", right.ipv4])

    @in_namespace                    # the body runs in a child process, alone in a fresh namespace
    async def test_a_device_appears() -> None: ...

Responsible for namespaces, the wires between them and the processes in them; not for any program's configuration. The
process of pytest never changes its own namespace: that belongs to a thread, and Trio's worker threads would inherit it.

Everything made here carries the process id of its maker in its name; what a killed test run left behind is swept up by
the next one.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import itertools
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from inspect import getfile
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import pytest

DEVICE = "eth0"  # the underlay device in every namespace
BODY_TIMEOUT_S = 60.0
BODY_PATIENCE_S = 50.0  # of an async body, which then says where it waited: well before it would be killed
ADDRESS_TIMEOUT_S = 10.0
STOP_TIMEOUT_S = 5.0
NAMESPACES = Path("/run/netns")
TUN_DEVICE = Path("/dev/net/tun")

needs_namespaces = pytest.mark.needs_namespaces
"""Skips a test, saying what to do, where namespaces or TUN devices cannot be made."""


def needs_program(program: str, *, package: str) -> pytest.MarkDecorator:
    """Skips a test where `program` is not on PATH, naming the Debian `package` that has it."""
    return pytest.mark.needs_program(program, package=package)


@functools.cache
def why_not() -> str | None:
    """Why this machine cannot make network namespaces with TUN devices and what mends it, or None when it can."""
    if shutil.which("ip") is None:
        return "there is no `ip` program: sudo apt-get install iproute2"
    if os.geteuid() != 0:
        alone = "unshare -Urnm sh -c 'mount -t tmpfs tmpfs /run; ip link set lo up; ./run test'"
        return f"network namespaces need root: sudo ./run test, or {alone}"
    if not os.access(TUN_DEVICE, os.R_OK | os.W_OK):
        return f"{TUN_DEVICE} cannot be opened: sudo modprobe tun; in a container, pass --device={TUN_DEVICE}"
    probe = _fresh_prefix()
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True, check=False)
    subprocess.run(["ip", "netns", "delete", probe], capture_output=True, check=False)
    if made.returncode:
        return f"`ip netns add` failed ({made.stderr.strip()}): run as real root, or with --privileged in a container"
    return None


@dataclass(frozen=True)
class Namespace:
    """One host. `ipv4` and `ipv6` are its underlay addresses on `eth0`; in a lone namespace there is `lo` only."""

    name: str
    ipv4: str
    ipv6: str
    started: list[subprocess.Popen[str]] = field(default_factory=list, compare=False, repr=False)


@contextmanager
def namespaces(count: int = 2) -> Iterator[list[Namespace]]:
    """`count` hosts on one Ethernet: two are joined by a veth pair, more by a bridge in a namespace of its own.

    Offloads (checksums, GRO) are as the kernel leaves them. At the end every process started in a namespace is ended,
    and the namespaces with all their devices are removed, however the body ended.
    """
    _sweep()
    prefix = _fresh_prefix()
    hosts = [Namespace(f"{prefix}-{n}", f"192.0.2.{n}", f"2001:db8::{n:x}") for n in range(1, count + 1)]
    hub = f"{prefix}-hub"
    try:
        for host in hosts:
            _ip(["netns", "add", host.name])
        if count == 2:
            _ip(["link", "add", DEVICE, "netns", hosts[0].name, "type", "veth", "peer", DEVICE, "netns", hosts[1].name])
        if count > 2:
            _ip(["netns", "add", hub])
            _ip(["-n", hub, "-batch", "-"], "link add bridge type bridge\nlink set bridge up\n")
            for n, host in enumerate(hosts, 1):
                port = f"port{n}"
                _ip(["link", "add", DEVICE, "netns", host.name, "type", "veth", "peer", port, "netns", hub])
                _ip(["-n", hub, "link", "set", port, "master", "bridge", "up"])
        for host in hosts:
            up = f"link set lo up\nlink set {DEVICE} up\n" if count > 1 else "link set lo up\n"
            _ip(["-n", host.name, "-batch", "-"], up)
        # Only now that every wire has both ends up: an IPv6 address that waits for its carrier is deaf for a second.
        for host in hosts if count > 1 else []:
            addresses = f"address add {host.ipv4}/24 dev {DEVICE}\naddress add {host.ipv6}/64 dev {DEVICE} nodad\n"
            _ip(["-n", host.name, "-batch", "-"], addresses)
        for host in hosts if count > 1 else []:
            wait_until_local(host.ipv6, inside=_inside(host, []))
        yield hosts
    finally:
        for host in hosts:
            _end_processes(host)
        for name in [host.name for host in hosts] + [hub]:
            if (NAMESPACES / name).exists():
                _ip(["netns", "delete", name])


def run_in(
    namespace: Namespace, argv: Sequence[str], *, check: bool = True, timeout: float = 20.0, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run a program in a namespace to its end, with its output captured as text. With `check`, a failure raises
    `AssertionError` that shows what the program said. `options` are those of `subprocess.run`.
    """
    __tracebackhide__ = True
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL, **options}
    done = subprocess.run(_inside(namespace, argv), text=True, timeout=timeout, check=False, **options)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(argv)} ended with {done.returncode}:\n{done.stdout}")
    return done


def start_in(namespace: Namespace, argv: Sequence[str], **options: Any) -> subprocess.Popen[str]:
    """Start a program in a namespace; the end of `namespaces` ends it. `options` are those of `subprocess.Popen`.

    The process id is the program's own. Its output goes where the test's goes unless `options` say otherwise.
    """
    process = subprocess.Popen(_inside(namespace, argv), text=True, **{"stdin": subprocess.DEVNULL, **options})
    namespace.started.append(process)
    return process


def in_namespace(body: Callable[[], Awaitable[None] | None]) -> Callable[[], None]:
    """Make a test of a module-level function without parameters, run in a child process in a namespace of its own.

    An async body runs under Trio. Warnings are errors in the child too, and so is anything that asyncio logs or that
    Python could not raise (a coroutine never awaited, a socket never closed).
    """

    def test() -> None:
        __tracebackhide__ = True
        with namespaces(1) as (alone,), NamedTemporaryFile(prefix="body-") as output:
            code = _ask_body_server(alone, output.name, getfile(body), body.__name__)
            if code:
                raise AssertionError(f"{body.__name__} ended with {code}:\n{Path(output.name).read_text()}")

    test.__name__, test.__doc__, test.__module__ = body.__name__, body.__doc__, body.__module__
    test.body = body  # type: ignore[attr-defined]
    return needs_namespaces(test)


def wait_until_local(address: str, *, inside: Sequence[str] = ()) -> None:
    """Wait until this namespace, or the one that the prefix `inside` of a command enters, takes packets to an IPv6 address.

    The kernel adds the route to itself from a work queue (addrconf_dad_work), and drops what comes before, even when the
    address is not to be probed for duplicates.
    """
    deadline = time.monotonic() + ADDRESS_TIMEOUT_S
    command = [*inside, "ip", "-6", "route", "show", "table", "local", "to", address]
    while f"local {address} " not in subprocess.run(command, capture_output=True, text=True, check=True).stdout:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{address} was not local within {ADDRESS_TIMEOUT_S} s")
        time.sleep(0.005)


def drop_capabilities() -> None:
    """Leave this thread without any capability, as an ordinary user's process is. There is no way back."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this thread
    nothing = (ctypes.c_uint32 * 6)()
    if libc.capset(header, nothing):
        raise OSError(ctypes.get_errno(), "capset")


_runs = itertools.count(1)


def _fresh_prefix() -> str:
    return f"hwt{os.getpid()}-{next(_runs)}"


@functools.cache
def _sweep() -> None:
    """Remove namespaces whose maker is dead."""
    for name in sorted(os.listdir(NAMESPACES)) if NAMESPACES.is_dir() else []:
        made = re.match(r"hwt(\d+)-", name)
        if made and not Path("/proc", made[1]).exists():
            _ip(["netns", "delete", name])


def _ip(arguments: Sequence[str], script: str = "") -> None:
    done = subprocess.run(["ip", *arguments], input=script, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(arguments)} failed: {done.stderr.strip()} {script}")


def _inside(namespace: Namespace, argv: Sequence[str]) -> list[str]:
    return ["ip", "netns", "exec", namespace.name, *argv]


def _end_processes(namespace: Namespace) -> None:
    """End what was started here politely, then whatever still runs in the namespace (a daemon forked away) at once."""
    for process in namespace.started:
        if process.poll() is None:
            process.terminate()
    for process in namespace.started:
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()
    left = subprocess.run(["ip", "netns", "pids", namespace.name], capture_output=True, text=True, check=False)
    for pid in left.stdout.split():
        with suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)


@functools.cache
def _body_server() -> subprocess.Popen[str]:
    # In a session of its own: an interrupt is for pytest, which then ends the body with its namespace.
    argv = [sys.executable, str(Path(__file__).with_name("body_server.py"))]
    server = subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, start_new_session=True
    )
    atexit.register(_stop_body_server, server)
    return server


def _stop_body_server(server: subprocess.Popen[str]) -> None:
    server.kill()
    server.communicate()


def _ask_body_server(namespace: Namespace, output: str, file: str, name: str) -> int:
    """Run a body. Returns its exit code, or that of the signal that ended it after `BODY_TIMEOUT_S`."""
    server = _body_server()
    assert server.stdin is not None
    assert server.stdout is not None
    request = {
        "namespace": str(NAMESPACES / namespace.name),
        "output": output,
        "file": file,
        "name": name,
        # A body that waits in vain ends by itself, a little earlier, with a traceback that shows what for.
        "patience": BODY_PATIENCE_S,
    }
    try:
        server.stdin.write(json.dumps(request) + "\n")
        if not select.select([server.stdout], [], [], BODY_TIMEOUT_S)[0]:
            _end_processes(namespace)
        return int(server.stdout.readline())
    except BaseException:
        _body_server.cache_clear()  # its answer to this request must not be taken for one to the next
        _stop_body_server(server)
        raise
