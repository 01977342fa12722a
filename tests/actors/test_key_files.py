"""Key files: what is written is YAML to others, what others wrote is read or refused with its line, and nobody else may look."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
import yaml
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st

from holloway.actors.control_plane.key_files import (
    ServerKeys,
    read_keys,
    rotated_client,
    with_client,
    with_role,
    without_client,
    write_keys,
)
from holloway.actors.control_plane.key_text import ClientKey, KeyFile, format_key_file, parse_key_file
from holloway.protocols.control_plane.messages import Role
from holloway.protocols.errors import ConfigError, HollowayError, LocalError, PortError
from holloway.protocols.z85 import encode_z85

NOW = "2026-11-22T12:00:00Z"
KEYS = [encode_z85(bytes([number]) * 32) for number in range(8)]

z85_keys = st.binary(min_size=32, max_size=32).map(encode_z85)
names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)
clients = st.lists(
    st.builds(ClientKey, names, st.sampled_from(Role), z85_keys, st.just(NOW), st.sampled_from(("", NOW))),
    max_size=4,
    unique_by=(lambda client: client.name, lambda client: client.public_key),
).map(tuple)
key_files = st.builds(KeyFile, z85_keys | st.just(""), z85_keys | st.just(""), z85_keys | st.just(""), clients)


def as_yaml(keys: KeyFile) -> dict[str, object]:
    """The same as plain values."""
    document: dict[str, object] = {
        name: value for name in ("private_key", "public_key", "server_public_key") if (value := getattr(keys, name))
    }
    if keys.client_keys:
        document["client_keys"] = [
            {"name": each.name, "role": each.role.value, "public_key": each.public_key, "created": each.created}
            | ({"revoked": each.revoked} if each.revoked else {})
            for each in keys.client_keys
        ]
    return document


@settings(max_examples=50)
@given(key_files)
def test_what_is_written_reads_the_same_here_and_in_a_yaml_library(keys: KeyFile) -> None:
    text = format_key_file(keys)
    assert parse_key_file(text, "x") == keys
    assert (yaml.safe_load(text) or {}) == as_yaml(keys)


@settings(max_examples=50)
@given(key_files.filter(lambda keys: keys != KeyFile()))
def test_what_a_yaml_library_writes_is_read(keys: KeyFile) -> None:
    assert parse_key_file(yaml.safe_dump(as_yaml(keys), width=1000, explicit_start=True), "x") == keys


def refusal(text: str) -> str:
    """Why the text is refused, or that it is not."""
    try:
        parse_key_file(text, "some file")
    except ConfigError as error:
        return error.why
    return "line 0: it is not"


@given(st.text(max_size=200) | st.lists(st.sampled_from((*"-:#'\" \n", "client_keys", "name", KEYS[1]))).map("".join))
def test_any_text_is_read_or_refused_with_its_line(text: str) -> None:
    why = refusal(text)
    assert why.startswith("line ")
    assert KEYS[1] not in why


def test_pantrys_own_file_is_read_and_its_clients_are_nodes() -> None:
    text = f"---\nprivate_key: \"{KEYS[1]}\"\npublic_key: '{KEYS[2]}'\nclient_keys:\n- '{KEYS[3]}'\n- \"{KEYS[4]}\"\n"
    keys = parse_key_file(text, "server_keys.yml")
    assert (keys.private_key, keys.public_key) == (KEYS[1], KEYS[2])
    assert [(each.role, each.public_key) for each in keys.client_keys] == [(Role.NODE, KEYS[3]), (Role.NODE, KEYS[4])]
    assert parse_key_file(f"client_keys: []\nprivate_key: '{KEYS[1]}' # ours\n", "x").client_keys == ()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("privat_key: x\n", "line 1: privat_key is none of a key file's"),
        (f'private_key: "{KEYS[1]}"\nprivate_key: "{KEYS[1]}"\n', "line 2: private_key comes twice"),
        ('private_key: "short"\n', "line 1: it holds no key"),
        (f'private_key: "{KEYS[1]}\n', "line 1: its quotes do not close"),
        (f'client_keys:\n  - name: a\n    public_key: "{KEYS[1]}"\n', "line 2: a client has no role"),
        (
            f'client_keys:\n  - name: a\n    role: king\n    public_key: "{KEYS[1]}"\n',
            "line 2: a client's role is one of",
        ),
        (
            f'client_keys:\n  - name: a\n   role: node\n    public_key: "{KEYS[1]}"\n',
            "line 3: it is indented otherwise",
        ),
        (f'client_keys:\n  - "{KEYS[1]}"\n  - "{KEYS[1]}"\n', "line 3: the key is listed twice"),
        ("client_keys: {a: b}\n", "line 1: client_keys is a list"),
        ("  private_key: x\n", "line 1: it is indented"),
        ('client_keys:\n  - name: "../x"\n    role: node\n    public_key: x\n', "line 2: a client's name is"),
    ],
)
def test_a_mistake_is_told_with_its_line(text: str, why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_key_file(text, "the file")
    assert caught.value.why.startswith(why)
    assert caught.value.what == "the file is no key file"


def test_the_brokers_file_is_made_once_and_is_nobody_elses(tmp_path: Path) -> None:
    server = ServerKeys(tmp_path)
    keys = server.ensure()
    assert zmq.curve_public(keys.private_key.encode()).decode() == keys.public_key
    assert server.ensure() == keys
    assert ServerKeys(tmp_path).read() == keys
    assert stat.S_IMODE(server.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(server.path.parent.stat().st_mode) == 0o700
    assert keys.private_key not in repr(keys)
    server.path.chmod(0o640)
    with pytest.raises(PortError, match="others may use it"):
        server.read()


def test_halves_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    keys = ServerKeys(tmp_path).ensure()
    path = tmp_path / "mixed.yml"
    write_keys(path, KeyFile(private_key=keys.private_key, public_key=KEYS[1]))
    with pytest.raises(ConfigError, match="do not belong together"):
        read_keys(path)
    write_keys(path, KeyFile(private_key=keys.private_key))
    read = read_keys(path)
    assert read is not None
    assert read.public_key == keys.public_key


def test_clients_come_change_and_go(tmp_path: Path) -> None:
    server = ServerKeys(tmp_path)
    server.ensure()
    server.change(lambda keys: with_client(keys, "web1", Role.NODE, KEYS[1], NOW))
    server.change(lambda keys: with_role(keys, "web1", Role.OPERATOR))
    server.change(lambda keys: rotated_client(keys, "web1", KEYS[2], NOW))
    server.change(lambda keys: with_client(keys, "web2", Role.NODE, KEYS[3], NOW))
    before = server.change(lambda keys: without_client(keys, "web2", NOW))
    assert before.client("web1") == ClientKey("web1", Role.OPERATOR, KEYS[2], NOW)
    assert before.client("web2") is None
    assert [each.public_key for each in before.client_keys if each.revoked] == [KEYS[1], KEYS[3]]
    for mistake in (
        lambda keys: with_client(keys, "web1", Role.NODE, KEYS[4], NOW),
        lambda keys: with_client(keys, "web3", Role.NODE, KEYS[1], NOW),  # revoked, for good
        lambda keys: with_client(keys, "-t", Role.NODE, KEYS[4], NOW),
        lambda keys: with_client(keys, "web3", Role.NODE, "no key", NOW),
        lambda keys: without_client(keys, "web2", NOW),
        lambda keys: with_role(keys, "nobody", Role.ADMIN),
    ):
        with pytest.raises(LocalError):
            server.change(mistake)
    assert server.read() == before


def test_a_write_that_fails_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = ServerKeys(tmp_path)
    before = server.ensure()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(HollowayError):
        server.change(lambda keys: with_client(keys, "web1", Role.NODE, KEYS[1], NOW))
    monkeypatch.undo()
    assert server.read() == before
    assert sorted(each.name for each in server.path.parent.iterdir()) == [".lock", "server_keys.yml"]


@pytest.mark.parametrize(
    ("folder", "mode"), [("shared", 0o755), ("x/.holloway", 0o700), ("root/security/curve", 0o700), ("new", 0o700)]
)
def test_only_folders_of_ours_are_closed_to_others(tmp_path: Path, folder: str, mode: int) -> None:
    path = tmp_path / folder / "keys.yml"
    if folder != "new":
        path.parent.mkdir(parents=True)
        path.parent.chmod(0o755)
    write_keys(path, KeyFile(public_key=KEYS[0]))
    assert stat.S_IMODE(path.parent.stat().st_mode) == mode
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_key_is_not_written_into_a_draft_that_lay_there(tmp_path: Path) -> None:
    draft = tmp_path / f".keys.yml.{os.getpid()}"
    draft.touch(0o666)
    with draft.open() as other:
        write_keys(tmp_path / "keys.yml", KeyFile(public_key=KEYS[0]))
        assert other.read() == ""
