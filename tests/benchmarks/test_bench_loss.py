"""`./run bench --loss`: what is lost, what is told of it, and what is said where nothing can be lost."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import chart
import compare
import jsonschema
import lossy_wire
import measuring
import pytest
import table
from measuring import Run, Sample
from metrics import METRICS
from namespaces import Namespace, needs_namespaces, needs_program, run_in, start_in
from overlays import Overlay
from summary import summarise

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "schemas" / "holloway.bench.json").read_text())
TRAINS, DATAGRAMS = 50, 40
SAMPLES = [
    Sample("raw", 1, 0.5, {"tcp1_gbit": 2.0, "tcp4_gbit": 4.0, "rtt_idle_ms": 0.1}),
    Sample("holloway-aes-gcm", 1, 0.5, {"tcp1_gbit": 1.0, "tcp4_gbit": 1.0, "rtt_idle_ms": 0.5}),
    Sample("raw", 2, 0.5, {"tcp1_gbit": 1.0}),
    Sample("holloway-aes-gcm", 2, 0.5, {"tcp1_gbit": 0.9}),
    Sample("wireguard-go", 2, 0.5, {"tcp1_gbit": 0.3}),
]


def result(loss: float | None) -> dict[str, Any]:
    machine = {"kernel": "6.1", "cpus": 2, "cpu_model": "x", "tcp_congestion_control": "cubic"}
    about: dict[str, Any] = {"seconds": 1.0, "versions": {}, "machine": machine, "absent": {}}
    if loss is not None:
        about["loss_percent"] = loss
    return summarise(SAMPLES, rounds=2, references=dict.fromkeys(METRICS, "wireguard-go"), about=about)


def test_with_loss_speed_is_compared_with_the_bare_wire_of_the_same_round() -> None:
    found = result(1.0)
    assert found["ratios"]["holloway-aes-gcm/raw"] == {"tcp1_gbit": 0.7, "tcp4_gbit": 0.25}
    assert found["spreads"]["holloway-aes-gcm/raw"]["tcp1_gbit"] == {"min": 0.5, "max": 0.9, "rounds": 2}
    assert found["ratios"]["holloway-aes-gcm/wireguard-go"] == {"tcp1_gbit": 3.0}
    assert "raw/raw" not in found["ratios"]


@pytest.mark.parametrize("loss", [None, 0.0])
def test_without_loss_nothing_but_the_reference_is_compared_with(loss: float | None) -> None:
    assert set(result(loss)["ratios"]) == {"raw/wireguard-go", "holloway-aes-gcm/wireguard-go"}
    assert "vs raw" not in table.render(result(loss))
    assert "lost" not in chart.draw(result(loss))


@pytest.mark.parametrize("loss", [None, 0.0, 0.5])
def test_results_keep_to_the_schema_with_and_without_loss(loss: float | None) -> None:
    jsonschema.validate(json.loads(json.dumps(result(loss))), SCHEMA)


def test_the_share_and_what_is_left_of_the_speed_are_shown() -> None:
    lines = table.render(result(0.5)).splitlines()
    assert "The wire lost 0.5 % of the datagrams of each direction" in lines[1]
    assert re.match(r" +TCP 1 +vs raw +TCP 4 ", lines[2])
    rows = {line.split()[0]: line.split()[1:4] for line in lines[3:6]}
    assert rows["holloway-aes-gcm"] == ["0.950", "0.700", "1.00"]
    assert rows["raw"] == ["1.50", "-", "4.00"]
    assert max(map(len, lines)) <= 121
    assert "0.5 % of datagrams lost each way" in chart.draw(result(0.5))


def test_a_ping_that_the_wire_has_lost_spoils_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    def ping(source: Namespace, target: str, count: int, spacing_s: float) -> list[float]:
        return answers

    monkeypatch.setattr(measuring, "ping", ping)
    host = Namespace("left", "192.0.2.1", "2001:db8::1")
    lossy, sound = (Run(Overlay("10.98.0.2"), host, host, 1.0, is_lossy) for is_lossy in (True, False))
    answers = [1.0, math.inf, math.inf, 2.0]
    assert lossy.idle() == {"rtt_idle_ms": 1.5}
    assert sound.idle() == {"rtt_idle_ms": math.inf}
    answers = [math.inf] * 4
    assert lossy.idle() == {"rtt_idle_ms": math.inf}


@pytest.mark.parametrize("loss", ["-1", "100", "nan", "inf", "much", "0.00001"])
def test_a_share_that_is_none_is_refused(loss: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        compare.parse(["--loss", loss])
    assert ended.value.code == 2
    assert "--loss" in capsys.readouterr().err


def test_nothing_is_lost_unless_asked_for() -> None:
    assert compare.parse([]).loss == 0.0
    assert compare.parse(["--loss", "0"]).loss == 0.0
    assert compare.parse(["--loss", "0.001"]).loss == 0.001


def test_without_nft_is_said_what_why_and_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["compare.py", "--only", "raw", "--loss", "1"])
    monkeypatch.setattr(compare, "why_not", lambda: None)
    monkeypatch.setattr(shutil, "which", lambda program: None if program == "nft" else f"/usr/bin/{program}")
    assert compare.main() == 69
    assert capsys.readouterr().err == (
        "error: the benchmark cannot lose datagrams\nwhy:   nft is missing\nfix:   sudo apt-get install nftables\n"
    )


SINK = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink:
    sink.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
    sink.bind(("", 4000))
    print("ready", flush=True)
    while data := sink.recv(2000):
        print(data[0])
"""
SOURCE = f"""
import socket, sys, time
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as source:
    source.setsockopt(socket.IPPROTO_UDP, 103, 1000)  # UDP_SEGMENT
    sink = (sys.argv[1], 4000)  # not connected to it: whether it still listens is no matter here
    for number in range({TRAINS}):
        source.sendto(bytes([number]) * 1000 * {DATAGRAMS}, sink)
        time.sleep(0.002)
    source.setsockopt(socket.IPPROTO_UDP, 103, 0)
    for _ in range(20):
        source.sendto(b"", sink)
"""


@needs_namespaces
@needs_program("nft", package="nftables")
@needs_program("ping", package="iputils-ping")
def test_the_wire_loses_that_share_each_way_datagram_by_datagram() -> None:
    assert lossy_wire.why_not_lossy() is None
    with lossy_wire.lossy_wire(20.0) as (left, right):
        for source, target in ((left, right), (right, left)):
            sink = start_in(target, [sys.executable, "-S", "-c", SINK], stdout=subprocess.PIPE)
            assert sink.stdout is not None
            assert sink.stdout.readline() == "ready\n"
            run_in(source, [sys.executable, "-S", "-c", SOURCE, target.ipv4])
            arrived = Counter(sink.communicate(timeout=20)[0].split())
            assert 0.75 < arrived.total() / (TRAINS * DATAGRAMS) < 0.85
            assert sum(0 < count < DATAGRAMS for count in arrived.values()) > TRAINS - 5, "trains lose some, not all"
        for address in (right.ipv4, right.ipv6):
            said = run_in(left, ["ping", "-q", "-c", "400", "-i", "0.002", "-W", "1", address], check=False).stdout
            (answered,) = map(int, re.findall(r"(\d+) received", said))
            assert 0.5 < answered / 400 < 0.78
