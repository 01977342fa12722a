"""`holloway client enrol`: the daemon hears of a key, and a person of what belongs into the agent's key file."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from fake_daemon import lines

KEY = "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"
PLACE = {"address": "10.99.4.1", "command_port": 23002, "file_port": 23003, "curve_key": KEY}
VIEW: dict[str, Any] = {
    "node": {"name": "b", "network": "home", "addresses": ["10.99.4.2"]},
    "signed": True,
    "brokers": [{"node": "a", **PLACE}],
    "named": ["a"],
    "ignored": [],
}


def test_the_key_is_told_to_the_daemon_and_the_brokers_key_to_the_person(
    holloway: Callable[..., Any], daemon: Callable[..., Any]
) -> None:
    fake = daemon(lines({"result": VIEW}))
    done = holloway("client", "enrol", KEY, "--socket", str(fake.path))
    assert (done.code, done.out) == (0, f'server_public_key: "{KEY}"\n')
    assert "holloway agent --name b --host 10.99.4.1:23002" in done.err
    assert [json.loads(each) for each in fake.requests] == [{"op": "enrol", "curve_key": KEY}, {"op": "brokers"}]


def test_an_agent_that_is_gone_is_forgotten(holloway: Callable[..., Any], daemon: Callable[..., Any]) -> None:
    fake = daemon(lines({"result": VIEW}))
    done = holloway("client", "enrol", "--forget", "--socket", str(fake.path))
    assert (done.code, done.out) == (0, "")
    assert json.loads(fake.requests[0]) == {"op": "enrol", "curve_key": None}


def test_what_the_daemon_refuses_is_told_and_so_is_what_nobody_understands(
    holloway: Callable[..., Any], daemon: Callable[..., Any]
) -> None:
    error = {"what": "not a CURVE key", "why": "it is not 40 characters of Z85", "fix": "", "code": 1}
    done = holloway("client", "enrol", "x", "--socket", str(daemon(lines({"error": error})).path))
    assert (done.code, done.error[0]) == (1, "not a CURVE key")
    assert holloway("client", "enrol").code == 2
    assert holloway("client", "enrol", KEY, "--forget").code == 2


def test_an_answer_of_another_version_is_no_crash(holloway: Callable[..., Any], daemon: Callable[..., Any]) -> None:
    done = holloway("client", "enrol", KEY, "--socket", str(daemon(lines({"result": {}})).path))
    assert (done.code, done.error[0]) == (1, "the node's daemon says what we do not understand")
