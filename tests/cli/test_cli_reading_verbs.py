"""`status`, `peers` and `ping`: what people see, what scripts get, and answers that do not fit."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_daemon import detail, lines, peer, route, routes, status
from jsonschema import Draft202012Validator

from holloway.cli import printing
from holloway.cli.printing import ago, counters, duration, milliseconds, size

SCHEMAS = Path(__file__).parents[2] / "docs" / "schemas"


def validator(verb: str) -> Draft202012Validator:
    schema = json.loads((SCHEMAS / f"holloway.{verb}.json").read_text())
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


@pytest.fixture
def ask(daemon: Callable[..., Any], holloway: Callable[..., Any]) -> Callable[..., Any]:
    """Runs a verb against a daemon with this answer: `ask(answer_lines, "status", "--json")`."""

    def call(answer: bytes, verb: str, *words: str) -> Any:
        fake = daemon(answer)
        outcome = holloway(verb, *words, "--socket", str(fake.path))
        fake.path.unlink()
        return outcome

    return call


STALE = peer("c", state="stale", endpoint=None, rtt_ms=None, last_handshake_s=240.0, epoch=39)


def test_status_for_people(ask: Callable[..., Any], tmp_path: Path) -> None:
    down = peer("d", state="down", last_handshake_s=None, rtt_ms=None)
    outcome = ask(lines({"result": status(peer(), STALE, down, peer("e", state="handshaking"))}), "status")
    assert outcome.code == 0
    assert outcome.out.splitlines() == [
        "a  10.99.0.1/24  hw0 mtu 1420  up 3h12m  network home  backend session  requires session  offloads csum tso4 gso gro  sparse first device sockets",
        (
            "listening on 0.0.0.0:1099 [::]:1099  key 3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=  pid 4711"
            "  memory 310 B of 64.0 MiB, peak 11.8 MiB"
        ),
        "NODE  ADDRESS            STATE        PATH            RTT     HANDSHAKE  RX / TX          EPOCH  SUITE",
        "b     10.99.0.2 fd99::2  ok           192.0.2.7:1099  1.25ms  12s ago    1.2 GiB / 999 B  41     aes-gcm",
        "c     10.99.0.2 fd99::2  stale        -               -       4m ago     1.2 GiB / 999 B  39     aes-gcm",
        "d     10.99.0.2 fd99::2  down         192.0.2.7:1099  -       never      1.2 GiB / 999 B  41     aes-gcm",
        "e     10.99.0.2 fd99::2  handshaking  192.0.2.7:1099  1.25ms  12s ago    1.2 GiB / 999 B  41     aes-gcm",
        "sent one by one, as the kernel refused runs: udp_emsgsize 2",
        "dropped: no_route 3",
    ]
    assert outcome.err.splitlines() == [
        "warning: c has not been heard lately, last handshake 4m ago",
        f"  try: holloway ping --socket {tmp_path / 'd.sock'} c",
        "warning: d is down, no handshake so far",
        f"  try: holloway ping --socket {tmp_path / 'd.sock'} d",
    ]


def test_status_without_peers_and_drops(ask: Callable[..., Any]) -> None:
    answer = status(drops={})
    answer["node"]["refused_runs"] = {}
    outcome = ask(lines({"result": answer}), "status")
    assert outcome.out.splitlines()[2:] == ["no peers"]
    assert outcome.err == ""


def test_status_shows_what_came_by_each_of_several_queues(ask: Callable[..., Any]) -> None:
    answer = status(drops={})
    answer["node"]["refused_runs"] = {}
    answer["node"]["queues"] = [
        {
            "udp": {"datagrams": 120, "bytes": 9000, "drops": {"receive_buffer_full": 7}},
            "tun": {"packets": 3, "bytes": 252, "drops": {"tun_einval": 1}},
        },
        {"udp": {"datagrams": 0, "bytes": 0, "drops": {}}, "tun": {"packets": 41, "bytes": 3444, "drops": {}}},
    ]
    validator("status").validate(answer)
    outcome = ask(lines({"result": answer}), "status")
    assert outcome.out.splitlines()[2] == (
        "2 queues, datagrams from the network / packets from here: 120 / 3 8 lost, 0 / 41"
    )
    del answer["node"]["queues"]  # as an older daemon says it
    assert ask(lines({"result": answer}), "status").out.splitlines()[2:] == ["no peers"]


def test_status_tells_of_the_registry_and_warns_of_what_is_refused(ask: Callable[..., Any]) -> None:
    answer = status(drops={})
    answer["node"]["refused_runs"] = {}
    answer["node"]["registry"] = {
        "trust": "authority",
        "in_touch": False,
        "nodes": 3,
        "refused": {"evil\x1b[2J": "record_unsigned"},
    }
    answer["node"]["certificate"] = {"fingerprint": "00" * 32, "expires_in_s": 86_400, "problem": None}
    outcome = ask(lines({"result": answer}), "status")
    assert outcome.out.splitlines()[2:] == ["registry away, trust authority, certificate for 1d0h", "no peers"]
    assert outcome.err.splitlines() == [
        "warning: what the registry says of evil[2J is refused: record_unsigned",
        "warning: this node's certificate runs out soon; is the authority's node up?",
    ]
    answer["node"]["certificate"]["problem"] = "certificate_revoked"
    outcome = ask(lines({"result": answer}), "status")
    assert "warning: the others do not believe this node: certificate_revoked" in outcome.err
    answer["node"]["certificate"]["revocations"] = {"number": 3, "next_in_s": -60, "problem": "revocations_overdue"}
    outcome = ask(lines({"result": answer}), "status")
    assert (
        "warning: there is no new list of who is revoked: revocations_overdue; the authority's node is away"
        in outcome.err
    )


def test_status_says_who_is_believed_and_what_waits_for_the_next_start(ask: Callable[..., Any]) -> None:
    answer = status(drops={})
    answer["node"]["registry"] = {"trust": "store", "in_touch": True, "nodes": 0, "refused": {}}
    answer["node"]["settings"] = {"waiting": ["network6", "backend"], "problem": "10.99.4.1 is taken"}
    outcome = ask(lines({"result": answer}), "status")
    assert "registry in touch, trust store: whoever can write to the registry is believed" in outcome.out.splitlines()
    assert "warning: changed in the network, and obeyed from the next start on: network6, backend" in outcome.err
    assert "warning: this node is not in the network: 10.99.4.1 is taken" in outcome.err


@pytest.mark.parametrize("verb", ["status", "peers"])
def test_names_of_peers_cannot_deceive(ask: Callable[..., Any], verb: str) -> None:
    evil = "\x1b]0;owned\x07[/x][red]\u202e$(rm -rf ~)\nerror: fake"
    answer = {
        "status": status(peer(evil, state="stale"), peer("-n", state="down")),
        "peers": {"schema": "holloway.peers/1", "peers": [detail(evil, allowed=["\x1b[2J"])]},
    }[verb]
    outcome = ask(lines({"result": answer}), verb)
    assert outcome.code == 0
    assert outcome.out.isascii()
    assert not set(outcome.out + outcome.err) & set("\x1b\x07\u202e\r")
    assert "]0;owned[/x][red]$(rm -rf ~) error: fake" in outcome.out
    assert not any(line.startswith("error:") for line in (outcome.out + outcome.err).splitlines())
    if verb == "status":
        assert outcome.err.splitlines()[1].endswith(" ']0;owned[/x][red]$(rm -rf ~) error: fake'")
        assert outcome.err.splitlines()[3].endswith(" -- -n")


def test_peers_for_people(ask: Callable[..., Any]) -> None:
    silent = detail("c", keepalive_s=0, drops={}, allowed=[], endpoint=None, state="down")
    answer = {"schema": "holloway.peers/1", "peers": [detail(), silent]}
    outcome = ask(lines({"result": answer}), "peers")
    head, first, second = outcome.out.splitlines()
    assert head.split() == [
        "NODE",
        "STATE",
        "PUBLIC",
        "KEY",
        "PATH",
        "ALLOWED",
        "SUITE",
        "KEEPALIVE",
        "HANDSHAKES",
        "RX",
        "/",
        "TX",
        "PACKETS",
        "COMPRESSED",
        "DROPPED",
    ]
    assert first.split("  ")[0] == "b"
    assert "25s" in first
    assert "7 / 5" in first
    assert "3.8 MiB to 1.4 MiB" in first
    assert first.endswith("replay 2")
    assert "off" in second
    assert second.endswith("none")
    assert ask(lines({"result": answer | {"peers": []}}), "peers").out == "no peers\n"


GATEWAY = {"through": "exit", "state": "down", "problem": "cannot send\nthe default route", "masquerade": False}


def test_routes_for_people(ask: Callable[..., Any]) -> None:
    answer = routes(
        route("0.0.0.0/0", via="exit", kind="gateway", kernel="installed"),
        route("10.7.0.0/16", via=None, kind="announced", kernel="none"),
        route("10.8.0.0/16", kernel="refused", why="EEXIST: the host\nhas it"),
        gateway=GATEWAY,
    )
    outcome = ask(lines({"result": answer}), "routes")
    assert outcome.code == 0
    assert outcome.out.splitlines() == [
        "PREFIX       VIA        KIND       STATE      WHY",
        "0.0.0.0/0    exit       gateway    installed",
        "10.7.0.0/16  this node  announced  none",
        "10.8.0.0/16  b          peer       refused    EEXIST: the host has it",
    ]
    assert outcome.err.splitlines() == [
        "warning: cannot send the default route",
        (
            "warning: the gateway exit is down: what is for no nearer network is dropped, and does not leave in another"
            " way"
        ),
    ]


def test_routes_in_json_fit_their_schema(ask: Callable[..., Any]) -> None:
    answer = routes(route(), gateway=GATEWAY)
    outcome = ask(lines({"result": answer}), "routes", "--json")
    assert (outcome.code, outcome.err) == (0, "")
    validator("routes").validate(outcome.document)


def test_status_tells_of_the_gateway(ask: Callable[..., Any]) -> None:
    answer = status(drops={})
    answer["node"]["refused_runs"] = {}
    for gateway, line, warnings in (
        (GATEWAY | {"problem": None, "state": "ok"}, "gateway through exit, ok", 0),
        (GATEWAY | {"problem": None, "state": "absent"}, "gateway through exit, absent", 1),
        (GATEWAY | {"problem": None, "state": "unwilling"}, "gateway through exit, unwilling", 1),
        (
            {"through": None, "state": None, "problem": None, "masquerade": True},
            "gateway masquerading for others",
            0,
        ),
    ):
        answer["node"]["gateway"] = gateway
        outcome = ask(lines({"result": answer}), "status")
        assert line in outcome.out.splitlines()
        assert len(outcome.err.splitlines()) == warnings


REPLY = {"sequence": 1, "rtt_ms": 1.234, "path": "192.0.2.7:1099", "epoch": 3}
LOST = {"sequence": 2, "error": "timeout"}
SUM = {
    "schema": "holloway.ping/1",
    "peer": "b",
    "address": "10.99.0.2",
    "sent": 2,
    "received": 1,
    "rtt_ms": {"min": 1.2, "avg": 1.2, "max": 1.2},
}


def test_ping_for_people(ask: Callable[..., Any]) -> None:
    outcome = ask(lines({"event": REPLY}, {"event": LOST}, {"result": SUM}), "ping", "b")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.splitlines() == [
        "reply from b: sequence 1 time 1.23ms path 192.0.2.7:1099 epoch 3",
        "no reply from b: sequence 2 timeout",
        "b (10.99.0.2): 2 sent, 1 received, 50% lost, min/avg/max 1.20ms/1.20ms/1.20ms",
    ]


def test_ping_without_any_reply_fails(ask: Callable[..., Any], tmp_path: Path) -> None:
    outcome = ask(lines({"event": LOST}, {"result": SUM | {"received": 0, "rtt_ms": None}}), "ping", "b")
    assert outcome.code == 1
    assert outcome.out.splitlines()[-1] == "b (10.99.0.2): 2 sent, 0 received, 100% lost"
    assert outcome.error == [
        "b does not answer",
        "2 pings sent, none came back",
        f"holloway peers --socket {tmp_path / 'd.sock'}",
    ]


def test_ping_sends_what_was_asked_for(daemon: Callable[..., Any], holloway: Callable[..., Any]) -> None:
    fake = daemon(lines({"result": SUM}))
    holloway("ping", "b", "-n", "7", "-i", "0.5", "-W", "3", "--socket", str(fake.path))
    assert json.loads(fake.requests[0]) == {"op": "ping", "peer": "b", "count": 7, "interval_s": 0.5, "timeout_s": 3.0}


def test_ping_waits_for_each_reply_as_long_as_asked_and_no_longer(
    daemon: Callable[..., Any], holloway: Callable[..., Any]
) -> None:
    fake = daemon(None, pieces=[lines({"event": REPLY})])
    words = ("ping", "b", "-n", "100000", "-i", "0.05", "-W", "0.05", "--timeout", "0.1", "--socket", str(fake.path))
    outcome = holloway(*words)
    assert outcome.code == 124
    assert outcome.out.startswith("reply from b: sequence 1 ")
    assert outcome.error[0] == "the daemon did not answer within 0.2 s"


# JSON


@pytest.mark.parametrize("drops", [{}, {"replay": 3}])
def test_status_in_json_is_the_answer_and_fits_its_schema(ask: Callable[..., Any], drops: dict[str, int]) -> None:
    answer = status(peer(), STALE, drops=drops)
    outcome = ask(lines({"result": answer}), "status", "--json")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.document == answer
    validator("status").validate(outcome.document)


def test_peers_in_json_fits_its_schema(ask: Callable[..., Any]) -> None:
    answer = {"schema": "holloway.peers/1", "peers": [detail(), detail("c", endpoint=None, last_received_s=4.5)]}
    outcome = ask(lines({"result": answer}), "peers", "--json")
    assert outcome.document == answer
    validator("peers").validate(outcome.document)


def test_ping_in_json_is_a_line_for_each_and_one_for_the_sum(ask: Callable[..., Any]) -> None:
    outcome = ask(lines({"event": REPLY}, {"event": LOST}, {"result": SUM}), "ping", "b", "--json")
    documents = [json.loads(line) for line in outcome.out.splitlines()]
    assert [document.get("event") for document in documents] == [REPLY, LOST, None]
    assert documents[-1] == SUM
    for document in documents:
        validator("ping").validate(document)
    assert not validator("ping").is_valid({"schema": "holloway.ping/1", "event": {"sequence": 1}})


def test_json_is_ascii_whatever_a_name_holds(ask: Callable[..., Any]) -> None:
    outcome = ask(lines({"result": status(peer("bü\u202e\x1b"))}), "status", "--json")
    assert outcome.out.isascii()
    assert outcome.document["peers"][0]["name"] == "bü"


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON tree."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, each in inner for place in [(*path, key), *places(each, (*path, key))]]


def spoilt(tree: Any, place: tuple[Any, ...], how: Any) -> Any:
    """The tree with one place taken out (`how` is ...) or replaced."""
    tree = copy.deepcopy(tree)
    parent = tree
    for key in place[:-1]:
        parent = parent[key]
    if how is ... and isinstance(parent, dict):
        del parent[place[-1]]
    else:
        parent[place[-1]] = None if how is ... else how
    return tree


ANSWERS: list[tuple[str, Any]] = [
    ("status", status(peer())),
    ("peers", {"schema": "holloway.peers/1", "peers": [detail()]}),
    ("ping", SUM),
    ("routes", routes(route(), route("0.0.0.0/0", kind="gateway", kernel="refused", why="EPERM"), gateway=GATEWAY)),
]


@pytest.mark.parametrize(("verb", "answer"), ANSWERS)
@pytest.mark.parametrize("how", [..., True, -1, "x", [], {}, [3], 10**400])
def test_an_answer_spoilt_in_one_place_is_told_or_fits_the_schema(
    monkeypatch: pytest.MonkeyPatch, holloway: Callable[..., Any], verb: str, answer: Any, how: Any
) -> None:
    """Whatever the daemon sends, the verb either prints a document that fits the schema or names the field: both judges
    agree, place by place."""
    words = {"ping": ("ping", "b")}.get(verb, (verb,))
    for place in places(answer):
        bad = spoilt(answer, place, how)
        monkeypatch.setattr(f"holloway.cli.{verb}.ask", lambda *_, bad=bad, **__: bad)
        outcome = holloway(*words, "--socket", "x", "--json")
        if outcome.code == 0:
            validator(verb).validate(outcome.document)
            holloway(*words, "--socket", "x")
        elif outcome.error[0] == "the daemon's answer does not fit this version of holloway":
            assert outcome.code == 1
            assert str(place[0]) in outcome.error[1] or how is not ...
        else:
            assert outcome.error[0] == "b does not answer", outcome.err
    assert holloway(*words, "--socket", "x").err.count("Traceback") == 0


def test_a_missing_field_is_named(ask: Callable[..., Any]) -> None:
    bad = status(peer())
    del bad["peers"][0]["rx"]["bytes"]
    outcome = ask(lines({"result": bad}), "status")
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.error[1] == "result.peers[0].rx.bytes is not an integer"


def test_another_schema_version_is_refused(ask: Callable[..., Any]) -> None:
    outcome = ask(lines({"result": status() | {"schema": "holloway.status/2"}}), "status", "--json")
    assert outcome.code == 1
    assert outcome.error[1] == "result.schema is holloway.status/2, not holloway.status/1"


def test_a_wrong_event_is_refused(ask: Callable[..., Any]) -> None:
    outcome = ask(lines({"event": {"sequence": "x"}}, {"result": SUM}), "ping", "b")
    assert outcome.error[1] == "event.sequence is not an integer"


# Colour and units


def test_piped_output_has_no_escape_sequence_and_is_never_cut(
    ask: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    name = "n" * 63
    outcome = ask(lines({"result": status(peer(name))}), "status")
    assert "\x1b" not in outcome.out
    assert name in outcome.out


def test_colour_is_given_when_asked_for(ask: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    answer = lines({"result": status(peer())})
    assert "\x1b[32mok" in ask(answer, "status", "--color", "always").out
    assert "\x1b" not in ask(answer, "status", "--color", "never").out


@pytest.mark.parametrize(
    ("environ", "terminal", "choice", "expected"),
    [
        ({}, True, "auto", True),
        ({}, False, "auto", False),
        ({"NO_COLOR": "1"}, True, "auto", False),
        ({"NO_COLOR": ""}, True, "auto", True),
        ({"TERM": "dumb"}, True, "auto", False),
        ({"NO_COLOR": "1"}, False, "always", True),
        ({}, True, "never", False),
    ],
)
def test_when_there_is_colour(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], terminal: bool, choice: str, expected: bool
) -> None:
    monkeypatch.setattr(printing.sys.stdout, "isatty", lambda: terminal)
    assert printing.wants_color(choice, environ) is expected


def test_a_terminal_bounds_the_width(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(printing.sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "30")
    printing.print_table(["NODE", "STATE"], [["n" * 63, "ok"]], styles=["green"], color=False)
    assert all(len(line) <= 30 for line in capsys.readouterr().out.splitlines())


def test_units() -> None:
    assert [duration(each) for each in (0, 59.9, 60, 3599, 3600, 86399, 90000)] == (
        ["0s", "59s", "1m", "59m", "1h0m", "23h59m", "1d1h"]
    )
    assert [size(each) for each in (0, 1023, 1024, 1536, 1 << 20, 1 << 30, 1 << 40, 10**400)] == (
        ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "1.0 MiB", "1.0 GiB", "1.0 TiB", "1099511627776.0 TiB"]
    )
    assert [milliseconds(each) for each in (None, 0.456, 9.99, 10, 123.45)] == [
        "-",
        "0.46ms",
        "9.99ms",
        "10.0ms",
        "123.5ms",
    ]
    assert (ago(None), ago(61)) == ("never", "1m ago")
    assert counters({"a": 1, "b": 5, "c": 0, "d": 1}) == "b 5, a 1, d 1"
    assert counters({"c": 0}) == "none"


def test_what_keeps_a_peer_from_working_is_told(ask: Callable[..., Any]) -> None:
    outcome = ask(lines({"result": status(peer("b", state="down", problem="its key is in use by c"))}), "status")
    assert outcome.code == 0
    assert "warning: b: its key is in use by c" in outcome.err.splitlines()


def test_status_tells_where_floating_addresses_are(ask: Callable[..., Any]) -> None:
    answer = status(drops={})
    answer["node"]["refused_runs"] = {}
    answer["node"]["floating"] = [
        {"address": f"10.99.2.{number}", "holder": holder, "ours": ours, "priority": priority, "state": state}
        for number, (holder, ours, priority, state) in enumerate(
            (("a", True, 0, "holding"), ("b\x1b[2J", False, 3, "waiting"), (None, False, None, "followed")), 1
        )
    ]
    outcome = ask(lines({"result": answer}), "status")
    assert outcome.out.splitlines()[2] == "floating 10.99.2.1 here, 10.99.2.2 at b[2J, 10.99.2.3 at nobody"


def test_status_says_in_words_who_is_not_encrypted(ask: Callable[..., Any]) -> None:
    answer = status(
        peer("b", security="none", compression="lz4"), peer("c", compression="lz4"), peer("d", security=None)
    )
    outcome = ask(lines({"result": answer}), "status")
    in_clear, compressed, without_key = (line for line in outcome.out.splitlines() if line[:3] in ("b  ", "c  ", "d  "))
    assert "NOT ENCRYPTED, lz4" in in_clear
    assert "aes-gcm, lz4" in compressed
    assert "NOT" not in without_key
    assert [line for line in outcome.err.splitlines() if "NOT ENCRYPTED" in line] == [
        "warning: b: NOT ENCRYPTED: both sides ask for plain text, so whoever is on the way can read it"
    ]
