"""The verbs of the control plane against a broker and agents that run in a thread beside them."""

from __future__ import annotations

import io
import json
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest
from control_thread import Plane

from holloway.actors.control_plane.key_files import read_keys
from holloway.cli import client
from holloway.cli.control_options import CONTROL_VERBS
from holloway.cli.job_views import PeopleView
from holloway.cli.main import root
from holloway.protocols.control_plane.messages import Expect, NodeOutput, Role, Stream
from holloway.protocols.errors import BrokerError

SCHEMAS = Path(__file__).parents[2] / "docs" / "schemas"


@pytest.fixture
def ask(plane: Plane, holloway: Callable[..., Any]) -> Callable[..., Any]:
    """Runs a verb with an admin's key, found by `.holloway/config`."""
    plane.settle()
    return holloway


def check(document: Any, name: str) -> Any:
    jsonschema.validate(document, json.loads((SCHEMAS / f"holloway.{name}.json").read_text()))
    return document


def test_echo_shows_equal_answers_once_and_ends_with_the_sums(ask: Callable[..., Any]) -> None:
    outcome = ask("echo", "hi", "there")
    assert (outcome.code, outcome.out) == (0, "web1 web2: ok\n  hi there\n")
    expecting, last = outcome.err.splitlines()
    assert expecting.startswith("expecting 2 nodes (job ")
    assert last == "2 ok"


def test_exec_on_one_node_passes_output_and_code_on(ask: Callable[..., Any]) -> None:
    outcome = ask("exec", "-t", "web1", "--", "sh", "-c", "printf 'no line'; echo err >&2; exit 3")
    assert (outcome.code, outcome.out, outcome.err) == (3, "no line", "err\n")
    missing = ask("exec", "-t", "web1", "--", "no-such-program")
    assert (missing.code, missing.out) == (1, "")
    assert missing.err == "web1: failed: there is no program no-such-program\n"
    assert ask("exec", "-t", "web1", "true").code == 0


@pytest.mark.parametrize(
    ("words", "nodes"),
    [
        ((), ["web1", "web2"]),
        (("-t", "web*"), ["web1", "web2"]),
        (("-t", "web2", "-t", "web1"), ["web1", "web2"]),
        (("-r", "db"), ["web2"]),
        (("-a", "shop", "-e", "live"), ["web1"]),
        (("-r", "web,db"), ["web2"]),
        (("-t", "app=shop !web1"), ["web2"]),
        (("-t", "@nodes"), ["web2"]),
    ],
)
def test_targets(ask: Callable[..., Any], words: tuple[str, ...], nodes: list[str]) -> None:
    Path("nodes").write_text("# some\nweb2\n\n")
    dry = ask("echo", "--dry-run", "--json", *words, "x")
    assert (dry.code, check(dry.document, "exec")["nodes"]) == (0, nodes)
    wet = ask("echo", "--json", *words, "x")
    assert wet.code == 0
    assert [each["node"] for each in check(wet.document, "exec")["results"]] == nodes
    assert {each["stdout"] for each in wet.document["results"]} == {"x\n"}


def test_nobody_meant_is_told_at_once(ask: Callable[..., Any]) -> None:
    outcome = ask("echo", "-a", "sho", "hi")  # a name is the whole name
    assert outcome.code == 1
    assert outcome.error == ["the broker refuses", "no agent fits all app=sho: of 2 that are known", "holloway clients"]


def test_a_shell_only_when_asked_and_one_line_for_each_thing(ask: Callable[..., Any]) -> None:
    plain = ask("exec", "-t", "web1", "--", "echo", "$HOME;", "*")
    assert plain.out == "$HOME; *\n"
    lines = ask("exec", "--jsonl", "--shell", "echo $HOLLOWAY_NODE; [ $HOLLOWAY_NODE = web1 ]")
    assert lines.code == 1
    documents = [check(json.loads(line), "exec") for line in lines.out.splitlines()]
    assert documents[0]["nodes"] == ["web1", "web2"]
    assert sorted(each["text"] for each in documents if "text" in each) == ["web1\n", "web2\n"]
    assert {each["node"]: each["rc"] for each in documents if "rc" in each} == {"web1": 0, "web2": 1}
    assert documents[-1]["counts"] == {"ok": 1, "failed": 1}


def test_streamed_lines_stand_behind_names_and_are_safe_for_a_terminal(ask: Callable[..., Any]) -> None:
    outcome = ask("exec", "--stream", "--shell", "printf 'a\\033[2Jb\\nlast'")
    assert sorted(outcome.out.splitlines()) == ["web1: ab", "web1: last", "web2: ab", "web2: last"]
    collapsed = ask("exec", "--shell", "printf 'a\\033[2Jb\\377'")
    assert collapsed.out == "web1 web2: ok\n  ab\ufffd\n"
    document = check(ask("exec", "--json", "-t", "web1", "--shell", "printf 'a\\033[2Jb\\377\\000'").document, "exec")
    assert document["results"][0]["stdout"] == "a\033[2Jb\ufffd\0"


@pytest.mark.parametrize("on_terminal", list(Stream))
def test_what_one_node_writes_is_raw_on_no_stream_that_is_a_terminal(
    monkeypatch: pytest.MonkeyPatch, on_terminal: Stream
) -> None:
    view = PeopleView(is_streamed=False)
    view.begin(Expect("r", "", "", ("n",)))
    for number, stream in enumerate(Stream, 1):
        out = io.TextIOWrapper(io.BytesIO())
        monkeypatch.setattr(out, "isatty", lambda stream=stream: stream is on_terminal)
        monkeypatch.setattr(sys, stream.value, out)
        view.take(NodeOutput("j", number, "n", 0, stream, b"a\033[2Jb"), 0)
        assert out.buffer.getvalue() == (b"ab" if stream is on_terminal else b"a\033[2Jb")  # type: ignore[attr-defined]


def test_what_is_given_replaces_the_defaults_of_the_configuration(ask: Callable[..., Any]) -> None:
    with Path(".holloway/config").open("a") as file:
        file.write("-t web1\n-r web\n--timeout 9\n")
    assert ask("echo", "--dry-run", "x").out == "web1\n"
    assert ask("echo", "--dry-run", "-t", "web2", "x").out == "web2\n"
    assert ask("echo", "--dry-run", "--target=web*", "-r", "db", "x").out == "web2\n"
    job = ask("exec", "--json", "-t", "web2", "false").document["job"]
    retried = ask("exec", "--json", "--retry-failed", job)
    assert [(each["node"], each["state"]) for each in retried.document["results"]] == [("web2", "failed")]
    assert ask("exec", "-t", "web2", "--", "sh", "-c", "echo -t").out == "-t\n"


def test_lines_of_json_are_all_that_a_dry_run_prints_with_them(ask: Callable[..., Any]) -> None:
    [line] = ask("echo", "--dry-run", "--jsonl", "x").out.splitlines()
    assert json.loads(line)["nodes"] == ["web1", "web2"]


def test_a_rotated_key_is_never_lost(ask: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    assert ask("client", "create", "--role", "admin", "--name", "eve").code == 0
    eve, path, draft = ("--curve-key-file", "in-use.yml"), Path("in-use.yml"), Path("in-use.yml.new")
    Path(".holloway/eve.yml").rename(path)
    before = path.read_text()
    assert ask("client", "rotate", "eve", *eve).code == 0
    assert path.read_text() != before
    assert not draft.exists()
    assert ask("client", "list", *eve).code == 0
    assert ask("client", "rotate", "nobody", *eve).code == 1
    assert not Path(".holloway/nobody.yml.new").exists()
    answer = client.Where.call

    def lost(where: client.Where, command: str, *arguments: str, **options: str) -> list[dict[str, Any]]:
        rows = answer(where, command, *arguments, **options)
        if command == "client-rotate":
            raise BrokerError("the broker does not answer", "its answer was lost", "")
        return rows

    with monkeypatch.context() as patch:
        patch.setattr(client.Where, "call", lost)
        outcome = ask("client", "rotate", "eve", *eve)
    assert outcome.code != 0
    assert "in-use.yml.new" in outcome.err
    assert stat.S_IMODE(draft.stat().st_mode) == 0o600
    assert ask("client", "list", *eve).error[0].endswith("does not let us in")
    assert ask("client", "list", "--curve-key-file", str(draft)).code == 0
    assert ask("client", "rotate", "eve", "--curve-key-file", str(draft)).code == 0


def test_a_deadline_ends_it_and_says_so(ask: Callable[..., Any]) -> None:
    outcome = ask("exec", "-t", "web1", "--timeout", "1", "sleep", "60")
    assert outcome.code == 124
    assert outcome.err.startswith("web1: timed-out: ")


def test_a_canary_that_is_not_ok_keeps_the_others_from_beginning(ask: Callable[..., Any]) -> None:
    script = "[ $HOLLOWAY_NODE = web2 ]"
    outcome = ask("exec", "--json", "--canary", "1", "--shell", script)
    states = {each["node"]: each["state"] for each in outcome.document["results"]}
    assert states["web1"] == "failed"
    assert states["web2"] not in ("ok", "failed")
    assert outcome.code == 1
    retried = ask("exec", "--json", "--retry-failed", outcome.document["job"])
    assert {each["node"]: each["state"] for each in retried.document["results"]} == {"web1": "failed", "web2": "ok"}
    again = ask("exec", "--json", "--retry-failed", retried.document["job"], "true")
    assert [(each["node"], each["state"]) for each in again.document["results"]] == [("web1", "ok")]
    batches = ask("exec", "--json", "--batch", "50%", "--max-fail", "0", "--shell", script)
    assert {each["node"]: each["state"] for each in batches.document["results"]}["web1"] == "failed"
    assert ask("exec").error[0] == "missing argument 'CMD'"
    assert ask("echo", "--batch", "x%", "hi").code == 2


def test_clients_and_jobs_are_listed(ask: Callable[..., Any]) -> None:
    job = ask("echo", "--json", "seen").document["job"]
    rows = check(ask("clients", "--json").document, "clients")["clients"]
    assert [(each["node"], each["is"], each["roles"]) for each in rows] == [
        ("web1", "live", ["web"]),
        ("web2", "live", ["web", "db"]),
    ]
    assert ask("clients", "-t", "role=db").out.splitlines()[1].split()[:2] == ["web2", "live"]
    jobs = check(ask("jobs", "list", "--json").document, "jobs")["jobs"]
    assert (jobs[0]["job"], jobs[0]["command"], jobs[0]["counts"]) == (job, "echo seen", {"ok": 2})
    shown = check(ask("jobs", "show", job, "--json").document, "jobs")
    assert [(each["node"], each["state"]) for each in shown["nodes"]] == [("web1", "ok"), ("web2", "ok")]
    assert job in ask("jobs", "list").out
    assert "web2  ok" in ask("jobs", "show", job).out
    again = ask("jobs", "wait", job)
    assert (again.code, again.out) == (0, "web1 web2: ok\n  seen\n")
    assert ask("jobs", "cancel", job).err == f"job {job} is finished\n"
    assert ask("jobs", "show", "0" * 32).error[1] == "there is no such job, or it is not yours"


def test_clients_are_made_listed_given_roles_and_revoked(ask: Callable[..., Any], plane: Plane) -> None:
    made = ask("client", "create", "--role", "operator", "--name", "ann")
    assert made.code == 0
    path = Path(".holloway/ann.yml")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    keys = read_keys(path)
    assert keys is not None
    below = [each.read_bytes() for each in plane.world.root.rglob("*") if each.is_file()]
    assert any(keys.public_key.encode() in each for each in below)
    assert not any(keys.private_key.encode() in each for each in below)  # it never left us
    ann = ("--curve-key-file", "ann.yml")
    assert ask("echo", *ann, "hi").code == 0
    assert ask("client", "list", *ann).error[1].startswith("the role operator may not call client-list")
    listed = check(ask("client", "list", "--json").document, "client")["clients"]
    assert [(each["role"], each["revoked"]) for each in listed if each["name"] == "ann"] == [("operator", "")]
    assert ask("client", "role", "ann", "node").code == 0
    assert "a node commands nobody" in ask("echo", *ann, "hi").error[1]
    rotated = ask("client", "rotate", "ann", "--export")
    assert rotated.code == 0
    assert ask("echo", *ann, "hi").error[0].endswith("does not let us in")
    assert ask("client", "revoke", "ann").code == 0
    assert ask("client", "revoke", "ann").error[1].startswith("there is no client ann")
    assert ask("client", "create", "--role", "node", "--name", "../x").code == 1
    key = "0" * 40
    assert ask("client", "create", "--role", "node", "--name", "later", "--public-key", key).code == 0
    assert "later" in ask("client", "list").out
    assert "private_key" in rotated.out
    assert plane.world.keys.read().client("ann") is None


def test_on_the_brokers_machine_clients_are_made_in_its_files(holloway: Callable[..., Any], plane: Plane) -> None:
    root = str(plane.world.root)
    outcome = holloway("client", "create", "--root", root, "--role", "operator", "--name", "local", "--export")
    assert outcome.code == 0
    Path("local.yml").touch(mode=0o600)
    Path("local.yml").write_text(outcome.out)
    echoed = holloway("--host", f"127.0.0.1:{plane.world.port}", "--curve-key-file", "local.yml", "echo", "hi")
    assert (echoed.code, echoed.out) == (0, "web1 web2: ok\n  hi\n")
    assert holloway("client", "list", "--root", "nowhere").error[0] == "there is no broker in nowhere"


def test_the_command_line_wins_over_the_environment_and_that_over_the_configuration(
    ask: Callable[..., Any], plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, keys = f"127.0.0.1:{plane.world.port}", Path(".holloway/me.yml")
    Path(".holloway/config").write_text("--host 127.0.0.1:1\n--curve-key-file none.yml\n--security null\n")
    echo = ("echo", "-t", "web1", "hi")
    monkeypatch.setenv("HOLLOWAY_SECURITY", "curve")
    assert ask("--host", here, "--curve-key-file", str(keys.name), *echo).code == 0
    monkeypatch.setenv("HOLLOWAY_HOST", here)
    monkeypatch.setenv("HOLLOWAY_CURVE_KEY_FILE", keys.name)
    assert ask(*echo).code == 0
    assert ask("--host", "127.0.0.1:2", *echo).error[0].endswith(" 127.0.0.1:2")
    both = ("--host", "127.0.0.1:2", "echo", "--host", "127.0.0.1:3", "hi")
    assert ask(*both).error[0].endswith(" 127.0.0.1:3")


def test_mistakes_before_anybody_is_asked(holloway: Callable[..., Any], plane: Plane) -> None:
    assert holloway("echo", "hi").error[0] == "there is no key file .holloway/keys.yml"
    plane.key_file("keys", Role.OPERATOR)
    assert holloway("--host", "a b", "echo", "hi").code == 2
    assert holloway("--host", "x", "status").code == 2
    assert holloway("exec", "--shell", "a", "b").code == 2
    assert holloway("echo", "--json", "--jsonl", "hi").code == 2
    assert holloway("echo", "-t", "a=b", "hi").error[0] == "the target cannot be read"
    assert holloway("echo", "-t", "@none", "hi").error[0] == "cannot read none"
    Path(".holloway/config").write_text("--host 127.0.0.1\n--hots x\n")
    outcome = holloway("echo", "hi")
    assert (outcome.code, outcome.error[0]) == (4, ".holloway/config cannot be used")
    assert outcome.error[1].startswith("line 2: ")
    Path(".holloway/config").unlink()
    Path(".holloway/keys.yml").chmod(0o644)
    assert holloway("echo", "hi").error[2] == "chmod 600 .holloway/keys.yml"


def test_without_keys_nobody_is_where_others_are_unless_forced(holloway: Callable[..., Any]) -> None:
    null = ("--security", "null")
    refused = holloway("broker", "--root", "b", "--bind", "0.0.0.0", *null)
    assert (refused.code, refused.error[0]) == (4, "--security null is not for --bind 0.0.0.0")
    assert not Path("b").exists()
    agent = holloway("agent", "--name", "web1", "--host", "192.0.2.1", *null)
    assert (agent.code, agent.error[0]) == (4, "--security null is not for --host 192.0.2.1")


@pytest.mark.parametrize(
    "words",
    [
        "echo hi",
        "exec true",
        "clients",
        "sync x",
        "jobs list",
        "jobs show j",
        "jobs wait j",
        "jobs cancel j",
        "client list",
        "file put . x",
        "file get x y",
        "upload . x",
        "download x y",
        "edit -a x",
    ],
)
def test_without_keys_no_verb_calls_where_others_are_unless_forced(
    holloway: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    verb = words.split()
    Path(".holloway").mkdir()
    Path(".holloway/config").write_text("--file-port 1\n")
    monkeypatch.setenv("HOLLOWAY_SECURITY", "null")
    monkeypatch.setenv("HOLLOWAY_HOST", "0.0.0.0:1")  # which is this machine, though nobody says so
    refused = holloway(*verb)
    assert (refused.code, refused.error[0]) == (4, "--security null is not for --host 0.0.0.0")
    assert "warning" not in refused.err
    at = 2 if verb[0] in ("jobs", "client", "file") else 1
    forced = holloway(*verb[:at], "--force-null", *verb[at:])
    assert "--security null is not for" not in forced.err


def test_every_verb_that_asks_a_broker_has_the_same_options(holloway: Callable[..., Any]) -> None:
    found = 0
    for name in CONTROL_VERBS:
        group = root.get_command(click.Context(root), name)
        assert group is not None
        for command in group.commands.values() if isinstance(group, click.Group) else [group]:
            options = {option for parameter in command.params for option in parameter.opts}
            assert {"--security", "--force-null"} <= options or "--host" not in options, command
            found += "--host" in options
    assert found > 15


def test_a_client_without_keys_does_not_get_into_a_broker_with_keys(holloway: Callable[..., Any], plane: Plane) -> None:
    refused = holloway("echo", "--host", f"127.0.0.1:{plane.world.port}", "--security", "null", "hi")
    assert refused.code == 1
    assert refused.error[0].endswith("speaks another language")
    assert "it encrypts, and we do not" in refused.error[1]


def test_a_broker_that_is_away_is_told_at_once(holloway: Callable[..., Any], plane: Plane) -> None:
    plane.key_file("keys", Role.OPERATOR)
    outcome = holloway("--host", "127.0.0.1:1", "echo", "hi")
    assert (outcome.code, outcome.error[0]) == (3, "no broker answers at 127.0.0.1:1")


def test_a_trail_is_verified_and_a_change_is_found(ask: Callable[..., Any], plane: Plane) -> None:
    ask("echo", "for the trail")
    trail = plane.world.root / "broker" / "audit.jsonl"
    copy = Path("copy.jsonl")
    copy.write_bytes(trail.read_bytes())
    assert check(ask("audit", "verify", "copy.jsonl", "--json").document, "audit")["flaw"] is None
    assert "whole" in ask("audit", "verify", "copy.jsonl").out
    assert "for the trail" in copy.read_text()
    copy.write_text(copy.read_text().replace("for the trail", "for the tr4il"))
    outcome = ask("audit", "verify", "copy.jsonl")
    assert outcome.code == 1
    assert outcome.error[1] == "it was changed: its hash is that of another line"
    assert check(ask("audit", "verify", "copy.jsonl", "--json").document, "audit")["line"] > 0


def test_files_go_up_and_down_byte_for_byte(ask: Callable[..., Any], plane: Plane) -> None:
    contents = bytes(range(256)) * 5000 + b"the end"
    Path("a.bin").write_bytes(contents)
    Path("a.bin").chmod(0o640)
    put = ask("file", "put", "a.bin", "dir/sub/", "--json")
    assert put.code == 0
    document = check(put.document, "file")
    assert (document["name"], document["size"]) == ("dir/sub/a.bin", len(contents))
    there = plane.world.root / "files" / "dir" / "sub" / "a.bin"
    assert (there.read_bytes(), there.stat().st_mode & 0o777) == (contents, 0o640)
    got = ask("file", "get", "dir/sub/a.bin", "b.bin")
    assert (got.code, got.out) == (0, "")
    assert Path("b.bin").read_bytes() == contents
    Path("down").mkdir()
    assert ask("file", "get", "dir/sub/a.bin", "down", "--json").document["sha256"] == document["sha256"]
    assert Path("down/a.bin").read_bytes() == contents
    assert sorted(each.name for each in Path("down").iterdir()) == ["a.bin"]
    Path("empty").touch()
    assert ask("file", "put", "empty", "empty").code == 0
    assert ask("file", "get", "empty", "empty2").code == 0
    os.mkfifo("pipe")
    assert ask("file", "put", "pipe", "pipe").error[:2] == ["pipe is not sent", "it is a FIFO, and no regular file"]
    assert "pipe is a FIFO, which no file replaces" in ask("file", "get", "empty", "pipe").error[1]
    assert Path("pipe").is_fifo()
    assert Path("empty2").read_bytes() == b""


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "a\\b", "./x", "a//b", ""])
def test_names_lead_nowhere_but_down(ask: Callable[..., Any], name: str) -> None:
    Path("x").write_bytes(b"x")
    for words in (("put", "x", name), ("get", name, "y")):
        outcome = ask("file", *words)
        assert outcome.code == 1, words
        assert outcome.error[0] == f"the file {name!r} was not transferred"
    assert not Path("y").exists()


def test_no_symbolic_link_is_followed(ask: Callable[..., Any], plane: Plane, tmp_path: Path) -> None:
    files = plane.world.root / "files"
    (tmp_path / "secret").write_text("secret")
    (files / "link").symlink_to(tmp_path / "secret")
    (files / "out").symlink_to(tmp_path)
    Path("x").write_bytes(b"x")
    for words in (("get", "link", "y"), ("get", "out/secret", "y"), ("put", "x", "out/planted")):
        assert ask("file", *words).code == 1
    assert not Path("y").exists()
    assert not (tmp_path / "planted").exists()
    assert "link is a symbolic link" in ask("file", "put", "x", "link").error[1]
    assert (files / "link").is_symlink()
    assert (tmp_path / "secret").read_text() == "secret"
    assert ask("file", "get", "none", "y").error[1] == "there is no such file"


def test_a_nodes_key_moves_no_files(ask: Callable[..., Any], plane: Plane) -> None:
    plane.key_file("node", Role.NODE)
    Path("x").write_bytes(b"x")
    for words in (("put", "x", "by-a-node"), ("get", "empty", "y")):
        outcome = ask("file", *words, "--curve-key-file", "node.yml")
        assert outcome.code == 1
        assert "the role node may not call file-" in outcome.error[1]
    assert not (plane.world.root / "files" / "by-a-node").exists()
