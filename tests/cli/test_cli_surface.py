"""The command as a whole: its verbs, its help, its misspellings, and what it imports and how long it takes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import pytest
from fake_daemon import lines, peer, status

from holloway.cli.main import VERBS

HOLLOWAY = [sys.executable, "-c", "from holloway.cli.main import main; main()"]
HEAVY = ("trio", "cryptography", "rich", "yaml", "pyroute2", "trio_asyncio", "asyncio")


@pytest.mark.parametrize("verb", list(VERBS))
def test_each_verb_says_in_its_help_what_the_list_says(verb: str) -> None:
    command = import_module(f"holloway.cli.{verb}").command
    assert isinstance(command, click.Command)
    assert command.get_short_help_str(200) == VERBS[verb]


def test_the_module_of_the_command_line_is_the_command_line() -> None:
    words = [sys.executable, "-m", "holloway.cli.main"]
    version = subprocess.run([*words, "--version"], capture_output=True, text=True, timeout=60, check=False)
    assert (version.returncode, version.stderr) == (0, "")
    assert version.stdout.startswith("holloway ")
    assert subprocess.run([*words, "staus"], capture_output=True, timeout=60, check=False).returncode == 2


def test_help_lists_every_verb_and_goes_to_stdout(holloway: Callable[..., Any]) -> None:
    outcome = holloway("--help")
    assert (outcome.code, outcome.err) == (0, "")
    for verb, text in VERBS.items():
        assert f"  {verb} " in outcome.out
        assert text in outcome.out
    assert holloway("-h").out == outcome.out


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ((), ["missing command", "holloway has: init, invite, join", "holloway --help"]),
        (("staus",), ["unknown verb staus", "holloway has: init, invite, join", "holloway status"]),
        (("PEER",), ["unknown verb PEER", "holloway has: ", "holloway peers"]),
        (("xyzzy",), ["unknown verb xyzzy", "holloway has: ", "holloway --help"]),
        (("x\x1b[2J",), ["unknown verb x[2J", "holloway has: ", "holloway --help"]),
        (("config",), ["missing command", "holloway config has: docs, show", "holloway config --help"]),
        (("config", "shw"), ["unknown verb shw", "holloway config has: docs, show", "holloway config show"]),
        (("status", "--jsn"), ["unknown option --jsn", "holloway status has no such option", "holloway status --json"]),
        (("status", "--qqq"), ["unknown option --qqq", "holloway status has no such option", "holloway status --help"]),
        (("--debgu",), ["unknown option --debgu", "holloway has no such option", "holloway --debug"]),
        (("ping",), ["missing argument 'PEER'", "the form is: holloway ping [OPTIONS] PEER", "holloway ping --help"]),
        (("ping", "b", "-n", "0"), ["invalid value for '-n'", "the form is: holloway ping", "holloway ping --help"]),
        (
            ("status", "-c", "a", "--socket", "b"),
            ["-c and --socket exclude each other", "the form is", "holloway status"],
        ),
        (("check",), ["name one configuration file", "the form is: holloway check", "holloway check --help"]),
        (("check", "a", "-c", "b"), ["name one configuration file", "the form is: holloway check", "holloway check"]),
        (
            ("completion", "tcsh"),
            ["invalid value for", "the form is: holloway completion", "holloway completion --help"],
        ),
        (
            ("config", "show"),
            ["missing option '-c'", "the form is: holloway config show", "holloway config show --help"],
        ),
    ],
)
def test_wrong_usage_is_three_lines_and_code_2(
    holloway: Callable[..., Any], words: tuple[str, ...], error: list[str]
) -> None:
    outcome = holloway(*words)
    assert (outcome.code, outcome.out) == (2, "")
    assert len(outcome.err.splitlines()) == 3
    for line, expected in zip(outcome.error, error, strict=True):
        assert line.startswith(expected)


def test_version_in_words_and_json(holloway: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    document = holloway("version", "--json").document
    assert document["schema"] == "holloway.version/1"
    assert holloway("version").out.startswith(f"holloway {document['version']}\n")
    monkeypatch.setattr("holloway.cli.version._PARTS", ("no-such-distribution",))
    assert holloway("version", "--json").document["parts"] == {"no-such-distribution": "unknown"}


def imported(script: str, *words: str) -> set[str]:
    """The heavy modules that running `holloway WORDS...` in a fresh process brings in."""
    code = (
        "import sys, json, os\n"
        f"from holloway.cli.main import run\n{script}\n"
        "code = run(sys.argv[1:])\n"
        f"print('MODULES', json.dumps([code, sorted(set({HEAVY!r}) & set(sys.modules))]), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words], check=False, capture_output=True, text=True, timeout=30, input=""
    )
    [last] = [line for line in done.stderr.splitlines() if line.startswith("MODULES")]
    code_number, modules = json.loads(last.removeprefix("MODULES"))
    assert code_number in (0, 1, 3, 4)
    return set(modules)


def test_quick_verbs_import_nothing_heavy(tmp_path: Path, daemon: Callable[..., Any]) -> None:
    config = tmp_path / "n.toml"
    config.write_text("[node]\n")
    fake = str(daemon(lines({"result": status(peer())})).path)
    assert imported("", "--help") == set()
    assert imported("", "version") == set()
    assert imported("", "status", "--socket", fake, "--json") == set()
    assert imported("", "status", "--socket", fake) == {"rich"}
    assert imported("", "status", "-c", str(config)) == set()
    assert imported("", "ping", "b", "--socket", str(tmp_path / "none")) == set()
    assert imported("", "peers", "--socket", str(tmp_path / "none")) == set()
    assert imported("", "check", str(config)) == set()
    assert imported("", "config", "docs") == set()
    assert imported("", "completion", "zsh") == set()
    assert imported("", "keygen") == {"cryptography"}
    assert imported("", "pubkey") == {"cryptography"}


def test_completing_a_verb_imports_no_verb() -> None:
    # Called as a shell calls it, but in a process that then tells what it has loaded.
    code = (
        "import sys\nfrom holloway.cli.main import run\n"
        "sys.exit = lambda code: (_ for _ in ()).throw(SystemExit(code))\n"
        "run([])\nloaded = [name for name in sys.modules if name.startswith('holloway.cli.')]\n"
        "print(sorted(loaded))"
    )
    environ = os.environ | {"_HOLLOWAY_COMPLETE": "bash_complete", "COMP_WORDS": "holloway st", "COMP_CWORD": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, env=environ, timeout=30
    )
    assert "plain,status" in done.stdout
    assert "holloway.cli.up" not in done.stdout
    assert "holloway.cli.status" not in done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_are_what_their_shell_accepts(holloway: Callable[..., Any], shell: str) -> None:
    outcome = holloway("completion", shell)
    assert outcome.code == 0
    assert "_HOLLOWAY_COMPLETE" in outcome.out
    if program := shutil.which(shell):
        subprocess.run([program, "-n"], input=outcome.out, text=True, check=True, timeout=10)


def completions(environ: dict[str, str], *words: str) -> list[str]:
    """What bash would be offered for the last of `words`."""
    variables = {
        "_HOLLOWAY_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(words),
        "COMP_CWORD": str(len(words) - 1),
    }
    done = subprocess.run(
        HOLLOWAY, check=False, capture_output=True, text=True, env=os.environ | environ | variables, timeout=30
    )
    assert done.stderr == ""
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


def test_peers_are_completed_from_the_daemon(daemon: Callable[..., Any]) -> None:
    fake = daemon(lines({"result": status(peer("berlin"), peer("bonn\x1b[2J"), peer("paris"))}))
    environ = {"HOLLOWAY_CONTROL_SOCKET": str(fake.path)}
    assert completions(environ, "holloway", "ping", "b") == ["berlin", "bonn[2J"]


def test_completion_without_a_daemon_offers_nothing(tmp_path: Path) -> None:
    assert completions({"HOLLOWAY_CONTROL_SOCKET": str(tmp_path / "none")}, "holloway", "ping", "b") == []


def test_a_closed_pipe_is_quiet() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [*HOLLOWAY, "config", "docs"], check=False, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=30
        )
    finally:
        os.close(writer)
    assert done.stderr == ""
    assert done.returncode == 1


def test_text_that_the_locale_cannot_print_is_escaped_not_fatal(tmp_path: Path) -> None:
    config = tmp_path / "n.toml"
    config.write_text('["nöde"]\nname = "ü"\n', encoding="utf-8")
    environ = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run([*HOLLOWAY, "check", str(config)], check=False, capture_output=True, env=environ, timeout=30)
    assert done.returncode == 4
    assert b"n\\xf6de: unknown section" in done.stdout
    assert b"Traceback" not in done.stderr


def test_help_and_status_load_nothing_that_is_slow(daemon: Callable[..., Any]) -> None:
    """They answer at once because of what they leave alone; times themselves say little on a busy machine."""
    fake = str(daemon(lines({"result": status(peer())})).path)
    for words in (["--help"], ["status", "--json", "--socket", fake]):
        done = subprocess.run(
            [sys.executable, "-X", "importtime", *HOLLOWAY[1:], *words], capture_output=True, check=True, timeout=30
        )
        loaded = {line.rpartition(b"|")[2].strip().partition(b".")[0] for line in done.stderr.splitlines()}
        assert b"click" in loaded
        assert not loaded & {b"trio", b"cryptography", b"pyroute2", b"asyncio"}, words
