"""The files that an etcd URL names: who may read them, and what is found out before gRPC sees them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from etcd_certificates import Authority

from holloway.actors.registry.etcd_files import SECRET_BYTES_MAX, load_material
from holloway.actors.registry.etcd_url import EtcdAddress, Tls
from holloway.protocols.errors import RegistryError

HERE = (("localhost", 2379),)


def password(path: Path, data: bytes = b"sesame\n", mode: int = 0o600) -> EtcdAddress:
    path.write_bytes(data)
    path.chmod(mode)
    return EtcdAddress(HERE, user="alice", password_file=path)


@pytest.mark.parametrize("data", [b"sesame", b"sesame\n", b"sesame\r\n"])
def test_password_is_its_file_without_the_line_end_and_is_not_shown(tmp_path: Path, data: bytes) -> None:
    material = load_material(password(tmp_path / "p", data))
    assert material.password == "sesame"
    assert "sesame" not in repr(material)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601])
def test_secret_that_others_may_use_is_refused_with_the_command_that_mends_it(tmp_path: Path, mode: int) -> None:
    address = password(tmp_path / "p", mode=mode)
    with pytest.raises(RegistryError) as caught:
        load_material(address)
    assert (caught.value.kind, caught.value.fix) == ("denied", f"chmod 600 {tmp_path}/p")
    assert f"{mode:04o}" in caught.value.why


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "no password"),
        (b"\n", "no password"),
        (b"a\nb\n", "no password"),
        (b"a\0b", "no password"),
        (b"\xff", "no text in UTF-8"),
        (b"x" * (SECRET_BYTES_MAX + 1), "is larger than"),
    ],
)
def test_password_file_without_a_password_is_refused(tmp_path: Path, data: bytes, why: str) -> None:
    address = password(tmp_path / "p", data)
    with pytest.raises(RegistryError, match=why) as caught:
        load_material(address)
    assert (caught.value.kind, bool(caught.value.fix)) == ("denied", True)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    for name, why in (
        ("absent", "cannot be read: No such file"),
        ("fifo", "not a regular file"),
        (".", "is not a regular file"),
    ):
        with pytest.raises(RegistryError, match=why):
            load_material(EtcdAddress(HERE, user="alice", password_file=tmp_path / name))


def test_certificates_are_read_and_checked(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue(tmp_path / "client", common_name="alice")
    material = load_material(EtcdAddress(HERE, tls=Tls(authority.path, certificate, key)))
    assert material.authorities == authority.path.read_bytes()
    assert (material.certificates, material.key) == (certificate.read_bytes(), key.read_bytes())
    assert "PRIVATE" not in repr(material)


def test_every_mistake_with_certificates_is_named_before_grpc_sees_it(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue(tmp_path / "client", common_name="alice")
    _, other_key = authority.issue(tmp_path / "other", common_name="bob")
    garbage = tmp_path / "garbage"
    garbage.write_bytes(b"garbage")
    garbage.chmod(0o600)
    encrypted = tmp_path / "encrypted"
    loaded = serialization.load_pem_private_key(key.read_bytes(), None)
    hidden = serialization.BestAvailableEncryption(b"sesame")
    encrypted.write_bytes(loaded.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, hidden))
    encrypted.chmod(0o600)
    shared = tmp_path / "shared"
    shared.write_bytes(key.read_bytes())
    shared.chmod(0o644)
    for tls, why in (
        (Tls(garbage), "holds no certificate of an authority"),
        (Tls(tmp_path / "absent"), "No such file"),
        (Tls(key), "holds no certificate of an authority"),
        (Tls(None, certificate, other_key), "is not the key of the certificate"),
        (Tls(None, garbage, key), "no certificate and key in PEM form"),
        (Tls(None, certificate, garbage), "no certificate and key in PEM form"),
        (Tls(None, certificate, encrypted), "no certificate and key in PEM form without a password"),
        (Tls(None, certificate, shared), "has mode 0644"),
        (Tls(None, certificate, tmp_path / "absent"), "No such file"),
    ):
        with pytest.raises(RegistryError) as caught:
            load_material(EtcdAddress(HERE, tls=tls))
        assert why in caught.value.why
        assert (caught.value.kind, bool(caught.value.fix)) == ("denied", True)
