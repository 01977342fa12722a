"""Files with secrets: who may read them, what is in them, and that nothing shows it."""

from __future__ import annotations

import base64
import dataclasses
import os
from collections.abc import Callable
from ipaddress import ip_interface, ip_network
from pathlib import Path

import pytest

from holloway.actors.config import (
    Config,
    ConfigProblems,
    InterfaceConfig,
    NodeConfig,
    PeerConfig,
    SessionConfig,
    examine_config,
)
from holloway.actors.secrets import MAX_SECRET_BYTES, Secrets, examine_secret_files, load_secrets
from holloway.protocols.keys import StaticKey

PRIVATE = bytes(range(32))
PRESHARED = bytes(range(100, 132))
OTHER_PUBLIC = StaticKey(bytes(range(50, 82))).public


def text_of(key: bytes) -> bytes:
    return base64.b64encode(key)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A configuration whose three secrets lie in files."""
    for name, data in (
        ("a.key", text_of(PRIVATE) + b"\n"),
        ("net.pass", b"correct horse battery staple\n"),
        ("b.psk", text_of(PRESHARED)),
    ):
        (tmp_path / name).write_bytes(data)
        (tmp_path / name).chmod(0o600)
    return Config(
        node=NodeConfig(name="a"),
        interface=InterfaceConfig(name="hw0", addresses=(ip_interface("10.99.0.1/24"),)),
        session=SessionConfig(private_key_file=tmp_path / "a.key", passphrase_file=tmp_path / "net.pass"),
        peers=(
            PeerConfig(
                name="b",
                public_key=OTHER_PUBLIC,
                allowed=(ip_network("10.99.0.2/32"),),
                preshared_key_file=tmp_path / "b.psk",
            ),
        ),
        path=tmp_path / "node.toml",
    )


def refused(config: Config) -> ConfigProblems:
    with pytest.raises(ConfigProblems) as raised:
        load_secrets(config)
    return raised.value


def test_secrets_are_read_from_their_files(config: Config) -> None:
    secrets = load_secrets(config)
    assert secrets.private_key == PRIVATE
    assert secrets.passphrase == b"correct horse battery staple"
    assert secrets.preshared_keys == {"b": PRESHARED}


def test_secrets_may_be_bytes(config: Config) -> None:
    peer = dataclasses.replace(config.peers[0], preshared_key=PRESHARED, preshared_key_file=None)
    embedded = dataclasses.replace(config, session=SessionConfig(private_key=PRIVATE, passphrase=b"p"), peers=(peer,))
    assert load_secrets(embedded) == Secrets(PRIVATE, b"p", {"b": PRESHARED})
    bare = dataclasses.replace(config, session=SessionConfig(private_key=PRIVATE), peers=())
    assert load_secrets(bare) == Secrets(PRIVATE)


def test_no_private_key_at_all_is_a_problem(config: Config) -> None:
    error = refused(dataclasses.replace(config, session=SessionConfig()))
    assert error.fix == "make one: holloway keygen --output node.key"


def test_repr_shows_nothing(config: Config) -> None:
    assert repr(load_secrets(config)) == "Secrets()"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o601, 0o620, 0o610, 0o777])
def test_a_file_that_others_may_use_is_refused_with_the_command(config: Config, mode: int) -> None:
    path = config.session.private_key_file
    assert path is not None
    path.chmod(mode)
    error = refused(config)
    assert f"has mode {mode:04o}" in error.why
    assert error.fix == f"chmod 600 {path}"


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o700])
def test_a_file_of_the_owner_alone_is_accepted(config: Config, mode: int) -> None:
    path = config.session.private_key_file
    assert path is not None
    path.chmod(mode)
    assert load_secrets(config).private_key == PRIVATE


def test_the_command_quotes_an_awkward_path(config: Config, tmp_path: Path) -> None:
    path = tmp_path / "my key; rm"
    path.write_bytes(text_of(PRIVATE))
    path.chmod(0o644)
    error = refused(dataclasses.replace(config, session=SessionConfig(private_key_file=path)))
    assert error.fix == f"chmod 600 '{path}'"


def fake_status(monkeypatch: pytest.MonkeyPatch, **changes: int) -> None:
    """Makes every open file look as if it had another owner or mode."""
    real: Callable[[int], os.stat_result] = os.fstat

    def status(descriptor: int) -> os.stat_result:
        fields = list(real(descriptor))
        fields[0] = changes.get("mode", fields[0])
        fields[4] = changes.get("owner", fields[4])
        return os.stat_result(fields)

    monkeypatch.setattr(os, "fstat", status)


def test_a_file_of_another_user_is_refused(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = dataclasses.replace(config, session=dataclasses.replace(config.session, passphrase_file=None), peers=())
    fake_status(monkeypatch, owner=4711)
    error = refused(bare)
    assert "belongs to user 4711" in error.why
    assert error.fix == f"sudo chown {os.geteuid()} {config.session.private_key_file}"


def test_a_file_of_root_is_accepted_by_another_user(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_status(monkeypatch, owner=0)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert load_secrets(config).private_key == PRIVATE


def test_a_systemd_credential_may_show_an_access_list(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    path = config.session.private_key_file
    assert path is not None
    fake_status(monkeypatch, owner=0, mode=0o100440)
    assert "has mode 0440" in refused(config).why
    environ = {"CREDENTIALS_DIRECTORY": str(path.parent)}
    assert load_secrets(config, environ=environ).private_key == PRIVATE
    assert "has mode 0440" in refused_with(config, {"CREDENTIALS_DIRECTORY": "/elsewhere"})
    fake_status(monkeypatch, owner=0, mode=0o100444)
    assert "has mode 0444" in refused_with(config, environ)


def refused_with(config: Config, environ: dict[str, str]) -> str:
    with pytest.raises(ConfigProblems) as raised:
        load_secrets(config, environ=environ)
    return raised.value.why


@pytest.mark.parametrize(
    ("name", "data", "why"),
    [
        ("a.key", b"", "holds no key: it has 0 characters"),
        ("a.key", b"short\n", "holds no key: it has 5 characters"),
        ("a.key", b"!" * 44, "holds no key: it is not base64"),
        ("a.key", b"\xff" * 44, "holds no key"),
        ("a.key", b"A" * (MAX_SECRET_BYTES + 1), f"is larger than {MAX_SECRET_BYTES} bytes"),
        ("net.pass", b"\n", "is empty"),
        ("net.pass", b"one\ntwo\n", "has several lines"),
        ("b.psk", b"x", "holds no key"),
    ],
)
def test_a_file_without_a_usable_secret_is_refused(
    config: Config, tmp_path: Path, name: str, data: bytes, why: str
) -> None:
    (tmp_path / name).write_bytes(data)
    error = refused(config)
    assert f"{tmp_path / name} {why}" in error.why
    assert (data.strip()[:4].decode("latin-1") not in error.why) or len(data.strip()) < 6


def test_only_the_line_end_is_taken_off_a_passphrase(config: Config, tmp_path: Path) -> None:
    (tmp_path / "net.pass").write_bytes(b"  two blanks \r\n")
    assert load_secrets(config).passphrase == b"  two blanks "


def test_a_missing_file_names_the_command_that_makes_it(config: Config, tmp_path: Path) -> None:
    (tmp_path / "a.key").unlink()
    error = refused(config)
    assert "does not exist" in error.why
    assert error.fix == f"make it: holloway keygen --output {tmp_path / 'a.key'}"


def test_a_fifo_does_not_hang_and_a_folder_is_no_file(config: Config, tmp_path: Path) -> None:
    (tmp_path / "a.key").unlink()
    os.mkfifo(tmp_path / "a.key", 0o600)
    assert "is not a regular file" in refused(config).why
    (tmp_path / "a.key").unlink()
    (tmp_path / "a.key").mkdir(mode=0o700)
    assert "is not a regular file" in refused(config).why


def test_a_file_that_may_not_be_opened_is_told_with_its_cause(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, flags: int) -> int:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "open", refuse)
    error = refused(config)
    assert isinstance(error.__cause__, PermissionError)
    assert len(error.problems) == 3


def test_a_peer_with_our_own_key_is_refused(config: Config) -> None:
    twin = dataclasses.replace(config.peers[0], public_key=StaticKey(PRIVATE).public)
    [problem] = refused(dataclasses.replace(config, peers=(twin,))).problems
    assert (problem.key, problem.what) == ("peer[0].public_key", "this is the node's own public key")


def test_all_problems_of_secrets_come_at_once(config: Config, tmp_path: Path) -> None:
    (tmp_path / "a.key").chmod(0o644)
    (tmp_path / "b.psk").unlink()
    assert [each.key for each in refused(config).problems] == ["session.private_key_file", "peer[0].preshared_key_file"]


def test_a_file_with_other_problems_still_has_its_secrets_looked_at_with_lines(tmp_path: Path) -> None:
    (tmp_path / "a.key").write_bytes(text_of(PRIVATE))
    (tmp_path / "a.key").chmod(0o644)
    path = tmp_path / "node.toml"
    path.write_text('[node]\nname = "a"\n[session]\nprivate_key_file = "a.key"\n')
    examined = examine_config(path)
    assert examined.config is None
    [problem] = examine_secret_files(examined).problems
    assert (problem.line, problem.key) == (4, "session.private_key_file")
    assert problem.fix == f"chmod 600 {tmp_path / 'a.key'}"


def test_a_peer_with_our_own_key_is_found_in_the_file_too(tmp_path: Path) -> None:
    (tmp_path / "a.key").write_bytes(text_of(PRIVATE))
    (tmp_path / "a.key").chmod(0o600)
    own = text_of(StaticKey(PRIVATE).public).decode()
    path = tmp_path / "node.toml"
    path.write_text(f'[session]\nprivate_key_file = "a.key"\n[[peer]]\nname = "b"\npublic_key = "{own}"\n')
    [problem] = examine_secret_files(examine_config(path)).problems
    assert (problem.line, problem.key) == (5, "peer[0].public_key")
