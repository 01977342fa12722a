"""`init`, `invite` and `join` where the store is believed, and where keys are pinned."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from node_world import validate

from holloway.actors.config import load_config
from holloway.protocols.errors import LocalError
from holloway.protocols.store_tokens import StoreToken, encode_store_token, parse_store_token

Holloway = Callable[..., Any]


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def registry(tmp_path: Path) -> str:
    return f"sqlite://{tmp_path / 'net.db'}"


def init(holloway: Holloway, state: Path, registry: str, name: str, *options: str) -> Any:
    return holloway(
        "init",
        "home",
        "--trust",
        "store",
        "--registry",
        registry,
        "--name",
        name,
        "--state",
        str(state / name),
        *options,
    )


# The store is believed.


def test_each_machine_needs_one_command_and_is_told_who_is_believed(
    holloway: Holloway, state: Path, registry: str
) -> None:
    first = init(holloway, state, registry, "a")
    assert first.code == 0
    assert "10.99.4.1" in first.err
    assert "whoever can write to this registry is believed" in first.err
    assert f"holloway up --state {state / 'a'}" in first.err
    assert "or this command once more" in first.err
    joined = holloway("join", first.out.strip(), "--name", "b", "--state", str(state / "b"))
    assert joined.code == 0
    assert "10.99.4.2" in joined.err
    assert "whoever can write to this registry is believed" in joined.err
    assert "10.99.4.3" in init(holloway, state, registry, "c").err
    invited = holloway("invite", "--name", "d", "--address", "10.99.0.4", "--state", str(state / "b"))
    document = holloway("join", invited.out.strip(), "--json", "--state", str(state / "d")).document
    validate("join", document)
    assert document["node"] == "d"
    assert document["addresses"][0] == "10.99.0.4"
    for name in "abcd":
        config = load_config(state / name / "holloway.toml", environ=os.environ)
        assert config.registry is not None
        assert (config.registry.trust, config.registry.url) == ("store", registry)
        assert holloway("check", str(state / name / "holloway.toml")).code == 0


def test_without_a_registry_the_token_alone_leads_to_the_same_network(holloway: Holloway, state: Path) -> None:
    words = ("init", "home", "--trust", "store", "--state")
    first = holloway(*words, str(state / "a"), "--name", "a")
    assert "this command once more" not in first.err, "it makes another network, in a file of its own"
    assert "10.99.4.2" in holloway("join", first.out.strip(), "--name", "b", "--state", str(state / "b")).err


def test_what_the_first_node_wrote_counts_and_later_ones_hear_of_it(
    holloway: Holloway, state: Path, registry: str
) -> None:
    document = init(holloway, state, registry, "a", "--range", "10.5.0.0/16", "--port", "2000", "--json").document
    validate("init", document)
    assert document["addresses"][0].startswith("10.5.")
    other = init(holloway, state, registry, "b", "--range", "10.6.0.0/16", "--port", "3000")
    assert "--range 10.6.0.0/16 does not count: network home is there already, and has 10.5.0.0/16" in other.err
    assert "--port 3000 does not count" in other.err
    assert load_config(state / "b" / "holloway.toml", environ=os.environ).listen.port == 2000
    assert "does not count" not in init(holloway, state, registry, "c").err


def test_names_and_addresses_that_are_taken_are_refused_by_name(
    holloway: Holloway, state: Path, registry: str, tmp_path: Path
) -> None:
    init(holloway, state, registry, "a", "--address", "10.99.0.7")
    outcome = init(holloway, state, registry, "b", "--address", "10.99.0.7")
    assert outcome.code == 1
    assert outcome.error[0] == "the address 10.99.0.7 is taken"
    assert "node a holds it" in outcome.error[1]
    outcome = init(holloway, state / "elsewhere", registry, "a")
    assert outcome.error[0] == "the node name a is taken"
    assert (
        init(holloway, state, registry, "b", "--address", "10.7.0.1").error[0] == "the address 10.7.0.1 cannot be had"
    )
    assert not (state / "b" / "holloway.toml").exists()
    assert init(holloway, state, registry, "b").code == 0, "and once more, rightly"
    assert init(holloway, state, registry, "b").error[0] == f"{state / 'b'} holds a node already"


def test_networks_behind_a_node_are_announced(holloway: Holloway, state: Path, registry: str) -> None:
    options = ("--prefix", "10.8.0.0/16", "--prefix", "10.99.2.1/32")
    assert "announces 10.8.0.0/16 to" in init(holloway, state, registry, "a", *options).err, (
        "a floating address is not behind it"
    )
    config = load_config(state / "a" / "holloway.toml", environ=os.environ)
    assert [*map(str, config.node.prefixes)] == ["10.8.0.0/16"]
    words = ("--trust", "pinned", "--address", "10.99.0.1", "--prefix", "10.8.0.0/16", "--state", str(state / "p"))
    block = tomllib.loads(holloway("init", "home", *words).out)
    assert block["peer"][0]["allowed"] == ["10.99.0.1/32", "10.8.0.0/16"]
    config = load_config(state / "p" / "holloway.toml", environ=os.environ)
    assert [*map(str, config.node.prefixes)] == ["10.8.0.0/16"]


def test_what_only_an_authority_can_do_is_a_usage_error_elsewhere(
    holloway: Holloway, state: Path, registry: str
) -> None:
    token = init(holloway, state, registry, "a").out.strip()
    where = ("--state", str(state / "a"))
    assert holloway("invite", "--ttl", "2h", *where).code == 2
    assert holloway("join", token, "--request", "r", "--state", str(state / "x")).code == 1
    document = holloway("invite", "--json", *where).document
    validate("invite", document)
    assert document["expires_s"] is None


def test_a_store_token_is_read_as_it_was_written_and_damage_is_told() -> None:
    token = StoreToken(network="home", registry="etcd://h:1/?ca=ca", files={"ca": "PEM"}, name="b")
    text = encode_store_token(token)
    assert parse_store_token(text[:9] + "\n" + text[9:]) == token
    for spoilt in (text[:-3], text[:-1] + "!", text.replace("store1", "store2"), "holloway1-AAAA"):
        with pytest.raises(LocalError) as refused:
            parse_store_token(spoilt)
        assert refused.value.fix
    with pytest.raises(LocalError):
        encode_store_token(StoreToken(network="../x", registry="sqlite:///x"))


# Keys are pinned.


def test_pinned_nodes_tell_one_another_by_file(holloway: Holloway, tmp_path: Path) -> None:
    states = {name: tmp_path / name for name in ("a", "b")}
    blocks = {}
    for number, (name, folder) in enumerate(states.items(), start=1):
        options = ("--trust", "pinned", "--address", f"10.99.0.{number}", "--name", name)
        outcome = holloway("init", "home", *options, "--state", str(folder))
        assert outcome.code == 0
        assert f"holloway up --state {folder}" in outcome.err
        blocks[name] = outcome.out
    assert load_config(states["a"] / "holloway.toml", environ=os.environ).peers == ()
    (states["a"] / "peers" / "b.toml").write_text(blocks["b"])
    config = load_config(states["a"] / "holloway.toml", environ=os.environ)
    assert [(peer.name, [*map(str, peer.allowed)]) for peer in config.peers] == [("b", ["10.99.0.2/32"])]
    assert config.registry is None
    assert holloway("check", str(states["a"] / "holloway.toml")).code == 0
    assert holloway("invite", "--state", str(states["a"])).error[0] == "nobody can be invited"


def test_a_pinned_node_needs_an_address_and_may_have_a_registry(holloway: Holloway, state: Path, registry: str) -> None:
    words = ("init", "home", "--trust", "pinned", "--name", "a", "--state", str(state))
    assert holloway(*words).error[0] == "this node needs an address"
    assert holloway(*words, "--address", "10.7.0.1").error[0] == "the address 10.7.0.1 cannot be had"
    document = holloway(*words, "--address", "10.99.0.1", "--registry", registry, "--json").document
    validate("init", document)
    assert tomllib.loads(document["peer"])["peer"][0]["name"] == "a"
    config = load_config(state / "holloway.toml", environ=os.environ)
    assert config.registry is not None
    assert config.registry.trust == "pinned"


def test_mistakes_in_files_of_peers_are_told_with_file_and_line(holloway: Holloway, state: Path) -> None:
    words = ("init", "home", "--trust", "pinned", "--name", "a", "--address", "10.99.0.1", "--state", str(state))
    block = holloway(*words).out
    peers, config = state / "peers", str(state / "holloway.toml")
    (peers / "a.toml").write_text(block)
    assert f'{peers / "a.toml"}:2: peer[0].name: "a" is this node\'s own name' in holloway("check", config).out
    (peers / "a.toml").write_text(block.replace('"a"', '"b"') + "[listen]\nport = 1\n")
    (peers / "b.toml").write_text('[[peer]]\nname = "c"\nallowd = 1\n')
    (peers / "c.toml").write_text("[[peer")
    (peers / "notes.txt").write_text("not read")
    outcome = holloway("check", config)
    assert outcome.code == 4
    assert f"{peers / 'a.toml'}:6: [listen] does not belong here" in outcome.out
    assert f"{peers / 'b.toml'}:3: peer[1].allowd: unknown key; did you mean allowed?" in outcome.out
    assert f"{peers / 'c.toml'}:1: syntax error" in outcome.out
    assert "notes" not in outcome.out
