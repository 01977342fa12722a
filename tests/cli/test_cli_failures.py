"""Every failure is three lines and an exit code; text from elsewhere cannot deceive a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from holloway.actors.config import ConfigProblems, Problem
from holloway.cli import failures, main
from holloway.cli.exit_codes import ExitCode
from holloway.cli.failures import CommandFailedError, explain
from holloway.cli.plain_text import one_line, strip_controls, strip_json
from holloway.protocols.errors import ConfigError, LocalError, TunError

BIDI = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c"


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "lines", "code"),
    [
        (CommandFailedError("what", "why", "fix", 3), ["error: what", "why:   why", "fix:   fix"], 3),
        (
            LocalError("not a key", "too short", "paste it"),
            ["error: not a key", "why:   too short", "fix:   paste it"],
            1,
        ),
        (ConfigError("bad", "reason", "mend"), ["error: bad", "why:   reason", "fix:   mend"], 4),
        (
            caused(TunError("no device", "EPERM", "sudo"), PermissionError(1, "no")),
            ["error: no device", "why:   EPERM", "fix:   sudo"],
            77,
        ),
        (
            caused(ConfigError("bad"), PermissionError(13, "no")),
            ["error: bad", "why:   [Errno 13] no", "fix:   holloway --debug … shows more"],
            77,
        ),
        (
            PermissionError(13, "Permission denied", "/x"),
            ["error: the system refused", "why:   Permission denied (/x)", "fix:   run it as a user who may"],
            77,
        ),
        (
            FileNotFoundError(2, "No such file or directory", "/x"),
            [
                "error: the system refused",
                "why:   No such file or directory (/x)",
                "fix:   holloway --debug … shows where",
            ],
            1,
        ),
        (
            TimeoutError(),
            ["error: the system refused", "why:   TimeoutError", "fix:   holloway --debug … shows where"],
            124,
        ),
        (
            ZeroDivisionError("by zero"),
            [
                "error: unexpected ZeroDivisionError",
                "why:   by zero",
                "fix:   run it again as: holloway --debug … and report what it prints",
            ],
            1,
        ),
        (KeyError(), ["error: unexpected KeyError", "why:   no message: this is a defect of holloway"], 1),
        (KeyboardInterrupt(), [], 130),
        (click.Abort(), [], 130),
        (click.ClickException("odd"), ["error: odd", "why:   click refused it", "fix:   holloway --help"], 1),
    ],
)
def test_each_kind_of_failure_has_its_lines_and_code(error: BaseException, lines: list[str], code: int) -> None:
    explanation = explain(error)
    assert list(explanation.lines)[: len(lines)] == lines
    assert len(explanation.lines) == (3 if lines else 0)
    assert explanation.code == code


def test_groups_are_told_by_their_leaves_each_once() -> None:
    leaf = CommandFailedError("one", "why", "fix")
    error = ExceptionGroup("outer", [ExceptionGroup("inner", [leaf, leaf]), TunError("two", "EPERM", "sudo")])
    assert explain(error).lines == (
        "error: one",
        "why:   why",
        "fix:   fix",
        "error: two",
        "why:   EPERM",
        "fix:   sudo",
    )


def test_the_exact_code_of_a_leaf_wins_and_an_interruption_wins_over_all() -> None:
    plain, exact = LocalError("a", "b", "c"), CommandFailedError("x", "y", "z", 77)
    assert explain(ExceptionGroup("", [plain, exact])).code == 77
    assert explain(ExceptionGroup("", [plain])).code == 1
    interrupted = explain(BaseExceptionGroup("", [exact, KeyboardInterrupt()]))
    assert (interrupted.lines, interrupted.code) == ((), 130)


def test_a_crowd_of_failures_is_counted_not_listed() -> None:
    crowd = ExceptionGroup("", [LocalError(f"e{number}", "w", "f") for number in range(8)])
    lines = explain(crowd).lines
    assert len(lines) == failures.MAX_CAUSES * 3 + 1
    assert lines[-1] == "(3 more failures; holloway --debug shows them)"


def test_problems_of_a_configuration_are_all_listed_before_the_three_lines() -> None:
    problems = [Problem(Path("n.toml"), line, "node.name", "wrong", "mend it") for line in (1, 2)]
    explanation = explain(ConfigProblems(problems, Path("n.toml")))
    assert explanation.lines == (
        "n.toml:1: node.name: wrong; mend it",
        "n.toml:2: node.name: wrong; mend it",
        "error: n.toml cannot be used: 2 problems",
        "why:   n.toml:1: node.name: wrong; and more",
        "fix:   holloway check n.toml",
    )
    assert explanation.code == ExitCode.CONFIG


def test_hostile_text_in_an_exception_is_one_harmless_line() -> None:
    lines = explain(CommandFailedError("a\nb\x1b[2J", f"x{BIDI}y\r\nerror: fake", "\x9b31m" + "z" * 9999)).lines
    assert lines[0] == "error: a b[2J"
    assert lines[1] == "why:   xy error: fake"
    assert len(lines[2]) == len("fix:   ") + 500


@given(st.text())
@example("\x1b[31mred\x07")
@example(BIDI + "\u2028\u2029\ud800\u200b\ufeff")
def test_stripped_text_has_nothing_a_terminal_obeys(text: str) -> None:
    stripped = strip_controls(text)
    assert all(character.isprintable() or character in "\u00a0\u3000" or character.isspace() for character in stripped)
    assert not set(stripped) & set(BIDI + "\n\r\t\x1b\x00\x7f\x85\x9b\u2028\u2029")
    assert strip_controls(stripped) == stripped
    assert len(one_line(text, 10)) <= 10


@pytest.mark.parametrize("text", ["node-b", "Zürich", "日本", "naïve café", "🌳", "a\u00a0b"])
def test_honest_text_is_left_alone(text: str) -> None:
    assert strip_controls(text) == text


def test_every_string_and_key_of_a_tree_is_stripped() -> None:
    tree: Any = {"a\x1b": ["x\x07", {"b": "y\u202e"}, 1, None, True, 1.5]}
    assert strip_json(tree) == {"a": ["x", {"b": "y"}, 1, None, True, 1.5]}


def failing_command(error: BaseException) -> click.Command:
    @click.command()
    def command() -> None:
        raise error

    return command


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Makes `holloway version` raise."""

    def install(error: BaseException) -> None:
        monkeypatch.setattr("holloway.cli.version.command", failing_command(error))

    return install


def test_a_traceback_is_shown_with_debug_only(
    failing: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]
) -> None:
    failing(ZeroDivisionError("by zero"))
    assert main.run(["version"]) == 1
    quiet = capsys.readouterr().err
    assert main.run(["--debug", "version"]) == 1
    loud = capsys.readouterr().err
    assert "Traceback" not in quiet
    assert len(quiet.splitlines()) == 3
    assert "Traceback" in loud
    assert loud.endswith(quiet)


@pytest.mark.parametrize(
    ("error", "code"),
    [(KeyboardInterrupt(), 130), (SystemExit(130), 130), (SystemExit("text"), 1), (click.Abort(), 130)],
)
def test_an_interruption_is_quiet(
    failing: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str], error: BaseException, code: int
) -> None:
    failing(error)
    assert main.run(["version"]) == code
    assert capsys.readouterr().err.strip() == ""


def test_a_reader_that_has_gone_is_no_traceback(failing: Callable[[BaseException], None], capfd: Any) -> None:
    failing(BrokenPipeError(32, "Broken pipe"))
    saved = os.dup(1)
    try:
        assert main.run(["version"]) == 1
    finally:
        os.dup2(saved, 1)
        os.close(saved)
    assert capfd.readouterr().err == ""


def test_main_exits_with_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["holloway", "no-such-verb"])
    with pytest.raises(SystemExit) as raised:
        main.main()
    assert raised.value.code == 2
