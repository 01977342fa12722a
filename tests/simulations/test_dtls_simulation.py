"""Nodes that speak DTLS in the simulator: the same run each time, promises about associations, and what such plans cannot have."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from functools import cache

import pytest
from OpenSSL import SSL

from holloway.actors import dtls_socket
from holloway.actors.dtls_credentials import FileCredentials
from holloway.protocols.dtls_wire import is_handshake
from holloway.simulations import batch
from holloway.simulations.batch import run_seeds
from holloway.simulations.depth import Depth
from holloway.simulations.drawing import draw_plan
from holloway.simulations.dtls_certificates import Showing, der_of, shown
from holloway.simulations.dtls_oracles import (
    associations_are_certified,
    associations_are_few,
    associations_are_owned,
    waiting_packets_are_bounded,
)
from holloway.simulations.errors import ScenarioError
from holloway.simulations.plan import Plan, from_json, to_json
from holloway.simulations.run import Outcome, Verdict, run_plan
from holloway.simulations.scenario import load_scenario, read_scenario
from holloway.simulations.trace import Trace

TEXT = """
version = 1
name = "over-dtls"
purpose = "Everything at once."
duration = "14s"
calm = "8s"
[topology]
nodes = ["a", "b"]
[network]
backend = "dtls"
[session]
rekey_after = "5s"
reject_after = "20s"
rekey_attempt = "10s"
rekey_timeout = "1s"
[[workload]]
kind = "ping"
every = "500ms"
[[workload]]
kind = "rekey"
every = "3s"
[[fault]]
kind = "loss"
probability = "0.05..0.3"
[[fault]]
kind = "duplicate"
probability = 0.1
[[fault]]
kind = "jitter"
spread = "0ms..100ms"
[[fault]]
kind = "replay"
every = "50ms"
[[fault]]
kind = "restart"
at = "1s..5s"
[[fault]]
kind = "pause"
at = "1s..5s"
for = "1s..3s"
[[fault]]
kind = "port_failure"
at = "1s..5s"
[[fault]]
kind = "nat_rebind"
nodes = ["a"]
at = "4s"
[[fault]]
kind = "foreign_certificate"
at = "1s..3s"
for = "2s"
[expect]
eventually = { all_pairs_reachable = "7s", nothing_waits = "7500ms" }
"""
SCRIPT = """
import sys
from holloway.simulations.drawing import draw_plan
from holloway.simulations.run import run_plan
from holloway.simulations.scenario import read_scenario
from holloway.simulations.trace import Trace
plan = draw_plan(read_scenario(sys.stdin.read(), "x"), int(sys.argv[1]))
outcome = run_plan(plan, trace=Trace(open("/dev/null", "w")))
assert outcome.failure is None, outcome.failure
print(outcome.trace_sha256)
"""


def plan(text: str = TEXT, seed: int = 0) -> Plan:
    return draw_plan(read_scenario(text, "x"), seed)


def traced(found: Plan) -> str:
    file = io.StringIO()
    outcome = run_plan(found, trace=Trace(file))
    assert outcome.failure is None, outcome.failure
    assert hashlib.sha256(file.getvalue().encode()).hexdigest() == outcome.trace_sha256
    return outcome.trace_sha256


def traced_elsewhere(text: str, seed: int, hash_seed: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(seed)],
        check=False,
        input=text,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONHASHSEED": hash_seed},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@cache
def usual() -> str:
    """The trace of seed 1."""
    return traced(plan(seed=1))


def test_a_run_over_dtls_is_the_same_in_every_process() -> None:
    assert traced(plan(seed=2)) != usual()
    assert traced_elsewhere(TEXT, 1, "77") == usual()


def test_a_handshake_whose_end_trio_would_take_for_its_beginning_is_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    first, found = usual(), 0

    def looks_like_hello(record: bytes) -> bool:
        """As one of 256 does when its nonce is drawn."""
        nonlocal found
        found += (is_end := record[0] == 22 and not is_handshake(record))
        return is_end

    monkeypatch.setattr(dtls_socket, "looks_like_hello", looks_like_hello)
    assert traced(plan(seed=1)) == first
    assert found


def test_a_machine_that_stands_still_between_two_steps_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    first, stood = usual(), False
    bio_write = SSL.Connection.bio_write

    def stand_still(connection: SSL.Connection, data: bytes) -> int:
        nonlocal stood
        timeout_s = connection.DTLSv1_get_timeout()
        if (
            timeout_s and len(data) > 1000 and not stood
        ):  # the long flight of whoever dialled: now the other side is to end it
            stood = True
            time.sleep(timeout_s)
        return bio_write(connection, data)

    monkeypatch.setattr(SSL.Connection, "bio_write", stand_still)
    assert traced(plan(seed=1)) == first
    assert stood


def test_a_run_that_the_clock_of_the_machine_gets_into_is_not_taken_for_one_that_can_be_repeated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stood = False
    do_handshake = SSL.Connection.do_handshake

    def stand_still(connection: SSL.Connection) -> None:
        nonlocal stood
        timeout_s = connection.DTLSv1_get_timeout()
        if timeout_s and not stood:
            stood = True
            time.sleep(timeout_s)
        do_handshake(connection)

    monkeypatch.setattr(SSL.Connection, "do_handshake", stand_still)
    outcomes: list[Outcome] = []
    monkeypatch.setattr(
        batch, "run_plan", lambda *each, **more: outcomes.append(run_plan(*each, **more)) or outcomes[-1]
    )
    assert run_seeds(read_scenario(TEXT, "x"), 1, 1).verdict is Verdict.HELD  # it was repeated
    first, second = (outcome.failure for outcome in outcomes)
    assert first is not None
    assert (first.verdict, first.property) == (Verdict.NOT_DETERMINISTIC, "no_real_time_passes")
    assert second is None


def test_a_trace_tells_what_datagrams_are_for_and_which_certificates_were_refused() -> None:
    file = io.StringIO()
    outcome = run_plan(draw_plan(load_scenario("dtls-certificates"), 0), trace=Trace(file))
    assert outcome.failure is None
    lines = [json.loads(line) for line in file.getvalue().splitlines()]
    words = {line["what"].split()[0] for line in lines if line["kind"] == "send"}
    assert words == {"initiation", "response", "data"}
    logged = " ".join(line["what"] for line in lines if line["kind"] == "log")
    assert "dtls_certificate_foreign_authority" in logged or "dtls_certificate_expired" in logged
    assert any(line["kind"] == "state" and line["what"].startswith("ESTABLISHED epoch ") for line in lines)
    assert outcome.reached.places["bad_certificate_refused"] > 0


def test_every_flight_of_a_handshake_is_lost_in_the_scenario_that_is_about_it() -> None:
    outcome = run_plan(draw_plan(load_scenario("dtls-lossy-handshakes"), 0))
    assert outcome.failure is None
    lost = ("hello_lost", "server_flight_lost", "client_flight_lost", "last_flight_lost", "repeated_hello_refused")
    assert [place for place in lost if not outcome.reached.places[place]] == []


# Certificates.


def test_a_node_shows_certificates_of_one_length_whose_faults_are_what_they_say() -> None:
    made = {each: shown("n", "a", each) for each in Showing}
    assert len({der_of(each.certificate) for each in made.values()}) == len(Showing)
    assert der_of(shown("n", "a").certificate) == der_of(shown.__wrapped__("n", "a").certificate)
    assert len(der_of(made[Showing.GOOD].certificate)) == len(der_of(made[Showing.EXPIRED].certificate))
    credentials = FileCredentials("n", made[Showing.GOOD], is_verifying=True)
    found = credentials.judge(der_of(made[Showing.FOREIGN].certificate), 0, 0)
    assert getattr(found, "name", None) == "a"  # it says the same: the signature alone is foreign


# Promises.


def test_promises_about_associations_are_broken_by_what_breaks_them() -> None:
    assert associations_are_certified(b"x", b"x", "a", "b") is None
    assert "not b's" in (associations_are_certified(b"x", b"y", "a", "b") or "")
    assert associations_are_few({1: None, 2: None}, [2, 1], "a", "b") is None
    assert "knows 1" in (associations_are_few({1: None, 2: None}, [1], "a", "b") or "")
    five = dict.fromkeys(range(5))
    assert "4 are allowed" in (associations_are_few(five, five, "a", "b") or "")
    assert associations_are_owned([1], [1, 2], "a") is None
    assert "1 associations" in (associations_are_owned([1, 3], [1, 2], "a") or "")
    assert waiting_packets_are_bounded(1, 1, "a") is None
    assert waiting_packets_are_bounded(10**6, 1, "a") is not None


# Scenarios and plans.


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ('"dtls"', '"tls"', "unknown 'tls'"),
        ('backend = "dtls"', "", "foreign_certificate: only with backend"),
        ("[session]", '[session]\nsuite = "wireguard"', "no other suite"),
        ("[session]", '[security]\nnone = ["a", "b"]\n[session]', "no plain text"),
        ("[session]", "[registry]\n[session]", "by configuration"),
        ('nodes = ["a"]\nat = "4s"', 'nodes = ["a"]\n[[fault]]\nkind = "bombs"\nevery = "1s"', "bombs: only sessions"),
        ('nothing_waits = "7500ms"', 'records_grow = "7s"', "records_grow: only sessions"),
    ],
)
def test_a_scenario_over_dtls_says_what_it_cannot_have(old: str, new: str, why: str) -> None:
    assert TEXT.count(old) == 1
    with pytest.raises(ScenarioError, match=why):
        read_scenario(TEXT.replace(old, new), "x")


def test_only_whole_nodes_speak_dtls() -> None:
    quiet = read_scenario(TEXT[: TEXT.index('[[fault]]\nkind = "port_failure"')] + "[expect]\n", "x")
    assert quiet.depths == (Depth.ACTORS,)
    with pytest.raises(ScenarioError, match="only whole nodes speak DTLS"):
        draw_plan(quiet, 0, Depth.HEAP)


def test_a_plan_keeps_its_backend_and_an_older_one_has_sessions() -> None:
    found = plan()
    assert from_json(to_json(found), "x") == found
    document = json.loads(to_json(replace(found, faults=())))
    del document["backend"]
    assert not from_json(json.dumps(document), "x").is_dtls
    for backend, why in (("tls", "unknown backend"), ("session", "foreign_certificate: only with backend")):
        with pytest.raises(ScenarioError, match=why):
            from_json(to_json(replace(found, backend=backend)), "x")
