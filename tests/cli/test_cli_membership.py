"""`init`, `invite`, `join` and `revoke` as scripts use them: what is printed, what is refused, and with which code."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import pytest
from node_world import validate

from holloway.actors.config import FloatingConfig, load_config
from holloway.actors.kernel import KernelPorts
from holloway.actors.registry_plane import enrolled_node
from holloway.actors.state_directory import StateDirectory
from holloway.cli.registry_files import pack, unpack
from holloway.protocols.errors import LocalError

Holloway = Callable[..., Any]


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


def test_init_makes_a_node_that_up_can_run_and_prints_an_invitation(holloway: Holloway, state: Path) -> None:
    outcome = holloway("init", "home", "--name", "a", "--state", str(state))
    assert outcome.code == 0
    assert outcome.out.startswith("holloway1-")
    assert len(outcome.out.splitlines()) == 1
    assert "10.99.4.1" in outcome.err
    assert f"holloway up --state {state}" in outcome.err
    config = load_config(state / "holloway.toml", environ=os.environ)
    assert (config.node.name, config.node.network) == ("a", "home")
    assert config.registry is not None
    assert config.registry.trust == "authority"
    assert holloway("check", str(state / "holloway.toml")).code == 0


def test_init_obeys_its_options(holloway: Holloway, state: Path) -> None:
    options = ("--range", "10.7.0.0/16", "--address", "10.7.9.9", "--port", "4000", "--name", "a")
    document = holloway("init", "home", "--json", "--state", str(state), *options).document
    validate("init", document)
    assert document["addresses"][0] == "10.7.9.9"
    assert load_config(state / "holloway.toml", environ=os.environ).listen.port == 4000


def test_init_and_invite_certify_floating_addresses(holloway: Holloway, state: Path) -> None:
    assert holloway("init", "home", "--name", "a", "--state", str(state), "--prefix", "10.99.2.1/32").code == 0
    config = replace(
        load_config(state / "holloway.toml", environ=os.environ),
        floating=(FloatingConfig(address=IPv4Address("10.99.2.1")),),
    )
    _, enrolled = enrolled_node(config, KernelPorts())
    assert enrolled is not None
    assert enrolled.certificate.prefixes == {IPv4Network("10.99.2.1/32")}
    assert holloway("invite", "--state", str(state), "--prefix", "10.99.2.1/32").code == 0
    outcome = holloway("invite", "--state", str(state), "--prefix", "banana")
    assert (outcome.code, "banana" in outcome.err) == (2, True)


@pytest.mark.parametrize(
    ("words", "said", "code"),
    [
        (("home/x",), "home/x", 1),
        (("home", "--range", "10.0.0.0/7"), "10.0.0.0/7", 1),
        (("home", "--range", "banana"), "banana", 2),
        (("home", "--address", "banana"), "banana", 2),
        (("home", "--address", "10.99.2.5"), "no node can have the address", 1),
        (("home", "--address", "192.168.0.1"), "no node can have the address", 1),
        (("home", "--registry", "redis://x"), "redis", 4),
        (("home", "--registry", "etcd://"), "a host is missing", 4),
        (("home", "--name", "a b"), "a b", 1),
    ],
)
def test_init_refuses_what_cannot_be(
    holloway: Holloway, state: Path, words: tuple[str, ...], said: str, code: int
) -> None:
    outcome = holloway("init", *words, *(() if "--name" in words else ("--name", "a")), "--state", str(state))
    assert (outcome.code, outcome.out) == (code, "")
    assert said in outcome.err
    # A mistake costs nothing but another attempt.
    assert holloway("init", "home", "--name", "a", "--state", str(state)).code == 0


def test_a_network_is_not_made_twice_in_one_place(holloway: Holloway, state: Path) -> None:
    assert holloway("init", "home", "--name", "a", "--state", str(state)).code == 0
    again = holloway("init", "home", "--name", "a", "--state", str(state))
    assert again.code == 1
    assert "--state DIR" in again.err


def test_invite_prints_one_token_of_its_own(holloway: Holloway, state: Path) -> None:
    holloway("init", "home", "--name", "a", "--state", str(state))
    first, second = (holloway("invite", "--state", str(state)).out for _ in range(2))
    assert first.startswith("holloway1-")
    assert first != second
    document = holloway("invite", "--json", "--ttl", "2d", "--state", str(state)).document
    validate("invite", document)
    assert document["expires_s"] == 2 * 86_400


@pytest.mark.parametrize(
    "words", [("--ttl", "0s"), ("--ttl", "soon"), ("--ttl", "91d"), ("--address", "x"), ("--prefix", "10.1.2.3/8")]
)
def test_invite_refuses_what_makes_no_sense(holloway: Holloway, state: Path, words: tuple[str, ...]) -> None:
    holloway("init", "home", "--name", "a", "--state", str(state))
    outcome = holloway("invite", *words, "--state", str(state))
    assert (outcome.code, outcome.out) == (2, "")


def test_invite_and_revoke_say_where_they_can_run(holloway: Holloway, state: Path) -> None:
    verbs = (
        ("invite",),
        ("revoke", "b"),
        ("release", "b"),
        ("network",),
        ("authority", "list"),
        ("certify", "b", "--prefix", "10.1.0.0/16"),
    )
    for words in verbs:
        outcome = holloway(*words, "--state", str(state))
        assert outcome.code == 4
        assert outcome.error[0] == f"there is no node in {state}"
    holloway("init", "home", "--name", "a", "--state", str(state))
    (state / "authority.key").rename(state / "kept-elsewhere")
    outcome = holloway("invite", "--state", str(state))
    assert outcome.code == 1
    assert "authority.key does not exist" in outcome.err


def test_revoke_wants_a_node_that_is_there_and_is_not_this_one(holloway: Holloway, state: Path) -> None:
    holloway("init", "home", "--name", "a", "--state", str(state))
    assert "no node b" in holloway("revoke", "b", "--state", str(state)).err
    assert "it is this node" in holloway("revoke", "a", "--state", str(state)).err


@pytest.mark.parametrize(
    ("token", "said"),
    [("banana", "holloway1-"), ("holloway1-AAAA", "cut short"), ("holloway9-AAAA", "version 9")],
)
def test_a_token_that_is_none_is_told(holloway: Holloway, state: Path, token: str, said: str) -> None:
    outcome = holloway("join", token, "--state", str(state))
    assert outcome.code == 1
    assert said in outcome.err
    assert not state.exists()


def test_a_machine_that_is_in_a_network_does_not_join_another(holloway: Holloway, state: Path) -> None:
    token = holloway("init", "home", "--name", "a", "--state", str(state)).out.strip()
    outcome = holloway("join", token, "--state", str(state))
    assert outcome.code == 1
    assert "holds a node already" in outcome.err


def test_up_without_a_node_says_how_to_get_one(holloway: Holloway, state: Path) -> None:
    outcome = holloway("up", "--state", str(state))
    assert outcome.code == 4
    assert "holloway join TOKEN" in outcome.err
    assert holloway("up", "--state", str(state), "-c", "x.toml").code == 2


def test_what_reaches_the_registry_travels_in_the_token(tmp_path: Path) -> None:
    for name in ("ca", "client.crt", "client key", "word"):
        (tmp_path / name).write_text(f"contents of {name}")
    quoted = str(tmp_path / "client key").replace(" ", "%20")
    url = f"etcd://h:1/p?ca={tmp_path / 'ca'}&cert={tmp_path / 'client.crt'}&key={quoted}&user=u&password_file={tmp_path / 'word'}"
    packed, files = pack(url)
    assert packed == "etcd://h:1/p?ca=ca&cert=cert&key=key&user=u&password_file=password"
    assert files == {
        "ca": "contents of ca",
        "cert": "contents of client.crt",
        "key": "contents of client key",
        "password": "contents of word",
    }
    there = StateDirectory(tmp_path / "there")
    there.create()
    unpacked = unpack(packed, files, there)
    assert f"key={there.path}/registry-key" in unpacked
    assert there.read("registry-password") == b"contents of word"
    with pytest.raises(LocalError, match="does not bring"):
        unpack(packed, {}, there)
    with pytest.raises(LocalError, match="does not bring"):
        unpack("etcd://h:1/p?ca=/etc/shadow", files, there)
    assert pack("sqlite:///x.db") == ("sqlite:///x.db", {})
    with pytest.raises(LocalError, match="nowhere"):
        pack("etcd://h?ca=/nowhere")


def test_a_place_with_unusual_characters_is_fine(holloway: Holloway, tmp_path: Path) -> None:
    state = tmp_path / "a b?c%20#d"
    assert holloway("init", "home", "--name", "a", "--state", str(state)).code == 0
    config = load_config(state / "holloway.toml", environ=os.environ)
    assert config.registry is not None
    assert "%3F" in config.registry.url


def test_an_interrupted_init_is_repeated(holloway: Holloway, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("holloway.actors.enrolled.keep_granted", interrupted)
        assert holloway("init", "home", "--name", "a", "--state", str(state)).code == 130
    assert holloway("init", "home", "--name", "a", "--state", str(state)).code == 0


@pytest.fixture
def founded(holloway: Holloway, tmp_path: Path) -> tuple[Path, str]:
    """The folder of a network's first node, and an invitation of its."""
    folder = tmp_path / "first"
    token = holloway("init", "home", "--name", "a", "--state", str(folder)).out.strip()
    return folder, token


def test_an_authority_that_is_kept_offline_answers_by_file(
    holloway: Holloway, founded: tuple[Path, str], state: Path, tmp_path: Path
) -> None:
    folder, token = founded
    request, grant = tmp_path / "request", tmp_path / "grant"
    options = ("--name", "b", "--state", str(state))
    assert holloway("join", token, "--request", str(request), *options).code == 0
    signed = holloway("sign", str(request), "--state", str(folder))
    assert signed.code == 0
    grant.write_text(signed.out)
    assert "node b is let in" in signed.err
    again = holloway("sign", str(request), "--state", str(folder))
    assert "the same answer again" in again.err
    document = holloway("join", token, "--grant", str(grant), "--json", *options).document
    validate("join", document)
    assert document["addresses"][0] == "10.99.4.2"
    assert holloway("check", str(state / "holloway.toml")).code == 0
    assert (state / "revoked.crl").exists()


def test_an_answer_to_somebody_else_or_to_an_older_request_lets_nobody_in(
    holloway: Holloway, founded: tuple[Path, str], state: Path, tmp_path: Path
) -> None:
    folder, token = founded
    request, grant = tmp_path / "request", tmp_path / "grant"
    options = ("--name", "b", "--state", str(state))
    holloway("join", token, "--request", str(request), *options)
    grant.write_text(holloway("sign", str(request), "--state", str(folder)).out)
    holloway("join", token, "--request", str(request), *options)
    outcome = holloway("join", token, "--grant", str(grant), *options)
    assert outcome.code == 1
    assert "enrolment_other_request" in outcome.err
    other = holloway("invite", "--state", str(folder)).out.strip()
    outcome = holloway("join", other, "--grant", str(grant), "--name", "c", "--state", str(tmp_path / "c"))
    assert "enrolment_not_authentic" in outcome.err


def test_sign_refuses_a_used_invitation_and_one_that_is_not_its_own(
    holloway: Holloway, founded: tuple[Path, str], state: Path, tmp_path: Path
) -> None:
    folder, token = founded
    requests = [tmp_path / each for each in ("b", "c")]
    for request in requests:
        holloway("join", token, "--request", str(request), "--name", request.name, "--state", f"{state}-{request.name}")
    assert holloway("sign", str(requests[0]), "--state", str(folder)).code == 0
    outcome = holloway("sign", str(requests[1]), "--state", str(folder))
    assert (outcome.code, outcome.out) == (1, "")
    assert "used by another machine" in outcome.err
    elsewhere = tmp_path / "elsewhere"
    holloway("init", "home", "--name", "x", "--state", str(elsewhere))
    outcome = holloway("sign", str(requests[0]), "--state", str(elsewhere))
    assert (outcome.code, outcome.out) == (1, "")
    assert "proves no invitation of ours" in outcome.err


@pytest.mark.parametrize(
    "contents", [b"", b"banana", b"[]", b'{"schema":"holloway.request/1"}', b"\xff", b"[" * 100_000, b" " * 2_000_000]
)
def test_files_that_hold_neither_are_told(
    holloway: Holloway, founded: tuple[Path, str], state: Path, tmp_path: Path, contents: bytes
) -> None:
    folder, token = founded
    path = tmp_path / "file"
    path.write_bytes(contents)
    for words in (
        ("sign", str(path), "--state", str(folder)),
        ("join", token, "--grant", str(path), "--state", str(state)),
    ):
        outcome = holloway(*words)
        assert (outcome.code, outcome.out) == (1, "")
        assert str(path) in outcome.err
    path.unlink()
    assert "No such file" in holloway("sign", str(path), "--state", str(folder)).err
    both = holloway("join", token, "--request", "x", "--grant", "y", "--state", str(state))
    assert both.code == 2


def test_what_a_certificate_lets_lie_behind_a_node_is_in_its_configuration_and_what_floats_is_not(
    holloway: Holloway, state: Path
) -> None:
    words = ["--prefix", "0.0.0.0/0", "--prefix", "10.99.2.1/32", "--prefix", "10.1.0.0/16"]
    outcome = holloway("init", "home", "--name", "a", *words, "--state", str(state))
    assert outcome.code == 0
    assert "this node announces 0.0.0.0/0, 10.1.0.0/16 to the others" in outcome.err
    assert 'prefixes = ["0.0.0.0/0", "10.1.0.0/16"]' in (state / "holloway.toml").read_text()


def test_certify_names_what_a_node_may_announce_and_refuses_what_is_others(holloway: Holloway, state: Path) -> None:
    assert holloway("init", "home", "--name", "a", "--state", str(state)).code == 0
    before = (state / "ledger.json").read_text()
    for words, why in (
        (("b", "--prefix", "10.1.0.0/16"), "no node b"),
        (("a", "--prefix", "10.99.7.0/24"), "node a cannot have 10.99.7.0/24"),
    ):
        outcome = holloway("certify", *words, "--state", str(state))
        assert outcome.code == 1
        assert why in outcome.err
        assert (state / "ledger.json").read_text() == before
    outcome = holloway("certify", "a", "--prefix", "10.1.0.0/16", "--state", str(state))
    assert (outcome.code, outcome.out) == (0, "")
    assert "node a may have 10.1.0.0/16" in outcome.err
    assert (state / "ledger.json").read_text() != before
