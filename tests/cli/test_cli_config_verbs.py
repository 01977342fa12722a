"""`check`, `config`, `keygen` and `pubkey`."""

from __future__ import annotations

import base64
import io
import json
import os
import stat
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from holloway.protocols.keys import StaticKey, clamp, decode_key

ROOT = Path(__file__).parents[2]
PUBLIC = base64.b64encode(StaticKey(bytes(range(32))).public).decode()
SOUND = f"""\
[node]
name = "a"
[interface]
name = "hw0"
addresses = ["10.99.0.1/24"]
[session]
private_key_file = "a.key"
[[peer]]
name = "b"
public_key = "{PUBLIC}"
allowed = ["10.99.0.2/32"]
"""

HOST_BITS = (
    'node.toml:12: peer[0].allowed[0]: "10.99.0.2/24" has host bits set; '
    'write "10.99.0.0/24", or "10.99.0.2/32" for that address alone'
)
NOT_A_NAME = (
    'node.toml:2: node.name: "a b" is not a name; '
    "use 1 to 63 letters, digits, dots, dashes and underscores, the first a letter or digit"
)


def valid(verb: str, document: Any) -> None:
    schema = json.loads((ROOT / "docs" / "schemas" / f"holloway.{verb}.json").read_text())
    Draft202012Validator.check_schema(schema)
    Draft202012Validator(schema).validate(document)


@pytest.fixture
def node(tmp_path: Path, holloway: Callable[..., Any]) -> Path:
    """A sound configuration with its key; the working folder is its own."""
    assert holloway("keygen", "--output", "a.key").code == 0
    path = tmp_path / "node.toml"
    path.write_text(SOUND)
    return path


# check


def test_a_sound_file_says_what_was_checked(node: Path, holloway: Callable[..., Any]) -> None:
    outcome = holloway("check", "node.toml")
    assert (outcome.code, outcome.err) == (0, "")
    first, second, third = outcome.out.splitlines()
    assert first == "node.toml: ok"
    assert second.endswith(" settings, 1 static peer")
    assert third == "  secrets: a.key, closed to others"
    assert holloway("check", "-c", "node.toml").out == outcome.out


def test_three_mistakes_are_named_with_line_and_remedy(node: Path, holloway: Callable[..., Any]) -> None:
    text = SOUND.replace('name = "hw0"', 'name = "hw0"\nmtuu = 1400').replace('"10.99.0.2/32"', '"10.99.0.2/24"')
    node.write_text(text + "[listen]\nport = 70000\n")
    outcome = holloway("check", "node.toml")
    assert outcome.code == 4
    assert outcome.err == ""
    assert outcome.out.splitlines() == [
        "node.toml:5: interface.mtuu: unknown key; did you mean mtu?",
        HOST_BITS,
        "node.toml:14: listen.port: 70000 is above 65535; use 0 to 65535",
        "3 problems",
    ]


def test_secrets_are_looked_at_beside_other_mistakes(node: Path, holloway: Callable[..., Any]) -> None:
    (node.parent / "a.key").chmod(0o644)
    node.write_text(SOUND.replace('name = "a"', 'name = "a b"'))
    assert holloway("check", "node.toml").out.splitlines() == [
        NOT_A_NAME,
        "node.toml:7: session.private_key_file: a.key has mode 0644, so others may use it; chmod 600 a.key",
        "2 problems",
    ]
    node.write_text(SOUND)
    outcome = holloway("check", "node.toml")
    assert (outcome.code, outcome.out.splitlines()[-1]) == (4, "1 problem")


def test_our_own_key_as_a_peer_is_found(node: Path, holloway: Callable[..., Any]) -> None:
    own = StaticKey(decode_key((node.parent / "a.key").read_text().strip())).public
    node.write_text(SOUND.replace(PUBLIC, base64.b64encode(own).decode()))
    assert holloway("check", "node.toml").out.startswith(
        "node.toml:10: peer[0].public_key: this is the node's own public key; "
    )


def test_check_in_json(node: Path, holloway: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    sound = holloway("check", "node.toml", "--json")
    assert sound.code == 0
    valid("check", sound.document)
    assert sound.document["ok"] is True
    assert sound.document["checked"]["secrets"] == ["a.key"]
    node.write_text(SOUND + "[x]\n")
    monkeypatch.setenv("HOLLOWAY_LISTEN_PORT", "x")
    wrong = holloway("check", "node.toml", "--json")
    assert wrong.code == 4
    valid("check", wrong.document)
    assert [(each["file"], each["line"], each["key"]) for each in wrong.document["problems"]] == [
        ("node.toml", 12, "x"),
        (None, None, "HOLLOWAY_LISTEN_PORT"),
    ]
    node.write_text("x =")
    broken = holloway("check", "node.toml", "--json")
    valid("check", broken.document)
    assert broken.document["problems"][0]["key"] == ""


def test_a_file_that_is_not_there_or_not_ours_to_read(
    holloway: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = holloway("check", "none.toml")
    assert (outcome.code, outcome.err) == (4, "")
    assert outcome.out == "none.toml: no such file; create it, or name another with -c FILE\n1 problem\n"

    def refuse(self: Path, mode: str) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    outcome = holloway("check", "secret.toml")
    assert outcome.code == 77
    assert outcome.out.startswith("secret.toml: cannot be read: Permission denied; ")


def test_a_hostile_file_prints_no_control_character(node: Path, holloway: Callable[..., Any]) -> None:
    node.write_text('"\\u001b[2J\\u202e" = 1\n[node]\nname = "\\u001b]0;x\\u0007"\n["\\u2028"]\n')
    outcome = holloway("check", "node.toml")
    assert not set(outcome.out) & set("\x1b\x07\u202e\u2028")
    assert outcome.out.splitlines()[-1] == f"{len(outcome.out.splitlines()) - 1} problems"


# config


def test_config_show_prints_toml_that_means_the_same(node: Path, holloway: Callable[..., Any], tmp_path: Path) -> None:
    shown = holloway("config", "show", "-c", "node.toml").out
    (tmp_path / "shown.toml").write_text(shown)
    assert holloway("config", "show", "-c", "shown.toml").out == shown
    assert tomllib.loads(shown)["peer"] == [
        {
            "name": "b",
            "public_key": PUBLIC,
            "allowed": ["10.99.0.2/32"],
            "suite": "aes-gcm",
            "keepalive_s": 0,
            "plain_dtls": False,
        }
    ]
    with_origin = holloway("config", "show", "-c", "node.toml", "--origin").out
    assert tomllib.loads(with_origin) == tomllib.loads(shown)


def test_config_show_tells_origins(node: Path, holloway: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLLOWAY_LISTEN_PORT", "7")
    shown = holloway("config", "show", "-c", "node.toml", "--origin").out.splitlines()
    told = {line.partition(" = ")[0]: line.rpartition("# ")[2] for line in shown}
    assert told["port"] == "HOLLOWAY_LISTEN_PORT"
    assert told["addresses"] == "node.toml:5"
    assert told["offloads"] == "default"
    document = holloway("config", "show", "-c", "node.toml", "--json").document
    valid("config", document)
    settings = {each["key"]: (each["value"], each["source"], each["origin"]) for each in document["settings"]}
    assert settings["listen.port"] == (7, "environment", "HOLLOWAY_LISTEN_PORT")
    assert settings["interface.addresses"] == (["10.99.0.1/24"], "file", "node.toml:5")
    assert settings["session.private_key_file"] == ("a.key", "file", "node.toml:7")
    assert settings["peer[0].endpoint"] == (None, "default", None)


def test_config_show_never_shows_a_secret(node: Path, holloway: Callable[..., Any]) -> None:
    secret = (node.parent / "a.key").read_text().strip()
    for words in ((), ("--origin",), ("--json",)):
        assert secret not in holloway("config", "show", "-c", "node.toml", *words).out


def test_config_show_of_a_wrong_file_is_code_4_with_all_problems(node: Path, holloway: Callable[..., Any]) -> None:
    node.write_text(SOUND + "[x]\n[y]\n")
    outcome = holloway("config", "show", "-c", "node.toml")
    assert (outcome.code, outcome.out) == (4, "")
    assert [line.partition(";")[0] for line in outcome.err.splitlines()[:2]] == [
        "node.toml:12: x: unknown section",
        "node.toml:13: y: unknown section",
    ]
    assert outcome.error == [
        "node.toml cannot be used: 2 problems",
        "node.toml:12: x: unknown section; and more",
        "holloway check node.toml",
    ]


def test_config_docs_is_the_file_in_docs(holloway: Callable[..., Any]) -> None:
    assert holloway("config", "docs").out == (ROOT / "docs" / "config.md").read_text()


def test_version_in_json_fits_its_schema(holloway: Callable[..., Any]) -> None:
    valid("version", holloway("version", "--json").document)


# keygen and pubkey


def pubkey(holloway: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, data: bytes) -> Any:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    return holloway("pubkey")


def test_keygen_prints_a_clamped_key_and_another_each_time(holloway: Callable[..., Any]) -> None:
    first, second = holloway("keygen"), holloway("keygen")
    assert (first.code, first.err) == (0, "")
    key = decode_key(first.out.strip())
    assert key == clamp(key)
    assert first.out != second.out


def test_pubkey_prints_the_public_key(holloway: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    # RFC 7748, section 6.1: Alice's pair.
    private = bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
    public = bytes.fromhex("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a")
    outcome = pubkey(holloway, monkeypatch, base64.b64encode(private) + b"\n")
    assert (outcome.code, outcome.err) == (0, "")
    assert decode_key(outcome.out.strip()) == public


@pytest.mark.parametrize("data", [b"", b"\n", b"x", b"\xff" * 44, b"A" * 2000, b"hunter2hunter2\n"])
def test_a_bad_key_on_stdin_is_three_lines_that_do_not_repeat_it(
    holloway: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    outcome = pubkey(holloway, monkeypatch, data)
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.error[0] == "no private key on stdin"
    assert outcome.error[2] == "holloway pubkey < node.key"
    assert "hunter2" not in outcome.err
    if not data.strip():
        assert outcome.error[1] == "stdin was empty"


def test_keygen_into_a_file_is_private_and_never_overwrites(holloway: Callable[..., Any], tmp_path: Path) -> None:
    previous = os.umask(0)
    try:
        outcome = holloway("keygen", "-o", "n.key")
    finally:
        os.umask(previous)
    path = tmp_path / "n.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    text = path.read_text()
    assert decode_key(outcome.out.strip()) == StaticKey(decode_key(text.strip())).public
    again = holloway("keygen", "-o", "n.key")
    assert (again.code, again.out) == (1, "")
    assert again.error[0] == "n.key exists already"
    assert path.read_text() == text


def test_keygen_where_nothing_can_be_written_is_three_lines(holloway: Callable[..., Any]) -> None:
    outcome = holloway("keygen", "-o", "no/such/folder/n.key")
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.error[:2] == ["the system refused", "No such file or directory (no/such/folder/n.key)"]


def test_keygen_warns_about_a_screen(holloway: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holloway.cli.keygen.sys.stdout.isatty", lambda: True)
    outcome = holloway("keygen")
    assert outcome.code == 0
    assert outcome.err.splitlines() == [
        "warning: the key is shown on the screen",
        "  try: (umask 077; holloway keygen > node.key)",
    ]


@pytest.mark.parametrize(("mode", "warned"), [(0o644, True), (0o600, False)])
def test_keygen_warns_about_a_file_that_others_may_read(tmp_path: Path, mode: int, warned: bool) -> None:
    path = tmp_path / "my key"
    path.touch()
    path.chmod(mode)
    code = "from holloway.cli.main import main; main(['keygen'])"
    with path.open("wb") as file:
        done = subprocess.run([sys.executable, "-c", code], stdout=file, stderr=subprocess.PIPE, text=True, check=True)
    expected = ["warning: the key goes into a file that others may use", f"  try: chmod 600 '{path}'"]
    assert done.stderr.splitlines() == (expected if warned else [])
    assert len(path.read_text()) == 45
