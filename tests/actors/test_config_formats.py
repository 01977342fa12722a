"""The three formats of a configuration file: the same meaning, lines in each, and files that cannot be read at all."""

from __future__ import annotations

import json
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from holloway.actors.config import ConfigProblems, examine_config, load_config
from holloway.actors.config.documents import MAX_FILE_BYTES

KEY = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
TOML = f"""\
[node]
name = "a"
[interface]
name = "hw0"
addresses = ["10.99.0.1/24", "fd99::1/64"]
[session]
private_key_file = "a.key"
rekey_after_s = 90.5
[[peer]]
name = "b"
public_key = "{KEY}"
allowed = ["10.99.0.2/32"]
keepalive_s = 25
"""
YAML = f"""\
node:
  name: a
interface:
  name: hw0
  addresses: [10.99.0.1/24, fd99::1/64]
session:
  private_key_file: a.key
  rekey_after_s: 90.5
peer:
  - name: b
    public_key: {KEY}
    allowed:
      - 10.99.0.2/32
    keepalive_s: 25
"""


def write(tmp_path: Path, name: str, text: str | bytes) -> Path:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def told(path: Path) -> list[tuple[int | None, str, str]]:
    """Line, key and what, of every problem."""
    try:
        problems = examine_config(path).problems
    except ConfigProblems as error:
        problems = error.problems
    assert all(each.path == path for each in problems)
    assert all(each.fix for each in problems)
    return [(each.line, each.key, each.what) for each in problems]


def test_toml_yaml_and_json_mean_the_same(tmp_path: Path) -> None:
    toml = load_config(write(tmp_path, "n.toml", TOML))
    for name, text in (
        ("n.yaml", YAML),
        ("n.YML", YAML),
        ("n.json", json.dumps(tomllib.loads(TOML))),
        ("bom.toml", "\ufeff" + TOML),
        ("crlf.toml", TOML.replace("\n", "\r\n")),
    ):
        other = load_config(write(tmp_path, name, text))
        assert other.peers == toml.peers
        assert other.session == toml.session
        assert (other.node, other.interface, other.listen) == (toml.node, toml.interface, toml.listen)
    assert toml.session.timers.rekey_after_s == 90.5
    assert toml.peers[0].keepalive_s == 25


@pytest.mark.parametrize(
    ("name", "text", "line", "key"),
    [
        ("n.yaml", YAML.replace("name: hw0", "name: hw0\n  mtuu: 1"), 5, "interface.mtuu"),
        ("n.yaml", YAML.replace("- 10.99.0.2/32", "- 10.99.0.2/32\n      - x"), 14, "peer[0].allowed[1]"),
        ("n.yaml", YAML.replace("name: a", "name: on"), 2, "node.name"),
        ("n.yaml", YAML.replace("  - name: b", "  - name: b\n    name: c"), 11, "peer[0].name"),
        ("n.json", json.dumps(tomllib.loads(TOML.replace("25", "70000")), indent=1), 23, "peer[0].keepalive_s"),
        ("n.json", '{"node": {"name": "a",\n"name": "b"}}', 2, "node.name"),
    ],
)
def test_problems_of_yaml_and_json_have_lines_too(tmp_path: Path, name: str, text: str, line: int, key: str) -> None:
    assert (line, key) in [(number, path) for number, path, _ in told(write(tmp_path, name, text))]


def test_a_key_written_twice_names_the_first_line(tmp_path: Path) -> None:
    path = write(tmp_path, "n.yaml", YAML.replace("  name: a", "  name: a\n  network: x\n  name: z"))
    assert told(path) == [(4, "node.name", "written twice, first on line 2")]


@pytest.mark.parametrize(
    ("name", "text", "line", "what"),
    [
        ("n.toml", "[node]\nname = \n", 2, "syntax error at column 8: Invalid value"),
        ("n.toml", "[node]\nname = 'a'\nname = 'b'\n", 3, "syntax error at column 11: Cannot overwrite a value"),
        ("n.toml", "[node\n", 1, "syntax error at column 6"),
        ("n.toml", '[node]\nname = """a\n', 2, "syntax error at the end of the file"),
        ("n.toml", f"a = {'9' * 5000}", None, "unreadable value"),
        ("n.toml", "a = " + "[" * 5000 + "]" * 5000, None, "nested too deeply"),
        ("n.json", '{"node":\n {"name" "a"}}', 2, "syntax error at column 10"),
        ("n.json", "[1]", 1, "not a mapping of sections"),
        ("n.json", "[" * 100_000, None, "nested too deeply"),
        ("n.json", f'{{"a": {"9" * 5000}}}', None, "unreadable value"),
        ("n.yaml", "node:\n  name: [a\n", 3, "syntax error at column 1"),
        ("n.yaml", "node: &x\n  name: a\nlisten: *x\n", 3, "an alias (*name) is not accepted"),
        ("n.yaml", "a: &x [1]\nb:\n  - *x", 2, "an alias"),
        ("n.yaml", "node:\n  name: !!python/object:os.system x\n", 2, "could not determine a constructor"),
        ("n.yaml", "node:\n  ? [a]\n  : 1\n", 2, "a key is not text"),
        ("n.yaml", "node:\n  5: 1\n", 2, "a key is not text"),
        ("n.yaml", "node:\n  name: 2001-13-45\n", 2, "unreadable value"),
        ("n.yaml", "a: 1\n---\nb: 1\n", 2, "another document"),
        ("n.yaml", "node: \x07\n", None, "not YAML: unacceptable character"),
        ("n.yaml", "- node\n", 1, "not a mapping of sections"),
        ("n.yaml", "[" * 600, None, "nested too deeply"),
        ("n.toml", b"[node]\nname = '\xff'\n", 2, "byte 0xff is not UTF-8"),
        ("n.toml", b"#" * (MAX_FILE_BYTES + 1), None, f"larger than {MAX_FILE_BYTES} bytes"),
        ("n.conf", TOML, None, "its name does not say its format"),
    ],
)
def test_a_file_that_cannot_be_parsed_is_one_problem(
    tmp_path: Path, name: str, text: str | bytes, line: int | None, what: str
) -> None:
    [(number, key, found)] = told(write(tmp_path, name, text))
    assert (number, key) == (line, "")
    assert what in found


def test_a_file_of_just_the_cap_is_read(tmp_path: Path) -> None:
    text = TOML + "#" * (MAX_FILE_BYTES - len(TOML))
    assert load_config(write(tmp_path, "n.toml", text)).node.name == "a"


def test_an_empty_yaml_file_misses_its_keys_like_any_other(tmp_path: Path) -> None:
    assert [what for _, _, what in told(write(tmp_path, "n.yaml", "# nothing\n"))] == ["missing"] * 4


def test_without_pyyaml_the_remedy_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(ConfigProblems) as raised:
        load_config(write(tmp_path, "n.yaml", YAML))
    assert "YAML needs PyYAML" in raised.value.why
    assert raised.value.fix == "pip install 'holloway[yaml]', or write it as TOML"


def test_a_missing_file_a_folder_and_a_forbidden_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(tmp_path / "none.toml") == [(None, "", "no such file")]
    (tmp_path / "folder.toml").mkdir()
    assert told(tmp_path / "folder.toml") == [(None, "", "cannot be read: Is a directory")]

    def refuse(self: Path, mode: str) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ConfigProblems) as raised:
        load_config(tmp_path / "secret.toml")
    assert isinstance(raised.value.__cause__, PermissionError)
    assert "cannot be read: Permission denied" in raised.value.why


def test_the_yaml_of_these_tests_is_what_pyyaml_reads() -> None:
    assert yaml.safe_load(YAML) == tomllib.loads(TOML)
