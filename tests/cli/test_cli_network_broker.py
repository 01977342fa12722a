"""Where verbs of the control plane look for the broker when the machine is in a network, and where they do not."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from fake_daemon import lines
from node_world import validate

from holloway.actors.control_plane.curve import new_pair
from holloway.actors.control_plane.key_files import CLIENT_KEYS, CURVE_FOLDER, ServerKeys, read_keys, write_keys
from holloway.actors.control_plane.key_text import KeyFile
from holloway.cli.agent_network import enrolled_agent
from holloway.cli.broker_network import Seat, find_seat
from holloway.cli.control_options import find_broker
from holloway.cli.exit_codes import ExitCode
from holloway.cli.failures import CommandFailedError
from holloway.protocols.errors import LocalError

ONE, TWO, FOREIGN = (new_pair().public for _ in range(3))
OWN = ["10.99.4.9", "fd99::9"]


def broker(node: str, address: str, key: str, port: int = 23002, files: int = 23003) -> dict[str, object]:
    return {"node": node, "address": address, "command_port": port, "file_port": files, "curve_key": key}


A, B = broker("a", "10.99.4.1", ONE), broker("b", "10.99.4.2", TWO, 1002, 1003)


@pytest.fixture
def network(daemon: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A daemon that knows these brokers, and a node `c` without one where a test says so."""

    def start(
        *brokers: dict[str, object], is_signed: bool = True, ignored: list[str] | None = None, c: str = ""
    ) -> None:
        view = {
            "node": {"name": "own", "network": "home", "addresses": OWN},
            "signed": is_signed,
            "brokers": brokers,
            "named": ["a", "b"],
            "ignored": ignored or [],
        }
        fake = daemon(lines({"result": view | ({"addresses": [c]} if c else {})}))
        monkeypatch.setenv("HOLLOWAY_CONTROL_SOCKET", str(fake.path))

    return start


def keys(name: str = "keys.yml", **content: str) -> Path:
    path = Path(".holloway") / name
    write_keys(path, KeyFile(**content))
    return path


def test_without_a_daemon_all_is_as_it_was() -> None:
    with pytest.raises(CommandFailedError, match="there is no key file"):
        find_broker(None, None)
    keys(server_public_key=FOREIGN)
    assert find_broker(None, None).endpoint == "tcp://127.0.0.1:23002"
    assert find_broker("other.example:7", None).endpoint == "tcp://other.example:7"


def test_the_only_broker_of_the_network_needs_no_address_and_no_key_file(network: Callable[..., None]) -> None:
    network(B)
    found = find_broker(None, None)
    assert (found.endpoint, found.public, found.of_files.port) == ("tcp://10.99.4.2:1002", TWO, 1003)
    kept = read_keys(Path(".holloway/keys.yml"))
    assert kept is not None
    assert found.pair is not None
    # The key is made once, and the broker's is asked for every time: another one may follow.
    assert (kept.public_key, kept.server_public_key) == (found.pair.public, "")
    assert find_broker(None, None).pair == found.pair


def test_of_several_one_is_named_by_its_node_or_by_a_key_file(network: Callable[..., None]) -> None:
    network(A, B)
    with pytest.raises(LocalError, match="they are on a, b"):
        find_broker(None, None)
    assert not Path(".holloway/keys.yml").exists()
    assert find_broker("b", None).endpoint == "tcp://10.99.4.2:1002"
    assert find_broker("a:7", None).endpoint == "tcp://10.99.4.1:7"
    assert find_broker("10.99.4.2", None).public == TWO
    keys("two.yml", server_public_key=TWO)
    assert find_broker(None, "two.yml").endpoint == "tcp://10.99.4.2:1002"
    keys("three.yml", server_public_key=FOREIGN)
    assert find_broker(None, "three.yml").endpoint == "tcp://127.0.0.1:23002"


def test_the_key_in_a_file_is_believed_before_the_network(network: Callable[..., None]) -> None:
    network(A, c="10.99.4.3")
    keys(server_public_key=FOREIGN)
    for host, endpoint in (("10.99.4.1", "10.99.4.1:23002"), ("a", "10.99.4.3:23002"), ("c:7", "10.99.4.3:7")):
        found = find_broker(host, None)
        assert (found.place, found.public) == (endpoint, FOREIGN)


def test_a_daemon_of_another_version_keeps_nobody_from_a_broker_that_he_knows(
    daemon: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOLLOWAY_CONTROL_SOCKET", str(daemon(lines({"result": {}})).path))
    with pytest.raises(LocalError, match="what we do not understand"):
        find_broker(None, None)
    with pytest.raises(LocalError, match="what we do not understand"):
        find_seat(None, Path("b"), 1, 2)
    assert find_seat("192.0.2.1", Path("b"), 1, 2) == Seat("192.0.2.1")
    keys(server_public_key=ONE)
    assert find_broker(None, None).endpoint == "tcp://127.0.0.1:23002"
    assert agent() is None


def test_an_address_with_a_key_says_everything_and_nobody_is_asked(
    daemon: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = daemon(lines({"result": {}}))
    monkeypatch.setenv("HOLLOWAY_CONTROL_SOCKET", str(fake.path))
    keys(server_public_key=ONE)
    assert find_broker("10.99.4.1:7", None).place == "10.99.4.1:7"
    assert fake.requests == []


def test_a_node_that_has_no_broker_is_told_with_the_reason(network: Callable[..., None]) -> None:
    network(A, ignored=["c"], c="10.99.4.3")
    with pytest.raises(LocalError, match="there is no broker on node c: c announces one, and may not"):
        find_broker("c", None)


def test_where_records_are_not_signed_no_broker_is_found_but_nodes_are(network: Callable[..., None]) -> None:
    network(is_signed=False, c="10.99.4.3")
    with pytest.raises(LocalError, match="network home has no broker: its records are not signed"):
        find_broker(None, None)
    keys(server_public_key=FOREIGN)
    assert find_broker("c", None).endpoint == "tcp://10.99.4.3:23002"


def test_a_name_that_no_node_has_may_be_one_of_the_internet(
    daemon: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    error = {"what": "no node x", "why": "none", "fix": "", "code": 1}
    monkeypatch.setenv("HOLLOWAY_CONTROL_SOCKET", str(daemon(lines({"error": error})).path))
    keys(server_public_key=FOREIGN)
    assert find_broker("x.example", None).endpoint == "tcp://x.example:23002"
    with pytest.raises(CommandFailedError, match="no node x"):
        find_broker(None, "other.yml")


def test_a_node_of_several_is_named_by_its_state_directory(
    holloway: Callable[..., Any], daemon: Callable[..., Any], tmp_path: Path
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "holloway.toml").write_text('[control]\nsocket = "control.sock"\n')
    view = {"node": {"name": "own", "network": "home", "addresses": OWN}, "signed": True, "named": ["a"], "ignored": []}
    for name, port in (("one", 1), ("two", 2)):
        found = broker("a", "127.0.0.1", ONE, port)
        daemon(lines({"result": view | {"brokers": [found]}}), path=tmp_path / name / "control.sock")
    assert "no broker answers at 127.0.0.1:2" in holloway("clients", "--state", "two").err
    (tmp_path / ".holloway" / "config").write_text("--state one\n")
    assert "no broker answers at 127.0.0.1:1" in holloway("clients").err
    assert "no broker answers at 127.0.0.1:2" in holloway("clients", "--state", "two").err
    # Who names a node means it, although a key file could do without.
    keys(server_public_key=FOREIGN)
    (tmp_path / "three").mkdir()
    (tmp_path / "three" / "holloway.toml").write_text('[control]\nsocket = "control.sock"\n')
    assert holloway("clients", "--state", "three").error[0] == "the daemon is not running"


# The broker.


def test_a_broker_sits_on_the_overlay_address_of_its_node(network: Callable[..., None], tmp_path: Path) -> None:
    network()
    seat = find_seat(None, tmp_path / "b", 1, 2)
    assert (seat.bind, seat.enrolled is not None) == ("10.99.4.9", True)
    assert seat.place is not None
    public = ServerKeys(tmp_path / "b").read().public_key
    assert seat.place.fields() == {"address": "10.99.4.9", "command_port": 1, "file_port": 2, "curve_key": public}
    for bind, announced in (("0.0.0.0", "10.99.4.9"), ("::", "fd99::9"), ("fd99::9", "fd99::9"), ("127.0.0.1", None)):
        seat = find_seat(bind, tmp_path / "b", 1, 2)
        assert seat.bind == bind
        assert (None if seat.place is None else str(seat.place.address)) == announced
        assert seat.enrolled is not None


def test_a_broker_without_a_network_is_alone(tmp_path: Path) -> None:
    assert find_seat(None, tmp_path / "b", 1, 2) == Seat("127.0.0.1")
    assert find_seat("192.0.2.1", tmp_path / "b", 1, 2) == Seat("192.0.2.1")


def test_a_broker_waits_for_its_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or it would come up on the loopback address, after a start of the machine, and nobody would find it."""
    monkeypatch.setattr("holloway.cli.broker_network.config_file", lambda path: tmp_path / "holloway.toml")
    (tmp_path / "holloway.toml").write_text("")
    with pytest.raises(CommandFailedError, match="the node is not up") as refused:
        find_seat(None, tmp_path / "b", 1, 2)
    assert refused.value.code == ExitCode.UNREACHABLE
    assert find_seat("127.0.0.1", tmp_path / "b", 1, 2).bind == "127.0.0.1"


# The agent.


def agent(name: str | None = None, host: str | None = None, keys: str | None = None, root: Path | None = None) -> Any:
    return enrolled_agent(name, host, keys, root, os.environ)


def test_an_agent_is_its_node_with_a_key_of_its_own_below_its_root(network: Callable[..., None]) -> None:
    network(A, B)
    keys(server_public_key=ONE)  # an operator's, on the same machine
    name, found, where = agent()
    path = Path(".holloway/own") / CURVE_FOLDER / CLIENT_KEYS
    assert (name, found.is_known, where.node) == ("own", False, None)
    assert (found.keys, stat.S_IMODE(path.stat().st_mode)) == (str(path.absolute()), 0o600)
    again = agent(name="own", host="b")
    assert (again[1].pair, again[2].node) == (found.pair, "b")
    assert agent(root=Path("elsewhere"))[1].pair != found.pair
    with pytest.raises(click.UsageError, match="the network says at which port"):
        agent(host="b:7")
    with pytest.raises(CommandFailedError, match="cannot be called web"):
        agent(name="web")


def test_an_agent_with_a_key_file_or_a_broker_elsewhere_is_let_in_by_hand(
    network: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    network(A)
    assert agent(keys="web.yml") is None
    assert agent(host="192.0.2.1") is None
    monkeypatch.setenv("HOLLOWAY_CURVE_KEY_FILE", "web.yml")
    assert agent() is None


def test_an_agent_where_records_are_not_signed_is_let_in_by_hand(network: Callable[..., None]) -> None:
    network(is_signed=False)
    assert agent() is None
    assert not Path(".holloway").exists()


def test_an_agent_that_may_not_talk_to_the_daemon_has_root_do_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse() -> None:
        raise CommandFailedError("not permitted to talk to the daemon", "", "", ExitCode.PERMISSION)

    monkeypatch.setattr("holloway.cli.agent_network.own_network", refuse)
    with pytest.raises(CommandFailedError, match="may not tell the node's daemon") as refused:
        agent(name="own", root=tmp_path / "agent")
    kept = read_keys(tmp_path / "agent" / CURVE_FOLDER / CLIENT_KEYS)
    assert kept is not None
    assert f"holloway client enrol '{kept.public_key}'" in refused.value.fix
    assert kept.private_key not in refused.value.fix
    keys(server_public_key=ONE)
    assert agent(name="own", root=tmp_path / "agent") is None


# The authority.


def test_the_authority_names_whose_brokers_are_obeyed(holloway: Callable[..., Any], tmp_path: Path) -> None:
    state = ("--state", str(tmp_path / "state"))
    assert holloway("init", "home", "--name", "a", *state).code == 0

    def settings(*words: str) -> Any:
        done = holloway("network", *words, "--json", *state)
        assert done.code == 0, done.err
        validate("network", done.document)
        return done.document["settings"].get("brokers")

    assert settings() == ["a"]
    assert settings("--broker", "b", "--broker", "c", "--broker", "b") == ["b", "c"]
    assert "brokers         b, c" in holloway("network", *state).out
    assert settings("--rest", "1h") == ["b", "c"]
    assert settings("--broker", "none") is None
    refused = holloway("network", "--broker", "b/c", *state)
    assert (refused.code, refused.error[0]) == (1, "the list of brokers cannot be used")


def test_where_the_store_is_believed_nobody_names_brokers(holloway: Callable[..., Any], tmp_path: Path) -> None:
    state = ("--state", str(tmp_path / "state"))
    assert holloway("init", "home", "--name", "a", "--trust", "store", *state).code == 0
    refused = holloway("network", "--broker", "a", *state)
    assert (refused.code, refused.error[0]) == (1, "--broker would change nothing")
