"""Where values come from: flags over variables over the file over defaults, and what each of them may be."""

from __future__ import annotations

from ipaddress import ip_interface, ip_network
from pathlib import Path

import pytest

from holloway.actors.config import Endpoint, Examined, Source, examine_config, load_config
from holloway.actors.config.reference import toml_value
from holloway.actors.config.sockets import control_socket, default_socket, socket_folders

FILE = """\
[node]
name = "a"
[interface]
name = "hw0"
addresses = ["10.99.0.1/24"]
mtu = 1400
[session]
private_key_file = "keys/a.key"
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "node.toml"
    path.write_text(FILE)
    return path


def origins(examined: Examined) -> dict[str, tuple[Source, str]]:
    return {f"{each.key[0]}.{each.key[1]}": (each.source, each.detail) for each in examined.settings}


def test_flags_beat_variables_beat_the_file_beats_defaults(path: Path) -> None:
    variables = {"HOLLOWAY_INTERFACE_MTU": "1300", "HOLLOWAY_LISTEN_PORT": "2000"}
    assert load_config(path).interface.mtu == 1400
    assert load_config(path).listen.port == 1099
    with_variables = load_config(path, environ=variables)
    assert (with_variables.interface.mtu, with_variables.listen.port) == (1300, 2000)
    with_flags = load_config(path, environ=variables, overrides={"interface.mtu": 1280})
    assert (with_flags.interface.mtu, with_flags.listen.port) == (1280, 2000)


def test_every_setting_tells_its_origin(path: Path) -> None:
    examined = examine_config(path, environ={"HOLLOWAY_LISTEN_PORT": "2000"}, overrides={"node.network": "home"})
    told = origins(examined)
    assert told["node.network"] == (Source.FLAG, "")
    assert told["listen.port"] == (Source.ENVIRONMENT, "HOLLOWAY_LISTEN_PORT")
    assert told["interface.mtu"] == (Source.FILE, f"{path}:6")
    assert told["session.rekey_after_s"] == (Source.DEFAULT, "")
    assert told["control.socket"] == (Source.DEFAULT, "")


def test_times_may_have_units_wherever_they_are_given(path: Path) -> None:
    registry = '[registry]\nurl = "sqlite:///x"\ntrust = "store"\nlease_s = "2d"\n'
    path.write_text(FILE + 'rekey_timeout_s = "0.25m"\n' + registry)
    config = load_config(path, environ={"HOLLOWAY_SESSION_KEEPALIVE_TIMEOUT_S": "1h"})
    assert config.registry is not None
    assert config.registry.lease_s == 172_800
    timers = config.session.timers
    assert (timers.rekey_timeout_s, timers.keepalive_timeout_s) == (15, 3600)


def test_a_sound_value_hides_a_wrong_weaker_one(path: Path) -> None:
    path.write_text(FILE.replace("1400", "7"))
    assert load_config(path, environ={"HOLLOWAY_INTERFACE_MTU": "1300"}).interface.mtu == 1300


def test_variables_hold_lists_numbers_and_endpoints(path: Path) -> None:
    config = load_config(
        path,
        environ={
            "HOLLOWAY_INTERFACE_ADDRESSES": "10.1.0.1/16, fd99::1/64",
            "HOLLOWAY_LISTEN_ADVERTISE": "192.0.2.1:7,[fd00::1]:8",
            "HOLLOWAY_SESSION_REKEY_AFTER_S": "60.5",
            "HOLLOWAY_NODE_PREFIXES": "192.168.0.0/16",
        },
    )
    assert config.interface.addresses == (ip_interface("10.1.0.1/16"), ip_interface("fd99::1/64"))
    assert config.listen.advertise == (Endpoint("192.0.2.1", 7), Endpoint("fd00::1", 8))
    assert config.session.timers.rekey_after_s == 60.5
    assert config.node.prefixes == (ip_network("192.168.0.0/16"),)


@pytest.mark.parametrize(("text", "size"), [("8 MiB", 8 << 20), ("8192KiB", 8 << 20), ("8388609", (8 << 20) + 1)])
def test_a_variable_or_flag_holds_a_size(path: Path, text: str, size: int) -> None:
    assert load_config(path).limits.memory == 64 << 20
    assert load_config(path, environ={"HOLLOWAY_LIMITS_MEMORY": text}).limits.memory == size
    assert load_config(path, overrides={"limits.memory": text}).limits.memory == size


def test_a_size_is_shown_as_it_is_written_in_a_file(path: Path) -> None:
    for written, shown in (("8 MiB", "8 MiB"), ("8192 KiB", "8 MiB"), ("8388609", "8388609 B")):
        memory = load_config(path, environ={"HOLLOWAY_LIMITS_MEMORY": written}).limits.memory
        assert toml_value(memory) == f'"{shown}"'
        assert load_config(path, overrides={"limits.memory": shown}).limits.memory == memory


def test_flags_may_be_text_or_native(path: Path) -> None:
    assert load_config(path, overrides={"listen.port": "7"}).listen.port == 7
    assert load_config(path, overrides={"interface.addresses": ["10.7.0.1/16"]}).interface.addresses == (
        ip_interface("10.7.0.1/16"),
    )


def test_an_empty_variable_counts_as_unset(path: Path) -> None:
    assert load_config(path, environ={"HOLLOWAY_INTERFACE_MTU": ""}).interface.mtu == 1400


def test_paths_start_at_the_file_and_those_of_variables_at_the_working_folder(path: Path) -> None:
    assert load_config(path).session.private_key_file == path.parent / "keys/a.key"
    elsewhere = load_config(path, environ={"HOLLOWAY_SESSION_PRIVATE_KEY_FILE": "b.key"})
    assert elsewhere.session.private_key_file == Path("b.key")
    absolute = load_config(path, overrides={"session.private_key_file": "/etc/b.key"})
    assert absolute.session.private_key_file == Path("/etc/b.key")


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("HOLLOWAY_LISTEN_PRT", "did you mean HOLLOWAY_LISTEN_PORT?"),
        ("HOLLOWAY_LISTEN_XYZZY_QUUX_FOO", "unset it, or use one of HOLLOWAY_LISTEN_PORT"),
        ("HOLLOWAY_INTEFACE_MTU", "did you mean HOLLOWAY_INTERFACE_MTU?"),
        ("HOLLOWAY_PEER_NAME", "unset it: [[peer]] sections come from the file alone"),
    ],
)
def test_a_variable_that_looks_like_configuration_and_is_not_is_told(path: Path, name: str, fix: str) -> None:
    [problem] = examine_config(path, environ={name: "1"}).problems
    assert (problem.path, problem.line, problem.key, problem.what) == (None, None, name, "unknown variable")
    assert problem.fix.startswith(fix)


@pytest.mark.parametrize("name", ["HOLLOWAY_VENV", "HOLLOWAY_PYTHON", "HOLLOWAY_SERVICE_HOST", "HOLLOWAY_PORT", "PORT"])
def test_variables_of_others_are_left_alone(path: Path, name: str) -> None:
    assert examine_config(path, environ={name: "1"}).problems == ()


@pytest.mark.parametrize(
    ("name", "value", "key", "what"),
    [
        ("HOLLOWAY_INTERFACE_MTU", "big", "HOLLOWAY_INTERFACE_MTU", 'found text "big"'),
        ("HOLLOWAY_INTERFACE_MTU", "9" * 30, "HOLLOWAY_INTERFACE_MTU", "found text"),
        ("HOLLOWAY_SESSION_REKEY_AFTER_S", "nan", "HOLLOWAY_SESSION_REKEY_AFTER_S", '"nan" is no time'),
        ("HOLLOWAY_INTERFACE_ADDRESSES", "10.0.0.1/8,x", "HOLLOWAY_INTERFACE_ADDRESSES[1]", "is not an address"),
        ("HOLLOWAY_INTERFACE_ADDRESSES", ",", "HOLLOWAY_INTERFACE_ADDRESSES", "the list is empty"),
        ("HOLLOWAY_INTERFACE_NAME", "\udc80", "HOLLOWAY_INTERFACE_NAME", "\\udc80"),
    ],
)
def test_a_wrong_variable_is_told_by_its_name(path: Path, name: str, value: str, key: str, what: str) -> None:
    [problem] = examine_config(path, environ={name: value}).problems
    assert (problem.path, problem.key) == (None, key)
    assert what in problem.what
    assert str(problem).startswith(f"{key}: ")


def test_a_wrong_flag_and_an_unknown_one_are_told(path: Path) -> None:
    found = examine_config(path, overrides={"interface.mtu": 7, "interface.mtuu": 1}).problems
    assert [(each.path, each.key) for each in found] == [(None, "interface.mtu (flag)"), (None, "interface.mtuu")]
    assert found[1].fix == "did you mean interface.mtu?"


def test_a_relation_broken_by_a_variable_names_the_variable(path: Path) -> None:
    environ = {"HOLLOWAY_INTERFACE_ADDRESSES": "fd99::1/64", "HOLLOWAY_INTERFACE_MTU": "1000"}
    [problem] = examine_config(path, environ=environ).problems
    assert problem.key == "HOLLOWAY_INTERFACE_MTU"
    assert "too small for an IPv6 address" in problem.what


def test_the_registry_exists_when_any_source_names_it(path: Path) -> None:
    assert load_config(path).registry is None
    environ = {"HOLLOWAY_REGISTRY_URL": "sqlite:///n.db"}
    [problem] = examine_config(path, environ=environ).problems
    assert (problem.key, problem.what) == ("registry.trust", "missing")
    registry = load_config(path, environ=environ, overrides={"registry.trust": "store"}).registry
    assert registry is not None
    assert (registry.url, registry.lease_s) == ("sqlite:///n.db", 30.0)
    path.write_text(FILE + "[registry]\n")
    assert [each.key for each in examine_config(path).problems] == ["registry.url", "registry.trust"]


def test_the_default_socket_is_of_root_or_of_the_user() -> None:
    environ = {"XDG_RUNTIME_DIR": "/run/user/7"}
    assert default_socket("hw0", environ, uid=0) == Path("/run/holloway/hw0.sock")
    assert default_socket("hw0", environ, uid=7) == Path("/run/user/7/holloway/hw0.sock")
    assert default_socket("hw0", {}, uid=9) == Path("/run/user/9/holloway/hw0.sock")
    assert socket_folders(environ, uid=7) == (Path("/run/holloway"), Path("/run/user/7/holloway"))


def test_the_default_socket_follows_the_interface_and_is_judged(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 7)
    control = load_config(path, environ={"XDG_RUNTIME_DIR": "/r"}).control
    assert control is not None
    assert control.socket == Path("/r/holloway/hw0.sock")
    [problem] = examine_config(path, environ={"XDG_RUNTIME_DIR": "/" + "r" * 100}).problems
    assert problem.key == "control.socket"
    assert "bytes, a socket's at most 107" in problem.what


@pytest.mark.parametrize(
    ("text", "environ", "expected"),
    [
        (FILE, {}, "/r/holloway/hw0.sock"),
        (FILE, {"HOLLOWAY_INTERFACE_NAME": "x1"}, "/r/holloway/x1.sock"),
        (FILE + '[control]\nsocket = "s.sock"', {}, "{folder}/s.sock"),
        (FILE + '[control]\nsocket = "s.sock"', {"HOLLOWAY_CONTROL_SOCKET": "t.sock"}, "t.sock"),
        ('[interface]\nname = "hw0"\n[nonsense]\n', {}, "/r/holloway/hw0.sock"),
    ],
)
def test_the_socket_of_a_file_is_found_without_judging_the_rest(
    path: Path, monkeypatch: pytest.MonkeyPatch, text: str, environ: dict[str, str], expected: str
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 7)
    path.write_text(text)
    found = control_socket(path, environ | {"XDG_RUNTIME_DIR": "/r"})
    assert found == Path(expected.format(folder=path.parent))
    if "nonsense" not in text:
        control = load_config(path, environ=environ | {"XDG_RUNTIME_DIR": "/r"}).control
        assert control is not None
        assert control.socket == found
