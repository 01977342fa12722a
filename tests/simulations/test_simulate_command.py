"""`holloway simulate`: its exit codes, its documents, and the words it says when a property breaks."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from holloway.cli.main import run
from holloway.simulations import breadth
from holloway.simulations.machine import Machine
from holloway.simulations.scenario import shipped

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "schemas" / "holloway.simulate.json").read_text())
HOLLOWAY = [sys.executable, "-c", "from holloway.cli.main import main; main()"]
QUIET = """version = 1
name = "quiet"
purpose = "Two nodes and nothing else."
duration = "4s"
calm = "2s"
seeds = "0..2"
[topology]
nodes = 2
[[workload]]
kind = "ping"
every = "500ms"
"""

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def simulate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Runs `holloway simulate` with a file `x.toml` of the given text in the working directory."""
    monkeypatch.chdir(tmp_path)

    def call(*words: str, text: str = QUIET) -> tuple[int, str, str]:
        (tmp_path / "x.toml").write_text(text)
        capsys.readouterr()
        code = run(["simulate", *words])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def document(out: str) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(out)
    jsonschema.validate(parsed, SCHEMA)
    return parsed


def test_0_when_every_property_held(simulate: Call) -> None:
    code, out, err = simulate("x.toml")
    assert (code, err) == (0, "")
    assert out.startswith("quiet: 3 seeds at depth heap, every property held\n")
    told = document(simulate("x.toml", "--json")[1])
    assert told["seeds"] == {"run": 3, "failed": 0, "first_failed": None}
    assert told["virtual_s"] == 12.0
    assert told["coverage"]["transitions"]["IDLE>INITIATING"] >= 3


def test_a_trace_of_one_seed_has_the_hash_that_is_printed(simulate: Call, tmp_path: Path) -> None:
    import hashlib

    told = document(simulate("x.toml", "--seed", "1", "--json", "--trace", "t.jsonl")[1])
    trace = (tmp_path / "t.jsonl").read_bytes()
    assert told["trace_sha256"] == hashlib.sha256(trace).hexdigest()
    lines = [json.loads(line) for line in trace.splitlines()]
    assert [line["seq"] for line in lines] == list(range(1, len(lines) + 1))
    assert all(line["cause"] < line["seq"] for line in lines)
    assert {"send", "arrive", "deliver", "state"} <= {line["kind"] for line in lines}


@pytest.fixture
def deaf(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system under test that ends in an exception once anything arrives."""

    def receive(*_: object, **__: object) -> None:
        raise RuntimeError("the system under test fell over")

    monkeypatch.setattr(Machine, "receive", receive)


def test_1_when_a_safety_property_broke(simulate: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breadth, "SUITES", {"aes-gcm": _unsealed()})
    code, out, _ = simulate("x.toml", "--seeds", "3..4")
    assert code == 1
    assert "quiet: 2 seeds at depth heap, 2 failed, the first is 3" in out
    assert "seed 3 broke no_plaintext_on_the_wire at" in out
    assert out.splitlines()[-1] == "  replay: holloway simulate x.toml --seed 3"


def _unsealed() -> Any:
    from dataclasses import replace

    from holloway.protocols.suites import AES_GCM

    class Glass:
        def __init__(self, key: bytes) -> None:
            self.inner = AES_GCM.aead(key)
            self.decrypt, self.decrypt_into = self.inner.decrypt, self.inner.decrypt_into

        def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes:
            is_packet = b"never in the clear" in data
            return data + bytes(16) if is_packet else self.inner.encrypt(nonce, data, associated_data)

        def encrypt_into(self, nonce: bytes, data: bytes, associated_data: bytes | None, buf: memoryview) -> int:
            buf[:] = self.encrypt(nonce, data, associated_data)
            return len(buf)

    return replace(AES_GCM, aead=Glass)


HEAD = 'version = 1\nname = "x"\npurpose = "x"\nduration = "4s"\ncalm = "2s"\n'
NODES = "[topology]\nnodes = 2\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("version = one\n", ["x.toml is not TOML"]),
        (HEAD + NODES + 'latancy = "1ms"\n', ["x.toml:8: topology.latancy", "did you mean latency?"]),
        (HEAD + NODES + '[[fault]]\nkind = "los"\n', ["x.toml:9: fault.1.kind", "did you mean 'loss'?"]),
        (HEAD + NODES + '[[fault]]\nkind = "loss"\n', ["x.toml:8: fault.1", "probability is missing"]),
        (HEAD + NODES + '[[workload]]\nkind = "ping"\nevery = "5"\n', ["x.toml:10: workload.1.every", "the units are"]),
        (HEAD + NODES + '[expect]\nsometimes = ["gave_upp"]\n', ["x.toml:9: expect.sometimes", "'gave_up'"]),
        (HEAD + NODES + '[expect.eventually]\nnothing_waits = "3s"\n', ["x.toml:9", "within the calm"]),
        (HEAD.replace("1", "2") + NODES, ["x.toml:1: version", "version = 1"]),
        (HEAD, ["nodes is missing"]),
        (HEAD + NODES + '[swarm]\nkinds = ["loss"]\n', ["x.toml:9: swarm.kinds", "unknown 'loss'"]),
        (HEAD + NODES + '[session]\nreject_after = "20s"\n', ["x.toml:8: session", "reject_after_s is too short"]),
    ],
)
def test_2_when_the_scenario_is_wrong_with_line_and_nearest_name(
    simulate: Call, text: str, expected: list[str]
) -> None:
    code, out, err = simulate("x.toml", text=text)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 3
    for part in expected:
        assert part in err


def test_3_when_a_liveness_property_broke(simulate: Call) -> None:
    text = QUIET + '[[fault]]\nkind = "loss"\nprobability = 1\n[expect]\neventually = { all_pairs_reachable = "1ms" }\n'
    code, out, _ = simulate("x.toml", "--seed", "2", "--shrink", text=text)
    assert code == 3
    assert "broke all_pairs_reachable at 2.001 s: nothing came through from n1 to n2, n2 to n1" in out
    last = out.splitlines()[-1]
    assert last == "  replay: holloway simulate replay quiet-2.plan.json"
    words = shlex.split(last.removeprefix("  replay: "))[2:]
    code, out, _ = simulate(*words, "--json")
    assert code == 3
    [failure] = document(out)["failures"]
    assert failure["plan"]["faults"] == []  # a millisecond is too short, whatever befalls
    assert failure["replay"] == "holloway simulate replay quiet-2.plan.json"


def test_4_when_an_interesting_place_was_never_reached(simulate: Call) -> None:
    text = QUIET + '[expect]\nsometimes = ["gave_up"]\n'
    code, out, _ = simulate("x.toml", text=text)
    assert code == 4
    assert "never reached: gave_up" in out
    assert document(simulate("x.toml", "--json", text=text)[1])["coverage"]["never_reached"] == ["gave_up"]


def test_5_when_a_run_cannot_be_repeated(simulate: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    assert simulate("x.toml", "--check-determinism", "--seed", "0")[0] == 0
    # Only this process has it; the second run is in another, and so goes another way.
    monkeypatch.setattr("holloway.simulations.programs.ANSWERS_AFTER_NS", 7)
    code, out, _ = simulate("x.toml", "--check-determinism", "--seed", "0")
    assert code == 5
    assert "went another way the second time: seeds 0" in out


@pytest.mark.usefixtures("deaf")
def test_70_when_the_system_under_test_crashed(simulate: Call) -> None:
    code, out, _ = simulate("x.toml", "--seed", "0")
    assert code == 70
    assert "broke no_crash at" in out
    assert "RuntimeError: the system under test fell over at test_simulate_command.py:" in out


def test_130_when_interrupted_also_with_several_processes() -> None:
    process = subprocess.Popen(
        [*HOLLOWAY, "simulate", "both-dial-at-once", "--seeds", "0..9999", "--jobs", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    assert " seeds, 0 failed, " in process.stderr.readline()  # what takes longer than two seconds tells how far it is
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, "")
    assert "Traceback" not in err


def test_jobs_change_nothing_but_the_time(simulate: Call) -> None:
    alone, together = (
        document(simulate("x.toml", "--seeds", "0..19", "--jobs", jobs, "--json")[1]) for jobs in ("1", "2")
    )
    for told in (alone, together):
        for key in ("wall_s", "events_per_s", "virtual_per_wall"):
            del told[key]
    assert alone == together


def test_a_single_seed_need_not_reach_every_place(simulate: Call) -> None:
    text = QUIET + '[expect]\nsometimes = ["gave_up"]\n'
    assert simulate("x.toml", "--seed", "0", text=text)[0] == 0
    assert simulate("x.toml", "--seeds", "0..0", text=text)[0] == 0


def _flood(**values: float) -> dict[str, object]:
    whole = {"every": 10**6, "sources": 10} | values
    return {"name": "handshake_flood-1", "kind": "handshake_flood", "at_ns": 0, "until_ns": 1, "nodes": ["n1"]} | {
        "values": whole
    }


@pytest.mark.parametrize(
    "change",
    [
        {"schema": "holloway.plan/2"},
        {"nodes": ["n1"]},
        {"nodes": ["n1", "n1"]},
        {"nodes": ["n1", 'n"2']},
        {"scenario": "../x"},
        {"pairs": [["n1", "n3"]]},
        {"suite": "rot13"},
        {"seed": -1},
        {"calm_ns": 0},
        {"timers": {"rekey_after_s": "x"}},
        {"timers": {"later_s": 1}},
        {"faults": [{"name": "loss-1"}]},
        {"faults": "none"},
        {"workloads": [{"kind": "dance", "every_ns": 1}]},
        {"workloads": [{"kind": "ping", "every_ns": 1}]},
        {"workloads": [{"kind": "ping", "every_ns": 10**400}]},
        {"sometimes": ["never"]},
        {"duration_ns": 10**400, "calm_ns": 1},
        {"latency_high_ns": 10**400},
        {"depth": "deep"},
        {"depth": "actors", "registry": {"lease_ns": 1, "latency_low_ns": 0, "latency_high_ns": 0}},
        {"depth": "actors", "registry": {"lease_ns": 5 * 10**9, "latency_low_ns": 0, "latency_high_ns": 10**400}},
        {"registry": {"lease_ns": 5 * 10**9, "latency_low_ns": 0, "latency_high_ns": 0}},
        {"faults": [_flood(every=1)]},
        {"faults": [_flood(every=0.5)]},
        {"faults": [_flood(every=float("nan"))]},
        {"faults": [_flood(sources=10**400)]},
        {"more": 1},
    ],
)
def test_a_plan_that_is_none_is_refused(simulate: Call, tmp_path: Path, change: dict[str, object]) -> None:
    text = QUIET + '[expect]\neventually = { all_pairs_reachable = "1ms" }\n'
    simulate("x.toml", "--seed", "0", "--shrink", text=text)
    plan = tmp_path / "quiet-0.plan.json"
    assert simulate("replay", plan.name)[0] == 3
    plan.write_text(json.dumps(json.loads(plan.read_text()) | change))
    code, out, err = simulate("replay", plan.name)
    assert (code, out) == (2, "")
    assert err.startswith("error: quiet-0.plan.json is not a plan")


def test_list_names_every_shipped_scenario_with_its_purpose(simulate: Call) -> None:
    code, out, _ = simulate("list")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == shipped()
    assert all(line.endswith(".") for line in out.splitlines())
    told = json.loads(simulate("list", "--json")[1])
    schema = Path(__file__).parents[2] / "docs" / "schemas" / "holloway.simulate-list.json"
    jsonschema.validate(told, json.loads(schema.read_text()))
    assert [each["name"] for each in told["scenarios"]] == shipped()


@pytest.mark.parametrize(
    "words",
    [
        ("x.toml", "--seed", "1", "--seeds", "1..2"),
        ("x.toml", "--seeds", "2..1"),
        ("x.toml", "--trace", "t"),
        ("x.toml", "y.toml"),
        ("replay",),
        ("replay", "nothing.json"),
        ("replay", "x.toml"),
        ("list", "--seed", "1"),
        ("rekey-under-los",),
    ],
)
def test_wrong_usage_is_three_lines_and_code_2(simulate: Call, words: tuple[str, ...]) -> None:
    code, out, err = simulate(*words)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 3


def test_no_progress_is_told_of_what_is_quick(simulate: Call) -> None:
    began = time.perf_counter()
    err = simulate("x.toml", "--seed", "0")[2]
    assert err == "" or time.perf_counter() - began > 2


# Whole nodes.

REGISTRY = (
    QUIET
    + """[registry]
lease = "3s"
[expect]
eventually = { membership_is_equal = "1s" }
"""
)


def test_whole_nodes_are_simulated_when_asked_for_or_when_only_they_can(simulate: Call) -> None:
    for words, text in ((("--depth", "actors"), QUIET), ((), REGISTRY)):
        told = document(simulate("x.toml", *words, "--json", text=text)[1])
        assert (told["depth"], told["seeds"]["failed"], told["coverage"]["never_reached"]) == ("actors", 0, [])
    assert document(simulate("x.toml", "--json")[1])["depth"] == "heap"


@pytest.mark.parametrize(
    ("words", "text", "why"),
    [
        (("thousand-nodes", "--depth", "actors"), QUIET, "1000 nodes are too many"),
        (("clock-skew", "--depth", "actors"), QUIET, "share one monotonic clock"),
        (("x.toml", "--depth", "heap"), REGISTRY, "only whole nodes have a registry, membership_is_equal"),
        (("x.toml",), QUIET.replace("nodes = 2", 'nodes = 3\nshape = "star"') + "[registry]\n", "peer of everybody"),
        (("x.toml",), REGISTRY.replace('"3s"', '"1s"'), "from 2s to 1h"),
        (("x.toml",), REGISTRY.replace("lease", "leaze"), "did you mean lease?"),
        (("x.toml",), REGISTRY + '[session]\nkeepalive = "5s"\n', "no keepalive"),
        (("x.toml",), REGISTRY + '[session]\nsuite = "wireguard"\n', "suite aes-gcm"),
        (("x.toml",), QUIET + '[expect]\nsometimes = ["lease_retaken"]\n', "lease_retaken: only with a registry"),
        (("x.toml",), QUIET + '[[fault]]\nkind = "disk_full"\n', "disk_full: only with a registry"),
        (("x.toml",), QUIET + '[[fault]]\nkind = "loss"\nprobability = 0.1\nat = "1s..2s"\n', "begin in the calm"),
        (("x.toml",), QUIET + '[[fault]]\nkind = "partition"\nnodes = "all"\n', "nobody of 2 nodes is left"),
        (("x.toml",), QUIET + '[[fault]]\nkind = "partition"\nnodes = ["n1"]\nside = 1\n', "exclude each other"),
        (("x.toml",), QUIET + '[[fault]]\nkind = "restart"\nnodes = ["n3"]\n', "there is no node 'n3'"),
        (("x.toml",), QUIET.replace("nodes = 2", "nodes = 2\ndegree = 1"), "only a ring has a degree"),
        (("x.toml",), QUIET.replace("500ms", "10us"), "a duration of 100us or more"),
        (("x.toml",), QUIET.replace("500ms", '100us"\nburst = "100'), "packets a second"),
        (("x.toml",), QUIET.replace("duration", "duratoin"), "did you mean duration?"),
        (("x.toml",), QUIET.replace("[topology]", "[toplogy]"), "did you mean topology?"),
        (
            ("x.toml",),
            QUIET.replace("nodes = 2", 'nodes = 3\nshape = "star"').replace("500ms", '500ms"\nbetween = ["n2", "n3"]#'),
            "are no peers",
        ),
    ],
)
def test_2_for_a_depth_or_a_registry_that_cannot_be(
    simulate: Call, words: tuple[str, ...], text: str, why: str
) -> None:
    code, out, err = simulate(*words, text=text)
    assert (code, out) == (2, "")
    assert why in err
    assert len(err.splitlines()) == 3


def test_1_3_and_70_of_whole_nodes(simulate: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    from holloway.actors.peer_session import PeerSession
    from holloway.actors.udp_endpoint import UdpEndpoint

    words = ("x.toml", "--depth", "actors", "--seed", "0")
    with monkeypatch.context() as broken:
        broken.setattr(UdpEndpoint, "_offer", lambda *_: 1 / 0)
        code, out, _ = simulate(*words)
        assert code == 70
        assert "no_actor_crashes" in out
        assert "ZeroDivisionError" in out
        assert out.splitlines()[-1] == "  replay: holloway simulate x.toml --depth actors --seed 0"
    with monkeypatch.context() as broken:
        broken.setattr(UdpEndpoint, "_offer", lambda *_: None)
        code, out, _ = simulate(*words, text=QUIET + '[expect]\neventually = { all_pairs_reachable = "1s" }\n')
        assert code == 3
    with monkeypatch.context() as broken:
        broken.setattr(
            PeerSession, "offer_packets", lambda peer, packets: peer._udp.send(packets, peer.callbook.addresses[0])
        )
        code, out, _ = simulate(*words)
        assert code == 1
        assert "no_plaintext_on_the_wire" in out


def test_the_shrunk_plan_of_whole_nodes_is_replayed_by_them(simulate: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    from holloway.actors.udp_endpoint import UdpEndpoint

    monkeypatch.setattr(UdpEndpoint, "_offer", lambda *_: 1 / 0)
    fault = '[[fault]]\nkind = "loss"\nprobability = 0.01\n'
    code, out, _ = simulate("x.toml", "--depth", "actors", "--seed", "0", "--shrink", text=QUIET + fault)
    assert code == 70
    assert out.splitlines()[-1] == "  replay: holloway simulate replay quiet-0.plan.json"
    code, out, _ = simulate("replay", "quiet-0.plan.json")
    assert code == 70
    assert "quiet: 1 seed at depth actors" in out
    assert "0 faults" in out


def test_page_packets_and_trace_of_one_run_are_written(simulate: Call, tmp_path: Path) -> None:
    code, _, _ = simulate("x.toml", "--seed", "1", "--html", "run.html", "--pcap", "run.pcapng", "--trace", "run.jsonl")
    assert code == 0
    assert "holloway simulate x.toml --seed 1" in (tmp_path / "run.html").read_text()
    assert (tmp_path / "run.pcapng").read_bytes()[:4] == bytes.fromhex("0a0d0d0a")
    assert (tmp_path / "run.jsonl").read_text().startswith('{"t":0,')


def test_74_when_what_was_found_cannot_be_written(simulate: Call, tmp_path: Path) -> None:
    simulate("x.toml")
    for words in (["x.toml", "--seed", "1", "--trace", "/dev/full"], ["x.toml", "--seed", "1", "--pcap", "/dev/full"]):
        done = subprocess.run(
            [*HOLLOWAY, "simulate", *words], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 74
        assert "No space left on device" in done.stderr
        assert "Traceback" not in done.stderr
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*HOLLOWAY, "simulate", "list"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 74


def test_2_for_two_things_in_one_file(simulate: Call) -> None:
    code, _, err = simulate("x.toml", "--seed", "1", "--trace", "run.x", "--pcap", "./run.x")
    assert code == 2
    assert "two things to one file" in err


def test_a_small_plan_that_cannot_be_written_does_not_cost_what_was_found(simulate: Call, tmp_path: Path) -> None:
    (tmp_path / "quiet-0.plan.json").mkdir()
    text = QUIET + '[expect]\neventually = { all_pairs_reachable = "1ms" }\n'
    code, out, err = simulate("x.toml", "--seed", "0", "--shrink", text=text)
    assert code == 3
    assert "all_pairs_reachable" in out
    assert out.splitlines()[-1] == "  replay: holloway simulate x.toml --seed 0"
    assert "could not be written to quiet-0.plan.json" in err


def test_workers_do_not_outlive_a_parent_that_is_killed(simulate: Call, tmp_path: Path) -> None:
    simulate("x.toml", text=QUIET.replace('"4s"', '"400s"'))
    words = [*HOLLOWAY, "simulate", "x.toml", "--seeds", "0..9999", "--jobs", "2"]
    with subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as parent:
        children: list[int] = []
        for _ in range(300):
            children = [int(pid) for pid in Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()]
            if len(children) >= 3:  # two workers, and who keeps count of what they share
                break
            time.sleep(0.1)
        assert len(children) >= 3
        parent.kill()
    for _ in range(300):
        if not any(Path(f"/proc/{pid}").exists() for pid in children):
            return
        time.sleep(0.1)
    pytest.fail(f"still there: {children}")


@pytest.mark.parametrize("option", ["--html", "--pcap", "--trace"])
def test_2_for_a_file_that_cannot_be_written_before_anything_is_run(simulate: Call, option: str) -> None:
    code, out, err = simulate("x.toml", "--seed", "1", option, "no/such/folder/x")
    assert (code, out) == (2, "")
    assert err.startswith("error: cannot write no/such/folder/x\n")
    assert simulate("x.toml", option, "x")[0] == 2
