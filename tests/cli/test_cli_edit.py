"""`holloway edit`: the editor and whatever it leaves, what is refused, and that nothing is lost and nothing left behind."""

from __future__ import annotations

import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from control_thread import Plane

from holloway.actors.control_plane import broker_commands
from holloway.protocols.errors import LocalError


@pytest.fixture
def ask(
    plane: Plane, holloway: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., Any]:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # what an edit keeps stays here
    monkeypatch.delenv("VISUAL", raising=False)
    plane.settle()
    return holloway


def stored(plane: Plane, application: str) -> Path:
    return plane.world.root / "files" / "applications" / application / "config.yml"


def left(tmp_path: Path) -> list[Path]:
    """The folders of edits that are still there."""
    return list(tmp_path.glob("holloway-edit-*"))


def editor(script: str) -> str:
    """An editor that runs some Python with the file's name as `path`."""
    Path("editor.py").write_text(f"import sys, pathlib\npath = pathlib.Path(sys.argv[1])\n{script}\n")
    return f"{sys.executable} {Path('editor.py').absolute()}"


def test_edit_writes_what_the_editor_left(
    ask: Callable[..., Any], plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VISUAL", editor("assert 'shop' in path.read_text(); path.write_text('size: 3\\n')"))
    first = ask("edit", "-a", "shop")
    assert first.code == 0, first.err
    assert stored(plane, "shop").read_text() == "size: 3\n"
    monkeypatch.setenv("VISUAL", editor("assert path.read_text() == 'size: 3\\n'"))
    assert "nothing was changed" in ask("edit", "-a", "shop").err
    assert ask("sync", "-t", "web1", "applications/shop").code == 0
    synced = plane.world.root.parent / "agent-web1" / "files" / "applications" / "shop"
    assert [(each.name, each.read_text()) for each in synced.iterdir()] == [("config.yml", "size: 3\n")]


def test_what_is_no_yaml_is_refused_and_kept(
    ask: Callable[..., Any], plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDITOR", editor("path.write_text('a: [1\\n')"))
    outcome = ask("edit", "-a", "bad")
    assert outcome.code == 1
    assert outcome.error[0] == "it is not YAML"
    assert outcome.error[1].startswith("line 2, column 1: ")
    [kept] = [line.rpartition(" ")[2] for line in outcome.err.splitlines() if "is kept in" in line]
    assert Path(kept).read_text() == "a: [1\n"
    assert not (plane.world.root / "files" / "applications" / "bad").exists()


def test_what_is_typed_while_the_editor_runs_is_for_the_editor(
    ask: Callable[..., Any], plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = """
import os, signal
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler, 'it may be interrupted itself'
assert signal.getsignal(signal.SIGQUIT) is signal.SIG_DFL
[caught] = [line for line in open(f'/proc/{os.getppid()}/status') if line.startswith('SigCgt')]
assert int(caught.split()[1], 16) >> (signal.SIGQUIT - 1) & 1, 'whoever waits for it would end'
os.kill(os.getppid(), signal.SIGINT)
path.write_text('typed: 1\\n')
"""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGQUIT: signal.SIG_DFL}
    before = {
        each: signal.signal(each, handler) for each, handler in usual.items()
    }  # in the background they are ignored
    try:
        monkeypatch.setenv("EDITOR", editor(script))
        outcome = ask("edit", "-a", "typed")
        assert outcome.code == 0, outcome.err
        assert stored(plane, "typed").read_text() == "typed: 1\n"
        assert {each: signal.getsignal(each) for each in usual} == usual
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def test_what_an_editor_leaves_beside_the_file_is_removed_with_it(
    ask: Callable[..., Any], plane: Plane, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    beside = "pathlib.Path(f'{path}~').write_text('old'); (path.parent / 'd').mkdir(); path.write_text('b: 1\\n')"
    monkeypatch.setenv("EDITOR", editor(beside))
    outcome = ask("edit", "-a", "backup")
    assert outcome.code == 0, outcome.err
    assert stored(plane, "backup").read_text() == "b: 1\n"
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    ("script", "what", "why", "is_kept"),
    [
        ("path.unlink()", "the editor removed the file", "any more", False),
        ("path.unlink(); path.mkdir()", "what the editor left cannot be read", "is a folder now", True),
        ("import os; path.unlink(); os.mkfifo(path)", "what the editor left cannot be read", "no regular file", True),
        ("path.unlink(); path.symlink_to('/etc/hosts')", "what the editor left cannot be read", "symbolic link", True),
        ("path.rename(f'{path}~')", "the editor removed the file", "any more", True),
        ("sys.exit(3)", "the editor failed", "its code is 3", False),
        ("path.write_text('a: 1'); sys.exit(3)", "the editor failed", "its code is 3", True),
        ("import os; os.kill(os.getpid(), 9)", "the editor failed", "signal 9 ended it", False),
        ("path.write_bytes(b'#' * (1 << 22))", "the configuration is too large", "it has more than", True),
    ],
)
def test_what_an_editor_leaves_is_told_truthfully_and_kept_when_it_is_something(
    ask: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    script: str,
    what: str,
    why: str,
    is_kept: bool,
) -> None:
    monkeypatch.setenv("EDITOR", editor(script))
    outcome = ask("edit", "-a", "odd")
    assert (outcome.code, outcome.error[0]) == (1, what)
    assert why in outcome.error[1]
    assert ("is kept in" in outcome.err) is is_kept
    assert len(left(tmp_path)) == is_kept


@pytest.mark.parametrize(
    ("editor", "what", "why"),
    [
        ('vi "', "no editor can be started", "no closing quotation"),
        ("  ", "no editor can be started", "only blanks"),
        ("/no/such/editor -x", "the editor cannot be started", "No such file"),
    ],
)
def test_an_editor_that_is_none_is_told(
    ask: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, editor: str, what: str, why: str
) -> None:
    monkeypatch.setenv("EDITOR", editor)
    outcome = ask("edit", "-a", "none")
    assert (outcome.code, outcome.error[0]) == (1, what)
    assert why in outcome.error[1]
    assert "is kept" not in outcome.err
    assert left(tmp_path) == []


def test_without_what_checks_yaml_nobody_writes_anything(
    ask: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("EDITOR", editor("pathlib.Path(path.parent.parent / 'was-started').touch()"))

    def missing(text: bytes) -> None:
        raise LocalError("YAML cannot be checked", "not at the broker")

    with monkeypatch.context() as patch:
        patch.setattr(broker_commands, "require_yaml", missing)
        outcome = ask("edit", "-a", "unchecked")
        assert outcome.code == 1
        assert "not at the broker" in outcome.error[1]
    monkeypatch.setitem(sys.modules, "yaml", None)
    outcome = ask("edit", "-a", "unchecked")
    assert (outcome.code, outcome.error[0]) == (1, "YAML cannot be checked")
    assert not (tmp_path / "was-started").exists()


def test_two_who_edit_at_once_do_not_overwrite_each_other(
    ask: Callable[..., Any], plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = stored(plane, "both")
    other = f"p = pathlib.Path({str(config)!r}); p.parent.mkdir(parents=True); p.write_text('his: 1\\n')"
    monkeypatch.setenv("VISUAL", editor(f"{other}; path.write_text('mine: 1\\n')"))
    outcome = ask("edit", "-a", "both")
    assert outcome.code == 1
    assert "is another one now" in outcome.error[1]
    assert config.read_text() == "his: 1\n"
    [kept] = [line.rpartition(" ")[2] for line in outcome.err.splitlines() if "is kept in" in line]
    assert Path(kept).read_text() == "mine: 1\n"


def test_the_broker_checks_yaml_itself(ask: Callable[..., Any], plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    from holloway.cli import edit

    monkeypatch.setattr(edit, "_edited", lambda editor, path: b"a: [1\n")
    outcome = ask("edit", "-a", "worse")
    assert (outcome.code, outcome.error[0]) == (1, "the broker refuses")
    assert "it is not YAML" in outcome.error[1]


def test_an_operator_cannot_edit_by_a_name_that_leads_out(ask: Callable[..., Any]) -> None:
    outcome = ask("edit", "-a", "../../security/curve/server_keys")
    assert outcome.code == 1
    assert "is no application" in outcome.error[1]
