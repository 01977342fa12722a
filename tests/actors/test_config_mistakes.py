"""Every kind of mistake in a configuration is told with its line, its key, what is wrong and what mends it."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from holloway.actors.config import ConfigProblems, Problem, examine_config, load_config
from holloway.protocols.errors import ConfigError

KEY_B = base64.b64encode(bytes(range(32))).decode()
KEY_C = base64.b64encode(bytes(range(1, 33))).decode()

SOUND = f"""\
[node]
name = "a"
network = "home"
prefixes = ["192.168.5.0/24"]

[interface]
name = "hw0"
addresses = ["10.99.0.1/24", "fd99::1/64"]
mtu = 1400

[listen]
port = 1099
address = "192.0.2.1"
advertise = ["192.0.2.1:1099", "[2001:db8::1]:1099", "a.example:1099"]

[session]
private_key_file = "a.key"
rekey_after_s = 100

[[peer]]
name = "b"
public_key = "{KEY_B}"
endpoint = "192.0.2.7:1099"
allowed = ["10.99.0.2/32", "fd99::2/128"]
suite = "aes-gcm"
keepalive_s = 25

[[peer]]
name = "c"
public_key = "{KEY_C}"
allowed = [
    "10.99.0.3/32",
    "10.98.0.0/16",
]

[control]
socket = "/run/holloway/hw0.sock"

[registry]
url = "sqlite:///var/lib/holloway/net.db"
trust = "store"
lease_s = 30

[limits]
memory = "64 MiB"
"""


def changed(old: str, new: str) -> str:
    """The sound document with the one place where `old` stands replaced; the mark `#<` in `new` says the line."""
    assert SOUND.count(old) == 1, old
    return SOUND.replace(old, new)


def problems_of(tmp_path: Path, text: str, **environ: str) -> list[Problem]:
    path = tmp_path / "node.toml"
    path.write_text(text, encoding="utf-8")
    return list(examine_config(path, environ=environ).problems)


def test_the_sound_document_has_no_problem(tmp_path: Path) -> None:
    assert problems_of(tmp_path, SOUND) == []


# (identity, place in the sound document, what is written there, key, part of what, part of fix)
MISTAKES = [
    ("unknown key", "mtu = 1400", "mtuu = 1400 #<", "interface.mtuu", "unknown key", "did you mean mtu?"),
    ("key of another section", 'network = "home"', "mtu = 1400 #<", "node.mtu", "unknown key", "under [interface]"),
    (
        "misspelt key that another section has",
        'addresses = ["10.99.0.1/24", "fd99::1/64"]',
        'addresses = ["10.99.0.1/24"]\naddress = "x" #<',
        "interface.address",
        "unknown key",
        "did you mean addresses?",
    ),
    ("key like no other", "port = 1099", "zzz = 1 #<", "listen.zzz", "unknown key", "use port, address, advertise"),
    ("quoted odd key", "port = 1099", '"a\\nb" = 1 #<', "listen.'a\\nb'", "unknown key", "use port"),
    ("unknown section", "[listen]", "[lisen] #<", "lisen", "unknown section", "did you mean [listen]?"),
    ("section like no other", "[control]", "[qqqqq] #<", "qqqqq", "unknown section", "use node, interface"),
    ("key outside", "[node]", "mtu = 1400 #<\n[node]", "mtu", "outside any section", "under [interface]"),
    ("single section repeated", "[listen]", "[[listen]] #<", "listen", "there is only one", "write it as [listen]"),
    (
        "section is a value",
        "[control]\nsocket =",
        "[listen.control] #<\nsocket =",
        "listen.control",
        "unknown key",
        "use port",
    ),
    ("text for integer", "port = 1099", 'port = "1099" #<', "listen.port", "found text", "without quotes"),
    ("boolean for integer", "port = 1099", "port = true #<", "listen.port", "found a boolean", "from 0 to 65535"),
    ("number for integer", "port = 1099", "port = 10.5 #<", "listen.port", "found a number", "from 0 to 65535"),
    ("integer too large", "port = 1099", "port = 70000 #<", "listen.port", "70000 is above 65535", "use 0 to 65535"),
    ("integer too small", "port = 1099", "port = -1 #<", "listen.port", "-1 is below 0", "use 0 to 65535"),
    ("enormous", "port = 1099", f"port = 0x{'f' * 9000} #<", "listen.port", "an enormous number", "use 0 to 65535"),
    ("mtu too small", "mtu = 1400", "mtu = 575 #<", "interface.mtu", "575 is below 576", "use 576 to 65000"),
    ("mtu too large", "mtu = 1400", "mtu = 65001 #<", "interface.mtu", "above 65000", "use 576 to 65000"),
    ("no flag", "mtu = 1400", "offloads = 0 #<", "interface.offloads", "expected true or false", "without quotes"),
    ("mtu for IPv6", "mtu = 1400", "mtu = 1279 #<", "interface.mtu", "too small for an IPv6", "use 1280 or more"),
    ("integer for text", 'network = "home"', "network = 5 #<", "node.network", "found an integer 5", "in quotes"),
    (
        "text for list",
        '["192.168.5.0/24"]',
        '"192.168.5.0/24"',
        "node.prefixes",
        "a list, found text",
        '["192.168.5.0/24"]',
    ),
    ("bad name", 'name = "a"', 'name = "a b" #<', "node.name", '"a b" is not a name', "letters, digits"),
    ("name with escape", 'name = "a"', 'name = "a\\u001b[1m" #<', "node.name", "\\x1b[1m", "letters, digits"),
    ("long name", 'name = "a"', f'name = "{"x" * 64}" #<', "node.name", "is not a name", "1 to 63"),
    (
        "long interface",
        'name = "hw0"',
        'name = "hw01234567890123" #<',
        "interface.name",
        "has 16 characters",
        "shorter",
    ),
    ("odd interface", 'name = "hw0"', 'name = "hw%d" #<', "interface.name", "not an interface name", "such as hw0"),
    ("slash in interface", 'name = "hw0"', 'name = "../hw" #<', "interface.name", "not an interface name", "hw0"),
    (
        "not an address",
        'address = "192.0.2.1"',
        'address = "eth0" #<',
        "listen.address",
        "not an IP address",
        "of this machine",
    ),
    ("multicast listen", 'address = "192.0.2.1"', 'address = "ff02::1" #<', "listen.address", "multicast", "own"),
    ("no port", '"a.example:1099"', '\n"a.example" #<\n', "listen.advertise[2]", "has no port", '"a.example:1099"'),
    ("port zero", '"a.example:1099"', '\n"a.example:0" #<\n', "listen.advertise[2]", '"0" is not a port', "1 to 65535"),
    ("bad host", '"a.example:1099"', '\n"a b:9" #<\n', "listen.advertise[2]", "begin with a host", "host.example"),
    ("bad IPv4", "192.0.2.7:1099", "192.0.2.777:1099", "peer[0].endpoint", "not an IPv4 address", "192.0.2.7:1099"),
    ("bare IPv6", "192.0.2.7:1099", "fd00::1:1099", "peer[0].endpoint", "not host:port", '"[fd00::1]:1099"'),
    ("bad IPv6", "192.0.2.7:1099", "[fd00::zz]:1099", "peer[0].endpoint", "not an IPv6 address", "[fd00::1]:1099"),
    (
        "no prefix length",
        '"10.99.0.1/24"',
        '"10.99.0.1"',
        "interface.addresses[0]",
        "no prefix length",
        '"10.99.0.1/32"',
    ),
    (
        "network as address",
        '"10.99.0.1/24"',
        '"10.99.0.0/24"',
        "interface.addresses[0]",
        "network itself",
        "10.99.0.1/24",
    ),
    ("loopback", '"10.99.0.1/24"', '"127.0.0.1/8"', "interface.addresses[0]", "cannot be a node's", "private"),
    ("mask", '"10.99.0.1/24"', '"10.99.0.1/255.0.0.0"', "interface.addresses[0]", "is not an address", "10.99.0.1/24"),
    (
        "address twice",
        '"fd99::1/64"',
        '"10.99.0.1/16"',
        "interface.addresses[1]",
        "10.99.0.1 is listed twice",
        "remove",
    ),
    (
        "no addresses",
        '["10.99.0.1/24", "fd99::1/64"]',
        "[]",
        "interface.addresses",
        "the list is empty",
        "at least one",
    ),
    ("host bits", '"192.168.5.0/24"', '"192.168.5.7/24"', "node.prefixes[0]", "has host bits set", '"192.168.5.0/24"'),
    ("not a prefix", '"192.168.5.0/24"', '"house"', "node.prefixes[0]", '"house" is not a prefix', "10.99.0.0/24"),
    ("long prefix", '"192.168.5.0/24"', '"192.168.5.0/33"', "node.prefixes[0]", "is not a prefix", "10.99.0.0/24"),
    ("item type", '"192.168.5.0/24"', "24", "node.prefixes[0]", "found an integer", "in quotes"),
    ("key too short", KEY_B, KEY_B[4:], "peer[0].public_key", "29 bytes", "holloway pubkey"),
    ("key not base64", KEY_B, "§" * 44, "peer[0].public_key", "44 characters that are not base64", "44 characters"),
    ("key not canonical", KEY_B, KEY_B[:-2] + "9=", "peer[0].public_key", "not the canonical form", "44 characters"),
    ("zero key", KEY_B, "A" * 43 + "=", "peer[0].public_key", "all zero", "holloway pubkey"),
    ("same key", f'"{KEY_C}"', f'"{KEY_B}" #<', "peer[1].public_key", 'already "b"\'s (line 22)', "its own key"),
    ("same name", 'name = "c"', 'name = "b" #<', "peer[1].name", "name of another peer (line 21)", "its own name"),
    ("own name", 'name = "c"', 'name = "a" #<', "peer[1].name", "this node's own name (line 2)", "otherwise"),
    ("same prefix", '"10.98.0.0/16"', '"10.99.0.2/32"', "peer[1].allowed[1]", 'allowed to "b" (line 24)', "one place"),
    ("prefix twice", '"10.98.0.0/16"', '"10.99.0.3/32"', "peer[1].allowed[1]", 'allowed to "c" (line 32)', "one place"),
    (
        "prefix behind us",
        '"10.98.0.0/16"',
        '"192.168.5.0/24"',
        "peer[1].allowed[1]",
        "behind this node (line 4)",
        "one",
    ),
    ("own address", '"10.98.0.0/16"', '"10.99.0.1/32"', "peer[1].allowed[1]", "this node's own address", "the peer's"),
    (
        "nothing allowed",
        '["10.99.0.2/32", "fd99::2/128"]',
        "[]",
        "peer[0].allowed",
        "the list is empty",
        "at least one",
    ),
    ("suite", '"aes-gcm"', '"aesgcm"', "peer[0].suite", '"aesgcm" is not', 'did you mean "aes-gcm"?'),
    ("suite like no other", '"aes-gcm"', '"des"', "peer[0].suite", '"des" is not', 'use "aes-gcm" or "wireguard"'),
    ("keepalive", "keepalive_s = 25", "keepalive_s = 65536", "peer[0].keepalive_s", "out of range", "use 0 to 65535"),
    (
        "server nowhere",
        'name = "c"',
        'name = "c"\nplain_dtls = true #<',
        "peer[1].plain_dtls",
        "nobody says where to dial it",
        "add an endpoint",
    ),
    (
        "server with keepalives",
        "keepalive_s = 25",
        "plain_dtls = true\nkeepalive_s = 25 #<",
        "peer[0].keepalive_s",
        "for a packet",
        "leave it out",
    ),
    ("timer zero", "rekey_after_s = 100", "rekey_after_s = 0", "session.rekey_after_s", "out of range", "more than 0"),
    (
        "timer high",
        "rekey_after_s = 100",
        "rekey_after_s = 121",
        "session.rekey_after_s",
        "out of range",
        "at most 120",
    ),
    ("timer nan", "rekey_after_s = 100", "rekey_after_s = nan", "session.rekey_after_s", "out of range", "at most 120"),
    (
        "timer text",
        "rekey_after_s = 100",
        'rekey_after_s = "2 min"',
        "session.rekey_after_s",
        "is no time",
        "unit in quotes",
    ),
    (
        "timer relation",
        "rekey_after_s = 100",
        "reject_after_s = 125 #<",
        "session.reject_after_s",
        "120 + rekey_timeout_s 5 is 125",
        "more than 125",
    ),
    ("path", '"a.key"', "7", "session.private_key_file", "expected text", "in quotes"),
    ("folder", '"a.key"', '"keys/"', "session.private_key_file", "is a folder", "name a file in it"),
    ("NUL in path", '"a.key"', '"a\\u0000"', "session.private_key_file", "is not a path", "name a file"),
    (
        "secret inline",
        '_key_file = "a.key"',
        '_key_file = "a.key"\nprivate_key = "x" #<',
        "session.private_key",
        "files only",
        "private_key_file",
    ),
    (
        "secret by variable",
        "rekey_after_s = 100",
        'private_key_env = "K"',
        "session.private_key_env",
        "files only",
        "private_key_file",
    ),
    ("long socket", "/run/holloway/hw0.sock", f"/run/{'x' * 103}", "control.socket", "108 bytes", "shorter"),
    ("memory store", "sqlite:///var/lib/holloway/net.db", "memory:", "registry.url", "embed", "sqlite:///"),
    ("relative store", "sqlite:///var/lib/", "sqlite:", "registry.url", "not an absolute path", "three slashes"),
    ("store with a query", "sqlite:///var/lib/", "sqlite:///var/?lib/", "registry.url", "a query", "%3F"),
    ("other store", "sqlite:///var/lib/", "redis://", "registry.url", "not a store", "sqlite:///"),
    ("etcd without a host", "sqlite:///var/lib/", "etcd:///", "registry.url", "a host is missing", "etcd://"),
    ("trust", 'trust = "store"', 'trust = "anybody"', "registry.trust", '"anybody" is not', '"store"'),
    ("no trust", 'trust = "store"', "", "registry.trust", "missing", 'add: trust = "authority"'),
    ("no identity", 'trust = "store"', 'trust = "authority"', "registry.trust", "[identity]", "holloway join TOKEN"),
    (
        "memory unit",
        "64 MiB",
        "64 MB",
        "limits.memory",
        '"64 MB" is not a size',
        'write it like "8 MiB" with one of GiB, MiB',
    ),
    ("memory fraction", "64 MiB", "1.5 GiB", "limits.memory", "not a size", "8 MiB"),
    ("memory without unit", "64 MiB", "67108864", "limits.memory", "not a size", "bytes without quotes"),
    ("memory negative", '"64 MiB"', "-1", "limits.memory", "-1 B is below 8 MiB", "use 8 MiB to 256 GiB"),
    ("memory nothing", '"64 MiB"', "0", "limits.memory", "0 B is below 8 MiB", "use 8 MiB to 256 GiB"),
    ("memory small", "64 MiB", "8191 KiB", "limits.memory", "8191 KiB is below 8 MiB", "use 8 MiB to 256 GiB"),
    ("memory large", "64 MiB", "257 GiB", "limits.memory", "257 GiB is above 256 GiB", "use 8 MiB to 256 GiB"),
    ("memory enormous", '"64 MiB"', f"0x{'f' * 9000}", "limits.memory", "an enormous number", "use 8 MiB"),
    ("memory number", '"64 MiB"', "64.0", "limits.memory", "expected a size, found a number", "in quotes"),
    ("memory boolean", '"64 MiB"', "true", "limits.memory", "expected a size, found a boolean", "in quotes"),
    (
        "gateway is this node",
        "[limits]",
        '[gateway]\nthrough = "a" #<\n[limits]',
        "gateway.through",
        "this node itself",
        "name another",
    ),
    (
        "gateway that may not be one",
        "[limits]",
        '[gateway]\nthrough = "b" #<\n[limits]',
        "gateway.through",
        '"b" is allowed no default route',
        'add "0.0.0.0/0"',
    ),
    (
        "gateway of a gateway",
        '[node]\nname = "a"\nnetwork = "home"\nprefixes = ["192.168.5.0/24"]',
        '[gateway]\nthrough = "d" #<\n[node]\nname = "a"\nprefixes = ["::/0"]',
        "gateway.through",
        "this node offers a default route itself",
        "take it out of [node] prefixes",
    ),
    (
        "nothing to masquerade for",
        '[node]\nname = "a"\nnetwork = "home"\nprefixes = ["192.168.5.0/24"]',
        '[gateway]\nmasquerade = true #<\n[node]\nname = "a"',
        "gateway.masquerade",
        "no network lies behind this node",
        "0.0.0.0/0",
    ),
    (
        "strict without a gateway",
        "[limits]",
        "[gateway]\nstrict = true #<\n[limits]",
        "gateway.strict",
        "there is no gateway",
        "[gateway] through",
    ),
    ("keepalive half", "keepalive_s = 25", "keepalive_s = 0.5", "peer[0].keepalive_s", "whole seconds", "like"),
    ("lease", "lease_s = 30", "lease_s = 604801", "registry.lease_s", "out of range", "at most 604800"),
    ("no node name", 'name = "a"', "", "node.name", "missing", 'add: name = "a"'),
    ("no key file", 'private_key_file = "a.key"', "", "session.private_key_file", "missing", "add: private_key_file"),
    ("no interface name", 'name = "hw0"', "", "interface.name", "missing", "add: name"),
    ("no peer key", f'public_key = "{KEY_C}"', "", "peer[1].public_key", "missing", "add: public_key"),
]


@pytest.mark.parametrize(("old", "new", "key", "what", "fix"), [m[1:] for m in MISTAKES], ids=[m[0] for m in MISTAKES])
def test_one_mistake_is_one_problem_with_its_line_and_remedy(
    tmp_path: Path, old: str, new: str, key: str, what: str, fix: str
) -> None:
    text = changed(old, new)
    found = problems_of(tmp_path, text)
    expected_lines = [number for number, line in enumerate(text.splitlines(), 1) if "#<" in line]
    if not expected_lines:  # no mark: the mistake stands where the change was made, or a key was taken out
        start = SOUND.index(old)
        number = SOUND.count("\n", 0, start) + 1
        if what == "missing":  # told at the head of the section
            number = max(n for n, line in enumerate(text.splitlines(), 1) if line.startswith("[") and n <= number)
        expected_lines = [number]
    [problem] = found
    assert problem.key == key
    assert problem.line == expected_lines[0], problem
    assert what in problem.what
    assert fix in problem.fix
    assert problem.path == tmp_path / "node.toml"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("mtu = 1400", "mtu = 1280"),
        ("mtu = 1400", "mtu = 65000"),
        ('["10.99.0.1/24", "fd99::1/64"]\nmtu = 1400', '["10.99.0.1/24"]\nmtu = 576'),
        ('"10.99.0.1/24"', '"10.99.0.0/31"'),
        ('"10.98.0.0/16"', '"10.99.0.0/16"'),
        ("64 MiB", "8MiB"),
        ('"64 MiB"', "8388608"),
        ("64 MiB", "256 GiB"),
        ("64 MiB", "50000001 B"),
        ("rekey_after_s = 100", "reject_after_s = 125.5"),
        ("port = 1099", "port = 0"),
        ("keepalive_s = 25", "keepalive_s = 65535"),
        ("/run/holloway/hw0.sock", f"/run/{'x' * 102}"),
        ('name = "c"', f'name = "{"x" * 63}"'),
        ('"a.example:1099"', '"a-1.example.:65535"'),
    ],
)
def test_a_value_at_its_limit_is_accepted(tmp_path: Path, old: str, new: str) -> None:
    assert problems_of(tmp_path, changed(old, new)) == []


def test_a_peer_section_written_once_with_single_brackets_is_told(tmp_path: Path) -> None:
    text = SOUND[: SOUND.index("[[peer]]")] + '[peer]\nname = "b"\n'
    [problem] = problems_of(tmp_path, text)
    assert (problem.key, problem.what, problem.fix) == ("peer", "there may be several", "write it as [[peer]]")
    assert problem.line == text.splitlines().index("[peer]") + 1


def test_without_a_registry_the_gateway_is_a_listed_peer(tmp_path: Path) -> None:
    text = SOUND.replace("[registry]", "[gateway]").replace('url = "sqlite:///var/lib/holloway/net.db"\n', "")
    text = text.replace('trust = "store"\nlease_s = 30', 'through = "d"')
    [problem] = problems_of(tmp_path, text)
    assert problem.key == "gateway.through"
    assert problem.what == 'there is no peer "d"'
    assert problems_of(tmp_path, text.replace('through = "d"', 'through = "c"').replace("10.98.0.0/16", "::/0")) == []


@pytest.mark.parametrize(("text", "key"), [("peer = [1]", "peer[0]"), ("node = 3", "node"), ("node = [3]", "node")])
def test_a_value_where_a_section_belongs_is_told(tmp_path: Path, text: str, key: str) -> None:
    found = problems_of(tmp_path, text)
    assert [(each.key, each.line) for each in found if each.fix.startswith("write it as")] == [(key, 1)]


def test_all_wrong_items_of_a_list_are_told_on_their_lines(tmp_path: Path) -> None:
    text = changed('    "10.99.0.3/32",\n    "10.98.0.0/16",\n', '"10.99.0.3/24",\n"10.98.0.0/16",\n\n"x",\n')
    found = problems_of(tmp_path, text)
    assert [(each.key, each.line) for each in found] == [("peer[1].allowed[0]", 32), ("peer[1].allowed[2]", 35)]


def test_a_refused_value_silences_the_rules_that_need_it(tmp_path: Path) -> None:
    found = problems_of(tmp_path, changed("mtu = 1400", 'mtu = "1000"'))
    assert [each.key for each in found] == ["interface.mtu"]
    found = problems_of(tmp_path, changed("rekey_after_s = 100", "rekey_after_s = -5\nreject_after_s = 0.5"))
    assert [each.key for each in found] == ["session.rekey_after_s"]


def test_problems_come_in_the_order_of_the_file_and_variables_last(tmp_path: Path) -> None:
    text = changed("port = 1099", "port = 70000").replace("mtu = 1400", "mtuu = 1400").replace('"store"', '"me"')
    found = problems_of(tmp_path, text, HOLLOWAY_NODE_NAME="a b")
    assert [each.key for each in found] == ["interface.mtuu", "listen.port", "registry.trust", "HOLLOWAY_NODE_NAME"]


def test_load_config_raises_everything_at_once(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_text(changed("port = 1099", "port = 70000").replace("mtu = 1400", "mtuu = 1400"))
    with pytest.raises(ConfigProblems) as raised:
        load_config(path)
    error = raised.value
    assert isinstance(error, ConfigError)
    assert [each.key for each in error.problems] == ["interface.mtuu", "listen.port"]
    assert error.what == f"{path} cannot be used: 2 problems"
    assert error.fix == f"holloway check {path}"
    assert str(error.problems[1]) == f"{path}:12: listen.port: 70000 is above 65535; use 0 to 65535"


def test_a_lone_problem_is_its_own_three_lines(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_text(changed("port = 1099", "port = 70000"))
    with pytest.raises(ConfigProblems) as raised:
        load_config(path)
    assert raised.value.why == f"{path}:12: listen.port: 70000 is above 65535"
    assert raised.value.fix == "use 0 to 65535"


def test_no_message_repeats_key_material(tmp_path: Path) -> None:
    secret = base64.b64encode(bytes(range(7, 39))).decode()
    text = changed(KEY_B, secret[:-4]).replace('_key_file = "a.key"', f'_key_file = "a.key"\nprivate_key = "{secret}"')
    shown = " ".join(str(each) for each in problems_of(tmp_path, text))
    assert secret[:20] not in shown
    assert "private_key" in shown


def test_an_empty_file_misses_exactly_the_required_keys(tmp_path: Path) -> None:
    found = problems_of(tmp_path, "")
    assert [(each.key, each.what, each.line) for each in found] == [
        ("node.name", "missing", None),
        ("interface.name", "missing", None),
        ("interface.addresses", "missing", None),
        ("session.private_key_file", "missing", None),
    ]
