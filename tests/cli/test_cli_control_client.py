"""Talking to a daemon that is slow, hostile, gone or not one at all: always three lines and the right code."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_daemon import lines, status

from holloway.actors.config import sockets
from holloway.cli import control_client
from holloway.cli.control_client import Daemon, Patience, ask
from holloway.cli.failures import CommandFailedError

SHORT = Patience(2.0)


def failure(daemon: Daemon, patience: Patience = SHORT) -> CommandFailedError:
    with pytest.raises(CommandFailedError) as raised:
        ask(daemon, {"op": "status"}, patience)
    return raised.value


def test_one_line_goes_out_and_events_come_before_the_result(daemon: Callable[..., Any]) -> None:
    fake = daemon(lines({"event": {"n": 1}}, {"event": {"n": 2}}, {"result": {"done": True}}))
    events: list[object] = []
    result = ask(Daemon(fake.path), {"op": "ping", "peer": "b"}, Patience(), events.append)
    assert result == {"done": True}
    assert events == [{"n": 1}, {"n": 2}]
    assert [json.loads(each) for each in fake.requests] == [{"op": "ping", "peer": "b"}]
    assert fake.requests[0].endswith(b"\n")


def test_an_answer_in_pieces_is_put_together(daemon: Callable[..., Any]) -> None:
    whole = lines({"event": {"text": "é"}}, {"result": {"text": "…"}})
    fake = daemon(b"", pieces=[whole[:13], whole[13:14], whole[14:40], whole[40:]])
    assert ask(Daemon(fake.path), {"op": "status"}, Patience()) == {"text": "…"}


def test_a_large_answer_is_read_whole(daemon: Callable[..., Any]) -> None:
    fake = daemon(lines({"result": {"text": "x" * 3_000_000}}))
    assert len(str(ask(Daemon(fake.path), {"op": "status"}, Patience(10))["text"])) == 3_000_000


@pytest.mark.parametrize(
    "answer",
    [
        b"hello\n",
        b"\n",
        b"\xff\xfe\n",
        b"[]\n",
        b"3\n",
        b"{}\n",
        b'{"result": 3}\n',
        b'{"result": {"x": NaN}}\n',
        b'{"result": {"x": 1e999}}\n',
        b'{"result": {"x": ' + b"9" * 5000 + b"}}\n",
        b'{"result": ' + b"[" * 50_000 + b"}\n",
        b'{"result": {"x": ' + b"[" * 700 + b"]" * 700 + b"}}\n",
    ],
)
def test_garbage_is_told_as_such(daemon: Callable[..., Any], answer: bytes) -> None:
    fake = daemon(answer)
    error = failure(Daemon(fake.path))
    assert error.what == "what answered is not a holloway daemon of this version"
    assert error.why.startswith(str(fake.path))
    assert error.code == 1


def test_an_endless_line_is_cut_off(daemon: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_client, "MAX_ANSWER_BYTES", 100_000)
    fake = daemon(b"x" * 200_000)
    error = failure(Daemon(fake.path))
    assert error.why == f"{fake.path} sent more than 100000 bytes"


def test_endless_events_are_cut_off(daemon: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_client, "MAX_ANSWER_BYTES", 10_000)
    error = failure(Daemon(daemon(lines({"event": {}}) * 5000).path))
    assert "more than 10000 bytes" in error.why


@pytest.mark.parametrize(("answer", "where"), [(b"", "before it had answered"), (b'{"resu', "in the middle of a line")])
def test_a_daemon_that_goes_away_is_unreachable(daemon: Callable[..., Any], answer: bytes, where: str) -> None:
    fake = daemon(answer)
    error = failure(Daemon(fake.path))
    assert (error.what, error.why) == ("the daemon went away", f"it closed {fake.path} {where}")
    assert (error.fix, error.code) == ("holloway up -c node.toml", 3)


def test_a_silent_daemon_is_a_timeout_that_names_the_process(daemon: Callable[..., Any]) -> None:
    fake = daemon(None)
    begin = time.monotonic()
    error = failure(Daemon(fake.path), Patience(0.15))
    assert 0.1 < time.monotonic() - begin < 2
    assert error.what == "the daemon did not answer within 0.15 s"
    assert error.why == f"it holds {fake.path} but is busy or hung (process {os.getpid()})"
    assert error.code == 124


def test_a_stopped_daemon_is_told_with_the_command_that_wakes_it(
    daemon: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_client, "_is_stopped", lambda pid: pid == os.getpid())
    error = failure(Daemon(daemon(None).path), Patience(0.1))
    assert error.why == f"its process {os.getpid()} is stopped"
    assert (error.fix, error.code) == (f"kill -CONT {os.getpid()}", 124)


def test_whether_a_process_is_stopped_is_read_from_the_kernel(tmp_path: Path) -> None:
    import signal
    import subprocess

    with subprocess.Popen(["sleep", "30"]) as process:
        try:
            assert not control_client._is_stopped(process.pid)
            process.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, process.pid, os.WSTOPPED)
            assert control_client._is_stopped(process.pid)
        finally:
            process.kill()
    assert not control_client._is_stopped(process.pid)


def test_dripping_bytes_do_not_outlast_the_deadline(daemon: Callable[..., Any]) -> None:
    fake = daemon(b"", pieces=[b" "] * 200)
    begin = time.monotonic()
    assert failure(Daemon(fake.path), Patience(0.3)).code == 124
    assert time.monotonic() - begin < 2


def test_silence_between_lines_is_bounded_too(daemon: Callable[..., Any]) -> None:
    fake = daemon(None, pieces=[lines({"event": {}})])
    error = failure(Daemon(fake.path), Patience(60, line_s=0.1))
    assert (error.what, error.code) == ("the daemon did not answer within 0.1 s", 124)


def test_a_full_backlog_is_a_hung_daemon(tmp_path: Path) -> None:
    path = tmp_path / "full.sock"
    waiting = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen(0)
        for _ in range(3):
            client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            client.setblocking(False)
            client.connect_ex(str(path))
            waiting.append(client)
        error = failure(Daemon(path), Patience(0.1))
        for client in waiting:
            client.close()
    assert error.code == 124


def test_no_socket_and_a_dead_one_are_unreachable(tmp_path: Path) -> None:
    error = failure(Daemon(tmp_path / "none", "-c my.toml", "my.toml"))
    assert (error.what, error.why) == ("the daemon is not running", f"there is no socket {tmp_path / 'none'}")
    assert (error.fix, error.code) == ("holloway up -c my.toml", 3)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(tmp_path / "dead"))
    error = failure(Daemon(tmp_path / "dead"))
    assert (error.why, error.code) == (f"nobody listens at {tmp_path / 'dead'}", 3)
    assert failure(Daemon(tmp_path / ("x" * 200))).code == 3


def test_a_forbidden_socket_is_77(daemon: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    class Forbidden(socket.socket):
        def connect(self, address: object) -> None:
            raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket, "socket", Forbidden)
    error = failure(Daemon(Path("/run/x y.sock")))
    assert error.code == 77
    assert error.fix == "sudo holloway status --socket '/run/x y.sock'"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"what": "no peer x", "why": "3 peers", "fix": "holloway peers", "code": 1}, ("no peer x", "3 peers", 1)),
        ({"what": "slow", "why": "w", "fix": "f", "code": 124}, ("slow", "w", 124)),
        ({"what": "a\nb\x1b[2J", "why": "\u202ew", "fix": "f", "code": 0}, ("a b[2J", "w", 1)),
        ({"what": 5, "why": None, "fix": [], "code": "x"}, ("5", "the daemon did not say", 1)),
        ({"code": True}, ("the daemon did not say", "the daemon did not say", 1)),
        ({"code": 256}, ("the daemon did not say", "the daemon did not say", 1)),
    ],
)
def test_the_daemons_own_error_is_told_with_its_code(
    daemon: Callable[..., Any], content: dict[str, object], expected: tuple[str, str, int]
) -> None:
    error = failure(Daemon(daemon(lines({"error": content})).path))
    assert (error.what, error.why, error.code) == expected


def test_every_string_of_an_answer_is_stripped(daemon: Callable[..., Any]) -> None:
    fake = daemon(lines({"event": {"k\x1b": "v\x07"}}, {"result": {"a": ["\u202eb", {"c": "\x9bd"}]}}))
    events: list[object] = []
    assert ask(Daemon(fake.path), {"op": "x"}, Patience(), events.append) == {"a": ["b", {"c": "d"}]}
    assert events == [{"k": "v"}]


def test_a_command_to_paste_is_quoted_and_no_argument_becomes_an_option() -> None:
    daemon = Daemon(Path("/d.sock"), "-c 'my node.toml'")
    assert daemon.command("ping", "b") == "holloway ping -c 'my node.toml' b"
    assert daemon.command("ping", "$(rm)") == "holloway ping -c 'my node.toml' '$(rm)'"
    assert Daemon(Path("/d.sock")).command("ping", "--json") == "holloway ping -- --json"


# Which daemon is meant


def test_the_only_socket_in_the_default_folders_is_used(
    daemon: Callable[..., Any], holloway: Callable[..., Any], tmp_path: Path
) -> None:
    answer = lines({"result": status()})
    daemon(answer, path=tmp_path / "user" / "holloway" / "hw0.sock")
    (tmp_path / "user" / "holloway" / "note.txt").write_text("not a socket")
    (tmp_path / "user" / "holloway" / "file.sock").write_text("not a socket either")
    (tmp_path / "user" / "holloway" / "gone.sock").symlink_to("nowhere")
    assert holloway("status").code == 0
    daemon(answer, path=tmp_path / "system" / "hw1.sock")
    outcome = holloway("status")
    assert outcome.code == 2
    assert outcome.error[0] == "there is more than one daemon"
    assert outcome.error[2] == f"holloway status --socket {tmp_path / 'system' / 'hw1.sock'}"


def test_no_daemon_at_all_is_3_with_the_command_to_start_one(holloway: Callable[..., Any], tmp_path: Path) -> None:
    outcome = holloway("status")
    assert (outcome.code, outcome.out) == (3, "")
    assert outcome.error == [
        "the daemon is not running",
        f"there is no control socket in {tmp_path / 'system'} and {tmp_path / 'user' / 'holloway'}",
        "holloway up -c node.toml",
    ]


def test_folders_that_are_one_are_looked_at_once(
    daemon: Callable[..., Any], holloway: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets, "SYSTEM_FOLDER", tmp_path / "user" / "holloway")
    daemon(lines({"result": status()}), path=tmp_path / "user" / "holloway" / "hw0.sock")
    assert holloway("status").code == 0


def test_a_folder_that_may_not_be_read_is_77(holloway: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(folder: Path) -> object:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    outcome = holloway("peers")
    assert outcome.code == 77
    assert outcome.error[0] == "no daemon that this user may talk to"


def test_the_daemon_of_a_file_or_a_variable_is_used(
    daemon: Callable[..., Any], holloway: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = daemon(lines({"result": status()}))
    (tmp_path / "my node.toml").write_text('[control]\nsocket = "d.sock"\n[nonsense]\n')
    assert holloway("status", "-c", "my node.toml").code == 0
    monkeypatch.setenv("HOLLOWAY_CONTROL_SOCKET", str(fake.path))
    assert holloway("status").code == 0
    assert len(fake.requests) == 2
    outcome = holloway("status", "-c", "none.toml")
    assert outcome.code == 4
    assert outcome.error[1] == "none.toml: no such file"
