"""Configurations that a program builds: usable without a file, judged by the same rules, silent about keys."""

from __future__ import annotations

import base64
import dataclasses
import subprocess
import sys
from ipaddress import IPv4Address, ip_interface, ip_network
from pathlib import Path

import pytest

import holloway.actors.config as package
from holloway.actors.config import (
    Config,
    ConfigProblems,
    ControlConfig,
    Endpoint,
    FloatingConfig,
    IdentityConfig,
    InterfaceConfig,
    LimitsConfig,
    ListenConfig,
    NodeConfig,
    PeerConfig,
    RegistryConfig,
    SessionConfig,
    TimersConfig,
    load_config,
    verify_config,
)
from holloway.actors.config.fields import Absent
from holloway.actors.config.model import MAX_FLOATING, MAX_PRIORITY
from holloway.actors.config.reference import reference
from holloway.actors.config.schema import BY_NAME, SECTIONS
from holloway.protocols import floating_claims

PEER = PeerConfig(name="b", public_key=bytes(range(32)), allowed=(ip_network("10.99.0.2/32"),))
CONFIG = Config(
    node=NodeConfig(name="a"),
    interface=InterfaceConfig(name="hw0", addresses=(ip_interface("10.99.0.1/24"),)),
    session=SessionConfig(private_key=bytes(range(32, 64))),
    peers=(PEER,),
)


def problems_of(config: Config) -> list[tuple[str, str]]:
    with pytest.raises(ConfigProblems) as raised:
        verify_config(config)
    return [(each.key, each.what) for each in raised.value.problems]


def with_session(**changes: object) -> Config:
    return dataclasses.replace(CONFIG, session=dataclasses.replace(CONFIG.session, **changes))  # type: ignore[arg-type]


def with_peer(**changes: object) -> Config:
    return dataclasses.replace(CONFIG, peers=(dataclasses.replace(PEER, **changes),))  # type: ignore[arg-type]


def test_a_program_needs_only_a_node_an_interface_and_a_key() -> None:
    verify_config(CONFIG)
    assert CONFIG.control is None
    assert CONFIG.registry is None
    assert CONFIG.listen == ListenConfig(port=1099)
    assert CONFIG.session.timers == TimersConfig(rekey_after_s=120.0, reject_after_s=180.0)


def test_what_only_programs_may_do_passes() -> None:
    registry = RegistryConfig(url="memory:", trust="store", lease_s=1.0)
    listen = ListenConfig(port=0, address="127.0.0.1", advertise=(Endpoint("fd00::1", 7), Endpoint("h.example", 8)))
    verify_config(dataclasses.replace(CONFIG, registry=registry, listen=listen, peers=()))


def test_a_loaded_configuration_passes(tmp_path: Path) -> None:
    path = tmp_path / "n.toml"
    path.write_text(
        '[node]\nname="a"\n[interface]\nname="hw0"\naddresses=["fd99::1/64"]\n[session]\nprivate_key_file="k"\n'
        f'[[peer]]\nname="b"\npublic_key="{base64.b64encode(bytes(range(32))).decode()}"\nallowed=["fd99::2/128"]\n'
        'endpoint="[fd00::1]:7"\n[registry]\nurl="sqlite:///n.db"\ntrust="store"\n'
    )
    config = load_config(path)
    verify_config(config)
    assert config.path == path
    assert isinstance(config.control, ControlConfig)


@pytest.mark.parametrize(
    ("config", "key"),
    [
        (dataclasses.replace(CONFIG, node=NodeConfig(name="a b")), "node.name"),
        (dataclasses.replace(CONFIG, interface=dataclasses.replace(CONFIG.interface, mtu=1)), "interface.mtu"),
        (
            dataclasses.replace(CONFIG, interface=dataclasses.replace(CONFIG.interface, addresses=())),
            "interface.addresses",
        ),
        (dataclasses.replace(CONFIG, listen=ListenConfig(advertise=(Endpoint("", 7),))), "listen.advertise[0]"),
        (dataclasses.replace(CONFIG, listen=ListenConfig(port=-1)), "listen.port"),
        (with_session(timers=TimersConfig(rekey_after_s=float("nan"))), "session.rekey_after_s"),
        (with_session(timers=TimersConfig(reject_after_s=125)), "session.reject_after_s"),
        (with_session(private_key=None), "session.private_key"),
        (with_session(private_key_file=Path("k")), "session.private_key"),
        (with_session(private_key=b"short"), "session.private_key"),
        (with_session(passphrase=b"x", passphrase_file=Path("p")), "session.passphrase"),
        (with_session(passphrase=b""), "session.passphrase"),
        (with_peer(public_key=b"short"), "peer[0].public_key"),
        (with_peer(public_key=bytes(32)), "peer[0].public_key"),
        (with_peer(allowed=(ip_network("10.99.0.1/32"),)), "peer[0].allowed[0]"),
        (with_peer(suite="des"), "peer[0].suite"),
        (with_peer(preshared_key=b"short"), "peer[0].preshared_key"),
        (with_peer(preshared_key=bytes(32), preshared_key_file=Path("p")), "peer[0].preshared_key"),
        (dataclasses.replace(CONFIG, peers=(PEER, dataclasses.replace(PEER, name="c", allowed=()))), "peer[1].allowed"),
        (dataclasses.replace(CONFIG, registry=RegistryConfig(url="etcd:", trust="store")), "registry.url"),
        (dataclasses.replace(CONFIG, registry=RegistryConfig(url="memory:", trust="all")), "registry.trust"),
        (dataclasses.replace(CONFIG, limits=LimitsConfig(memory=(8 << 20) - 1)), "limits.memory"),
        (dataclasses.replace(CONFIG, limits=LimitsConfig(memory=64.0)), "limits.memory"),  # type: ignore[arg-type]
        (dataclasses.replace(CONFIG, control=ControlConfig(socket=Path("/" + "x" * 107))), "control.socket"),
    ],
)
def test_the_rules_of_files_hold_for_programs(config: Config, key: str) -> None:
    assert key in [found for found, _ in problems_of(config)]


def test_all_problems_of_a_program_come_at_once() -> None:
    config = dataclasses.replace(with_peer(name="a"), listen=ListenConfig(port=-1))
    assert [key for key, _ in problems_of(config)] == ["listen.port", "peer[0].name"]


def test_a_refused_value_of_a_program_silences_the_rules_that_need_it() -> None:
    interface = InterfaceConfig(name="hw0", addresses=(ip_interface("fd99::1/64"),), mtu=-1)
    assert problems_of(dataclasses.replace(CONFIG, interface=interface)) == [("interface.mtu", "-1 is below 576")]


def test_no_repr_shows_a_key() -> None:
    secret = b"Zk9!secretsecretsecretsecretsec!"
    config = dataclasses.replace(
        CONFIG,
        session=SessionConfig(private_key=secret, passphrase=secret),
        peers=(dataclasses.replace(PEER, preshared_key=secret),),
    )
    assert "secret" not in repr(config)
    assert "secret" not in str(config)


def test_values_are_frozen_and_equal_by_value() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        CONFIG.node.name = "b"  # type: ignore[misc]
    assert with_session() == CONFIG
    assert hash(PEER) == hash(dataclasses.replace(PEER))
    assert (str(Endpoint("fd00::1", 7)), str(Endpoint("192.0.2.1", 7))) == ("[fd00::1]:7", "192.0.2.1:7")


def test_every_key_of_the_table_is_a_field_of_its_dataclass_with_the_same_default() -> None:
    classes = {
        "node": NodeConfig,
        "interface": InterfaceConfig,
        "listen": ListenConfig,
        "peer": PeerConfig,
        "control": ControlConfig,
        "limits": LimitsConfig,
        "registry": RegistryConfig,
        "identity": IdentityConfig,
    }
    for name, kind in classes.items():
        by_name = {field.name: field for field in dataclasses.fields(kind)}
        for field in BY_NAME[name].fields:
            default = by_name[field.key].default
            if field.unless:
                assert default == ()
            elif isinstance(field.default, Absent):
                assert default is dataclasses.MISSING
            else:
                assert default == field.default
        assert set(by_name) - {field.key for field in BY_NAME[name].fields} <= {"preshared_key"}


def test_the_reference_names_every_section_and_key_and_is_the_file_in_docs() -> None:
    text = reference()
    for section in SECTIONS:
        assert f"## `{section.heading}`" in text
        for field in section.fields:
            assert f"| `{field.key}` |" in text
    docs = Path(__file__).parents[2] / "docs" / "config.md"
    assert docs.read_text(encoding="utf-8") == text, "run: holloway config docs > docs/config.md"


def test_the_example_of_the_reference_is_a_sound_file(tmp_path: Path) -> None:
    path = tmp_path / "n.toml"
    path.write_text(reference().partition("```toml\n")[2].partition("```")[0])
    assert load_config(path).peers[0].name == "b"


def test_importing_the_configuration_brings_neither_trio_nor_cryptography() -> None:
    code = (
        "import sys\nfrom holloway.actors.config import *\nload_config\n"
        "print(sorted({'trio', 'cryptography', 'yaml', 'click', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout == "[]\n"


def test_every_public_name_exists_and_no_other() -> None:
    for name in package.__all__:
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = package.no_such_name


FLOATING = FloatingConfig(address=IPv4Address("10.99.2.1"), priority=5)
STORE = RegistryConfig(url="memory:", trust="store")


def test_floating_addresses_need_a_registry_and_somebody_to_believe() -> None:
    verify_config(dataclasses.replace(CONFIG, floating=(FLOATING,), registry=STORE))
    what = "nodes agree on it in a [registry], and there is none"
    assert problems_of(dataclasses.replace(CONFIG, floating=(FLOATING,))) == [("floating[0].address", what)]
    pinned = RegistryConfig(url="memory:", trust="pinned")
    what = "with pinned peers nobody says who may have it"
    assert problems_of(dataclasses.replace(CONFIG, floating=(FLOATING,), registry=pinned)) == [
        ("floating[0].address", what)
    ]


def test_an_address_floats_once_or_not_at_all() -> None:
    def said(*addresses: str) -> list[str]:
        floating = tuple(FloatingConfig(address=IPv4Address(each)) for each in addresses)
        return [what for _, what in problems_of(dataclasses.replace(CONFIG, floating=floating, registry=STORE))]

    assert said("10.99.0.1") == ["10.99.0.1 is already this node's own address"]
    assert said("10.99.0.2") == ['10.99.0.2 is already allowed to "b"']
    assert said("10.99.2.1", "10.99.2.1") == ["10.99.2.1 has a section already"]
    assert said(*(f"10.99.2.{number}" for number in range(1, MAX_FLOATING + 2))) == ["there are 17 floating addresses"]
    assert said("224.0.0.1") == ["224.0.0.1 cannot be a node's address"]


def test_a_priority_is_one_that_the_others_believe() -> None:
    assert MAX_PRIORITY == floating_claims.MAX_PRIORITY
    wild = dataclasses.replace(FLOATING, priority=MAX_PRIORITY + 1)
    ((key, _),) = problems_of(dataclasses.replace(CONFIG, floating=(wild,), registry=STORE))
    assert key == "floating[0].priority"


def test_floating_addresses_are_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text(
        '[node]\nname = "a"\n[interface]\nname = "hw0"\naddresses = ["10.99.0.1/24"]\n'
        '[session]\nprivate_key_file = "a.key"\n[registry]\nurl = "sqlite:///net.db"\ntrust = "store"\n'
        '[[floating]]\naddress = "10.99.2.1"\npriority = 5\n[[floating]]\naddress = "10.99.2.2"\n'
    )
    assert load_config(path).floating == (FLOATING, FloatingConfig(address=IPv4Address("10.99.2.2")))
