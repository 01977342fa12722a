"""The harness of the integration tests: what it makes works, and nothing of it is left."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import namespaces as harness
import pytest
import trio
from namespaces import NAMESPACES, in_namespace, namespaces, needs_namespaces, needs_program, run_in, start_in, why_not


def left_over() -> list[str]:
    mine = f"hwt{os.getpid()}-"
    return [name for name in os.listdir(NAMESPACES) if name.startswith(mine)] if NAMESPACES.is_dir() else []


@needs_program("ping", package="iputils-ping")
@needs_namespaces
@pytest.mark.parametrize("count", [2, 3])
def test_every_host_reaches_every_other_over_both_families(count: int) -> None:
    with namespaces(count) as hosts:
        assert len({host.name for host in hosts}) == len(left_over()) - (count > 2) == count
        for host in hosts:
            for other in hosts:
                for address in (other.ipv4, other.ipv6):
                    run_in(host, ["ping", "-c1", "-W2", address])
    assert left_over() == []


@needs_namespaces
def test_a_failing_test_leaves_no_namespace_and_no_process() -> None:
    pids: list[int] = []

    def failing_test() -> None:
        with namespaces(2) as (left, right):
            pids.append(start_in(left, ["sleep", "100"]).pid)
            pids.append(int(run_in(right, ["sh", "-c", "sleep 100 >/dev/null 2>&1 & echo $!"]).stdout))
            assert [Path(f"/proc/{pid}/comm").read_text() for pid in pids] == ["sleep\n"] * 2
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing_test()
    assert left_over() == []
    states = [Path(f"/proc/{pid}/stat") for pid in pids]
    assert all(not state.exists() or state.read_text().split()[2] == "Z" for state in states)


@needs_namespaces
def test_what_a_killed_run_left_behind_is_swept_up() -> None:
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    stale = f"hwt{gone.pid}-1-1"
    subprocess.run(["ip", "netns", "add", stale], check=True)
    harness._sweep.cache_clear()
    with namespaces(1):
        assert not (NAMESPACES / stale).exists()


@needs_namespaces
def test_a_program_that_fails_shows_what_it_said() -> None:
    with namespaces(1) as (alone,):
        with pytest.raises(AssertionError, match="ended with 3:\nsaid on stderr"):
            run_in(alone, ["sh", "-c", "echo said on stderr >&2; exit 3"])
        assert run_in(alone, ["false"], check=False).returncode == 1


@needs_namespaces
def test_a_namespace_of_one_has_the_loopback_only() -> None:
    with namespaces(1) as (alone,):
        assert run_in(alone, ["ls", "/sys/class/net"]).stdout.split() == ["lo"]


def failing_body() -> None:
    raise ValueError("the body's own words")


async def never_awaited() -> None:
    """Never run."""


def careless_body() -> None:
    never_awaited()  # type: ignore[unused-coroutine]


def endless_body() -> None:
    time.sleep(100)


async def waiting_body() -> None:
    await trio.sleep_forever()


for body in (failing_body, careless_body, endless_body, waiting_body):
    body.body = body  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("body", "shown"),
    [(failing_body, "the body's own words"), (careless_body, "never awaited")],
    ids=["raises", "forgets-await"],
)
@needs_namespaces
def test_a_body_that_fails_in_its_child_fails_the_test(body: object, shown: str) -> None:
    with pytest.raises(AssertionError, match=shown):
        in_namespace(body)()  # type: ignore[arg-type]


@needs_namespaces
def test_a_body_without_end_is_ended_and_the_next_one_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "BODY_TIMEOUT_S", 0.5)
    with pytest.raises(AssertionError, match=f"ended with -{int(signal.SIGKILL)}"):
        in_namespace(endless_body)()
    monkeypatch.undo()
    with pytest.raises(AssertionError, match="own words"):
        in_namespace(failing_body)()


@needs_namespaces
def test_a_body_that_waits_in_vain_says_on_which_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "BODY_PATIENCE_S", 0.1)
    with pytest.raises(AssertionError, match=r"sleep_forever\(\)"):
        in_namespace(waiting_body)()


def test_without_root_the_reason_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr("shutil.which", lambda _: "/sbin/ip")
    assert "sudo ./run test" in (why_not.__wrapped__() or "")
    monkeypatch.setattr("shutil.which", lambda _: None)
    assert "apt-get install iproute2" in (why_not.__wrapped__() or "")


def test_a_missing_program_is_a_skip_that_names_its_package(request: pytest.FixtureRequest) -> None:
    (setup,) = [
        plugin.pytest_runtest_setup
        for plugin in request.config.pluginmanager.get_plugins()
        if getattr(plugin, "__file__", None) == str(Path(__file__).with_name("conftest.py"))
    ]
    request.node.add_marker(needs_program("sh", package="dash"))
    setup(request.node)
    request.node.add_marker(needs_program("no-such-program", package="no-such-package"))
    with pytest.raises(
        pytest.skip.Exception, match="no-such-program is not installed: sudo apt-get install no-such-pack"
    ):
        setup(request.node)


def test_whoever_needs_the_kernel_or_a_program_is_an_integration_test(request: pytest.FixtureRequest) -> None:
    by_name = {item.name: item for item in request.session.items if item.path == Path(__file__)}
    marked = [name for name, item in by_name.items() if item.get_closest_marker("integration")]
    needing = [name for name, item in by_name.items() if item.get_closest_marker("needs_namespaces")]
    assert marked == needing
    assert request.node.name not in marked
