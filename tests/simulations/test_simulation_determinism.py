"""One plan, one run: byte for byte the same in every process, and faults that do not move one another's dice."""

from __future__ import annotations

import hashlib
import io
import os
import random
import subprocess
import sys
from dataclasses import replace

import pytest
from fault_plans import drawn_faults
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holloway.simulations.depth import Depth
from holloway.simulations.drawing import draw_plan
from holloway.simulations.faults import Fault
from holloway.simulations.plan import Plan, from_json, to_json
from holloway.simulations.run import run_plan
from holloway.simulations.scenario import read_scenario
from holloway.simulations.trace import Trace

SECOND = 10**9
BUSY = """
version = 1
name = "busy"
purpose = "Everything at once."
duration = "20s"
calm = "10s"
[topology]
nodes = ["a", "b", "c"]
[session]
rekey_after = "3s"
reject_after = "8s"
rekey_attempt = "4s"
rekey_timeout = "1s"
keepalive_timeout = "1s"
[[workload]]
kind = "ping"
every = "500ms"
size = "64..800"
[[fault]]
kind = "loss"
probability = "0.05..0.2"
[[fault]]
kind = "duplicate"
probability = 0.1
[[fault]]
kind = "corrupt"
probability = 0.05
[[fault]]
kind = "jitter"
spread = "0ms..100ms"
[[fault]]
kind = "replay"
every = "300ms"
[[fault]]
kind = "restart"
at = "1s..9s"
[[fault]]
kind = "handshake_flood"
at = "2s"
for = "1s"
every = "10ms"
[[fault]]
kind = "clock_skew"
drift = "-1000..1000"
[[fault]]
kind = "nat_rebind"
nodes = ["a"]
at = "5s"
[expect]
eventually = { all_pairs_reachable = "9s", nothing_waits = "10s" }
"""
SCENARIO = read_scenario(BUSY, "busy.toml")
WHOLE = (
    BUSY.replace("drift", "offset")
    .replace("-1000..1000", "-30s..30s")
    .replace('"10s" }', '"10s", membership_is_equal = "9s" }')
    .replace(
        "[expect]",
        """[[workload]]
kind = "churn"
every = "4s"
[[fault]]
kind = "store_down"
at = "1s..5s"
for = "2s..4s"
[[fault]]
kind = "port_failure"
times = 3
at = "1s..9s"
[registry]
lease = "3s"
[expect]""",
    )
)
"""The same for whole nodes, with what only they can have."""
IN_A_PROCESS = f"""
from holloway.simulations.drawing import draw_plan
from holloway.simulations.run import run_plan
from holloway.simulations.scenario import read_scenario
from holloway.simulations.trace import Trace
for text in {BUSY!r}, {WHOLE!r}:
    print(run_plan(draw_plan(read_scenario(text, "busy.toml"), 7), trace=Trace()).trace_sha256)
"""


def trace_of(plan: Plan) -> str:
    file = io.StringIO()
    outcome = run_plan(plan, trace=Trace(file))
    assert outcome.failure is None
    assert hashlib.sha256(file.getvalue().encode()).hexdigest() == outcome.trace_sha256
    return file.getvalue()


@pytest.mark.parametrize("pairs", [3, pytest.param(10, marks=pytest.mark.soak)])
def test_processes_with_other_hash_seeds_give_one_trace_at_each_depth(pairs: int) -> None:
    def start() -> subprocess.Popen[str]:
        environ = os.environ | {"PYTHONHASHSEED": str(random.randrange(1, 2**32))}
        return subprocess.Popen([sys.executable, "-c", IN_A_PROCESS], stdout=subprocess.PIPE, text=True, env=environ)

    hashes = set()
    for _ in range(pairs):
        pair = start(), start()
        for process in pair:
            hashes.add(tuple(process.communicate(timeout=60)[0].split()))
            assert process.returncode == 0
    plans = [draw_plan(read_scenario(text, "busy.toml"), 7) for text in (BUSY, WHOLE)]
    assert [plan.depth for plan in plans] == ["heap", "actors"]
    assert hashes == {tuple(hashlib.sha256(trace_of(plan).encode()).hexdigest() for plan in plans)}


@pytest.mark.parametrize("text", [BUSY, WHOLE])
def test_another_seed_gives_another_trace(text: str) -> None:
    scenario = read_scenario(text, "busy.toml")
    assert trace_of(draw_plan(scenario, 7)) != trace_of(draw_plan(scenario, 8))


def test_a_run_without_a_trace_goes_the_same_way() -> None:
    plan = draw_plan(SCENARIO, 7)
    traced, plain = run_plan(plan, trace=Trace()), run_plan(plan)
    assert traced.events == plain.events
    assert traced.reached.places == plain.reached.places


def test_a_plan_survives_json() -> None:
    plan = draw_plan(SCENARIO, 3)
    assert from_json(to_json(plan), "x") == plan


def test_taking_a_table_out_of_a_scenario_leaves_the_other_faults_as_they_were() -> None:
    whole = draw_plan(SCENARIO, 5).faults
    without = draw_plan(replace(SCENARIO, faults=SCENARIO.faults[1:]), 5).faults
    assert without == tuple(fault for fault in whole if fault.kind != "loss")


def test_taking_a_fault_out_of_a_plan_does_not_move_the_dice_of_the_others() -> None:
    # Loss that hits nobody draws, and nothing else is different: the runs must be the same but for the fault's own lines.
    plan = draw_plan(SCENARIO, 5)
    harmless = tuple(
        replace(fault, values={**fault.values, "probability": 0.0}) if fault.kind == "loss" else fault
        for fault in plan.faults
    )
    without = tuple(fault for fault in harmless if fault.kind != "loss")

    def events(faults: tuple[Fault, ...]) -> int:
        outcome = run_plan(replace(plan, faults=faults))
        assert outcome.failure is None
        return outcome.events

    assert events(harmless) - events(without) == 2  # its beginning and its end


@settings(deadline=None, max_examples=40, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(drawn_faults(Depth.HEAP), max_size=6, unique_by=lambda fault: fault.name), st.integers(0, 3))
def test_no_plan_of_faults_breaks_a_promise(drawn: list[Fault], seed: int) -> None:
    plan = replace(draw_plan(SCENARIO, seed), faults=tuple(drawn), duration_ns=22 * SECOND, calm_ns=12 * SECOND)
    plan = replace(plan, eventually={"all_pairs_reachable": 11 * SECOND})
    assert from_json(to_json(plan), "x") == plan
    outcome = run_plan(plan)
    assert outcome.failure is None, outcome.failure
