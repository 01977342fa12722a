"""What goes wrong while the benchmark runs: systems that fail, and signals. Nothing is measured."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from interrupts import SIGNALS, Interrupts
from measuring import Run, measure
from namespaces import Namespace
from overlays import Overlay, OverlayFailed, System

HOSTS = (Namespace("left", "192.0.2.1", "2001:db8::1"), Namespace("right", "192.0.2.2", "2001:db8::2"))


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    "error",
    [OverlayFailed("why\n  so"), AssertionError("why\nso"), FileNotFoundError("why | so"), KeyError("why | so")],
)
def test_a_system_that_does_not_start_is_a_sample_with_its_reason(error: Exception, tmp_path: Path) -> None:
    def start(left: Namespace, right: Namespace, folder: Path) -> Overlay:
        raise error

    sample = measure(System("x", start, "x"), HOSTS, tmp_path, number=2, seconds=1.0)
    assert (sample.system, sample.round, sample.metrics) == ("x", 2, {})
    assert [said.replace("'", "") for said in sample.errors] == ["start: why | so"]


def test_a_step_that_fails_or_loses_pings_leaves_the_others_their_figures(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken(run: Run) -> dict[str, float]:
        raise subprocess.TimeoutExpired("iperf3", 1)

    def nothing(run: Run) -> dict[str, float]:
        return {}

    for step in ("one_stream", "after", "unfragmented"):
        monkeypatch.setattr(Run, step, nothing)
    broken.__name__ = "four_streams"
    monkeypatch.setattr(Run, "idle", lambda run: {"rtt_idle_ms": 0.12345})
    monkeypatch.setattr(Run, "four_streams", broken)
    monkeypatch.setattr(Run, "small_packets", lambda run: {"udp64_kpps": 5.0})
    monkeypatch.setattr(Run, "loaded", lambda run: {"rtt_loaded_ms": 2.0, "rtt_loaded_p99_ms": float("inf")})
    monkeypatch.setattr("measuring.wait_for_ping", lambda overlay, source: None)
    system = System("x", lambda left, right, folder: Overlay("10.98.0.2"), "x")
    sample = measure(system, HOSTS, tmp_path, number=1, seconds=1.0)
    assert sample.metrics == {"rtt_idle_ms": 0.1235, "udp64_kpps": 5.0, "rtt_loaded_ms": 2.0}
    assert [error.partition(":")[0] for error in sample.errors] == ["four_streams", "rtt_loaded_p99_ms"]


def test_a_system_without_its_program_names_the_package() -> None:
    def start(left: Namespace, right: Namespace, folder: Path) -> Overlay:
        raise AssertionError

    system = System("x", start, "x", programs=("sh", "no-such-program"), package="things", version=("no-such-program",))
    assert system.missing == "sudo apt-get install things"
    assert system.tell_version() is None
    assert System("y", start, "y", programs=("sh",)).missing is None


def test_a_signal_waits_until_it_is_allowed() -> None:
    interrupts = Interrupts()
    signal.raise_signal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended, interrupts.allowed():
        pytest.fail("the signal that came before was forgotten")
    assert ended.value.code == 143


def test_a_second_signal_does_not_disturb_what_the_first_has_to_take_down() -> None:
    taken_down = []

    def work() -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGTERM)
            taken_down.append(all(signal.getsignal(number) is signal.SIG_IGN for number in SIGNALS))

    with pytest.raises(SystemExit) as ended, Interrupts().allowed():
        work()
    assert ended.value.code == 130
    assert taken_down == [True]  # ignored, so that the programs that take down ignore it too
