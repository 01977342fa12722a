"""Node records: what is written is read, what is hostile is refused for a reason, and nothing raises."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holloway.protocols.broker_places import BrokerPlace
from holloway.protocols.errors import HandshakeFailed, LocalError
from holloway.protocols.keys import StaticKey, encode_key
from holloway.protocols.membership import (
    MAX_LIST_ITEMS,
    MAX_RECORD_BYTES,
    MAX_SERIAL,
    NodeRecord,
    RecordProblem,
    address_key,
    decode_record,
    encode_record,
    network_prefix,
    node_key,
    nodes_prefix,
    read_host_address,
)

KEY = StaticKey(bytes([7]) * 32).public
P = 2**255 - 19
LOW_ORDER = {  # RFC 7748, section 6.1, and the other spellings of the same points; the top bit is not read
    "0": 0,
    "1": 1,
    "order 8": 325606250916557431795983626356110631294008115727848805560023387167927233504,
    "order 8 too": 39382357235489614581723060781553021112529911719440698176882885853963445705823,
    "-1": P - 1,
    "p": P,
    "p + 1": P + 1,
    "0 with the top bit": 1 << 255,
    "p with the top bit": P | 1 << 255,
}
RECORD = NodeRecord(
    name="node-a",
    public_key=KEY,
    endpoints=(("192.0.2.1", 1099), ("fd00::1", 1), ("b.example", 65535), ("under_score.example.", 2)),
    addresses=(ip_interface("10.99.0.1/24"), ip_interface("fd99::1/64")),
    prefixes=(ip_network("192.168.1.0/24"), ip_network("fd99:1::/48"), ip_network("0.0.0.0/0")),
)


def fields(**changes: Any) -> bytes:
    """The record above as JSON, with some fields of others' making."""
    return json.dumps(json.loads(encode_record(RECORD)) | changes).encode()


def test_the_form_of_a_record_is_what_other_versions_rely_on() -> None:
    assert json.loads(encode_record(RECORD)) == {
        "v": 1,
        "name": "node-a",
        "public_key": encode_key(KEY),
        "endpoints": [["192.0.2.1", 1099], ["fd00::1", 1], ["b.example", 65535], ["under_score.example.", 2]],
        "addresses": ["10.99.0.1/24", "fd99::1/64"],
        "prefixes": ["192.168.1.0/24", "fd99:1::/48", "0.0.0.0/0"],
    }


def test_what_is_written_is_read_under_its_name_and_where_there_is_none() -> None:
    assert decode_record("node-a", encode_record(RECORD)) == RECORD
    assert decode_record(None, encode_record(RECORD)) == RECORD
    assert decode_record("node-b", encode_record(RECORD)) is RecordProblem.WRONG_NAME


BROKER = BrokerPlace(ip_address("10.99.0.1"), 23002, 65535, "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7")
SAYING = replace(
    RECORD,
    serial=MAX_SERIAL,
    curve_key="rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7",
    security=("dtls", "session", "none"),
    compression=("lz4", "none"),
    broker=BROKER,
)
PLACE: dict[str, object] = {
    "address": "10.99.0.1",
    "command_port": 23002,
    "file_port": 65535,
    "curve_key": "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7",
}


def test_a_record_that_is_signed_says_more() -> None:
    assert json.loads(encode_record(SAYING)) == json.loads(encode_record(RECORD)) | {
        "serial": 2**53 - 1,
        "curve_key": "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7",
        "security": ["dtls", "session", "none"],
        "compression": ["lz4", "none"],
        "broker": PLACE,
    }
    assert decode_record("node-a", encode_record(SAYING)) == SAYING


def test_a_record_that_was_written_before_there_was_more_to_say_is_read() -> None:
    found = decode_record("node-a", encode_record(RECORD))
    assert isinstance(found, NodeRecord)
    assert (found.serial, found.curve_key, found.security, found.compression) == (0, None, (), ())
    said_nothing = fields(serial=0, curve_key=None, security=[], compression=[])
    assert decode_record("node-a", said_nothing) == RECORD


def test_words_of_a_later_version_are_ignored_and_the_order_of_the_others_kept() -> None:
    words = fields(security=["quantum", "none", "session", "none", "", "SESSION"], compression=["zstd"])
    found = decode_record("node-a", words)
    assert isinstance(found, NodeRecord)
    assert (found.security, found.compression) == (("none", "session"), ())


@pytest.mark.parametrize(
    "changes",
    [
        {"serial": -1},
        {"serial": MAX_SERIAL + 1},
        {"serial": True},
        {"serial": 1.0},
        {"serial": "1"},
        {"serial": None},
        {"curve_key": ""},
        {"curve_key": 1},
        {"curve_key": "x" * 39},
        {"curve_key": "#" * 40},
        {"curve_key": "0" * 40},
        {"curve_key": "\u00e9" * 40},
        {"broker": ""},
        {"broker": []},
        {"broker": PLACE | {"address": "10.99.0.2"}},
        {"broker": PLACE | {"address": "fd99:0::1"}},
        {"broker": PLACE | {"address": 1}},
        {"broker": PLACE | {"command_port": 0}},
        {"broker": PLACE | {"file_port": 65536}},
        {"broker": PLACE | {"file_port": "23003"}},
        {"broker": PLACE | {"curve_key": None}},
        {"broker": PLACE | {"curve_key": "0" * 40}},
        {"security": "session"},
        {"security": None},
        {"security": [1]},
        {"security": [["session"]]},
        {"security": ["x" * 257]},
        {"security": ["session"] * (MAX_LIST_ITEMS + 1)},
        {"compression": {"lz4": 1}},
    ],
    ids=range(29),
)
def test_a_hostile_word_of_a_record_is_refused(changes: Any) -> None:
    assert decode_record("node-a", fields(**changes)) is RecordProblem.BAD_FIELD


@pytest.mark.parametrize("text", ["fd99::1", "10.99.0.1"])
def test_an_address_is_read_by_its_usual_text(text: str) -> None:
    assert str(read_host_address(text)) == text


@pytest.mark.parametrize("text", ["fd99:0::1", "127.0.0.1", "fe80::1%eth0", "10.0.0.0/8", "", 7, None])
def test_what_is_no_address_of_a_host_is_none(text: Any) -> None:
    with pytest.raises(ValueError, match=r".+"):
        read_host_address(text)


def test_each_address_and_each_prefix_is_allowed() -> None:
    assert RECORD.allowed() == (ip_network("10.99.0.1/32"), ip_network("fd99::1/128"), *RECORD.prefixes)


def test_keys_of_the_registry() -> None:
    assert network_prefix("net") == b"/holloway/net/"
    assert nodes_prefix("net") == b"/holloway/net/nodes/"
    assert node_key("net", "node-a") == b"/holloway/net/nodes/node-a"
    assert address_key("net", ip_interface("10.99.0.1/24")) == b"/holloway/net/addresses/10.99.0.1"


@pytest.mark.parametrize("network", ["", "a/b", "../x", "a b", ".a", "-a", "x" * 64, "n\u00e9t", "net\n"])
def test_a_network_whose_name_would_reach_elsewhere_in_the_registry_is_misuse(network: str) -> None:
    with pytest.raises(LocalError, match="network name"):
        network_prefix(network)


names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", fullmatch=True)
ports = st.integers(1, 65535)
addresses = st.one_of(
    st.integers(1 << 24, 0x7EFFFFFF).map(lambda number: ip_interface((number, 24))),
    st.integers(1 << 112, (1 << 120) - 1).map(lambda number: ip_interface((number, 64))),
)


@given(
    name=names,
    endpoints=st.lists(st.tuples(st.from_regex(r"[a-z]([a-z0-9-]{0,10}[a-z])?", fullmatch=True), ports), max_size=5),
    own=st.lists(addresses, max_size=5),
)
def test_every_record_that_can_be_written_is_read_as_it_was(name: str, endpoints: Any, own: Any) -> None:
    prefixes = tuple(address.network for address in own)
    record = NodeRecord(name=name, public_key=KEY, endpoints=tuple(endpoints), addresses=tuple(own), prefixes=prefixes)
    assert decode_record(name, encode_record(record)) == record


@pytest.mark.parametrize(
    "changes",
    [
        {"name": ""},
        {"name": "a/b"},
        {"name": "x" * 64},
        {"endpoints": (("a b", 1),)},
        {"endpoints": (("a", 0),)},
        {"endpoints": (("a", 1),) * (MAX_LIST_ITEMS + 1)},
        {"addresses": (ip_interface("127.0.0.1/8"),)},
        {"addresses": (ip_interface("fe80::1%eth0/64"),)},
        {"prefixes": (ip_network("224.0.0.0/8"),)},
        {"prefixes": (ip_network("128.0.0.0/1"),)},
        {"prefixes": tuple(ip_network(f"10.{number}.0.0/16") for number in range(MAX_LIST_ITEMS + 1))},
        {"endpoints": tuple(("x" * 60 + f".{number}.example", 1) for number in range(64)) * 5},
        {"public_key": bytes(32)},
        {"serial": -1},
        {"serial": MAX_SERIAL + 1},
        {"curve_key": "x"},
        {"security": ("quantum",)},
        {"compression": ("lz4", "lz4")},
        {"broker": replace(BROKER, address=ip_address("10.99.0.9"))},
    ],
    ids=range(19),
)
def test_a_record_that_the_others_would_refuse_is_not_written(changes: Any) -> None:
    with pytest.raises(LocalError, match="would not be read by the others"):
        encode_record(replace(RECORD, **changes))


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (b"", "record_not_json"),
        (b"{", "record_not_json"),
        (b"[]", "record_not_json"),
        (b"null", "record_not_json"),
        (b"\xff\xff\xff", "record_not_json"),
        (b"[" * 10_000, "record_not_json"),
        (b'{"v":' * 2_000, "record_not_json"),
        (b'{"v":' + b"9" * 10_000 + b"}", "record_not_json"),
        (b" " * (MAX_RECORD_BYTES + 1), "record_too_big"),
        (b"{}", "record_wrong_version"),
        (fields(v=2), "record_wrong_version"),
        (fields(v=True), "record_wrong_version"),
        (fields(v=1.0), "record_wrong_version"),
        (fields(v="1"), "record_wrong_version"),
        (fields(name=None), "record_wrong_name"),
        (fields(name=["node-a"]), "record_wrong_name"),
        (fields(name="node-a\n"), "record_wrong_name"),
        (fields(name="../node-a"), "record_wrong_name"),
        (fields(public_key=None), "record_bad_field"),
        (fields(public_key="x"), "record_bad_field"),
        (fields(public_key=encode_key(KEY) + "\n"), "record_bad_field"),
        (fields(public_key="\u00e9" * 44), "record_bad_field"),
        (fields(endpoints={}), "record_bad_field"),
        (fields(endpoints=None), "record_bad_field"),
        (fields(endpoints=[["192.0.2.1"]]), "record_bad_field"),
        (fields(endpoints=[["192.0.2.1", "1099"]]), "record_bad_field"),
        (fields(endpoints=[["192.0.2.1", True]]), "record_bad_field"),
        (fields(endpoints=[["192.0.2.1", 1.5]]), "record_bad_field"),
        (fields(endpoints=[["192.0.2.1", 65536]]), "record_bad_field"),
        (fields(endpoints=[["192.0.2.1", -1]]), "record_bad_field"),
        (fields(endpoints=[["", 1]]), "record_bad_field"),
        (fields(endpoints=[["a..b", 1]]), "record_bad_field"),
        (fields(endpoints=[["x" * 64 + ".example", 1]]), "record_bad_field"),
        (fields(endpoints=[[".".join(["x" * 60] * 5), 1]]), "record_bad_field"),
        (fields(endpoints=[["1.2.3", 1]]), "record_bad_field"),
        (fields(endpoints=[["0.0.0.0", 1]]), "record_bad_field"),
        (fields(endpoints=[["224.0.0.1", 1]]), "record_bad_field"),
        (fields(endpoints=[["fe80::1%eth0", 1]]), "record_bad_field"),
        (fields(endpoints=[["a\nb", 1]]), "record_bad_field"),
        (fields(endpoints=[["192.0.2.1", 1]] * 65), "record_bad_field"),
        (fields(addresses=[1]), "record_bad_field"),
        (fields(addresses=["10.0.0.1/33"]), "record_bad_field"),
        (fields(addresses=["fe80::1%eth0/64"]), "record_bad_field"),
        (fields(addresses=["::ffff:10.0.0.1/128"]), "record_bad_field"),
        (fields(addresses=["127.0.0.1/8"]), "record_bad_field"),
        (fields(addresses=["0.0.0.0/0"]), "record_bad_field"),
        (fields(addresses=["224.0.0.1/4"]), "record_bad_field"),
        (fields(addresses=["255.255.255.255/32"]), "record_bad_field"),
        (fields(addresses=["::1/128"]), "record_bad_field"),
        (fields(addresses=["10.0.0.1/24" + " " * 300]), "record_bad_field"),
        (fields(prefixes=["10.0.0.1/24"]), "record_bad_field"),
        (fields(prefixes=["0.0.0.0/1"]), "record_bad_field"),
        (fields(prefixes=["128.0.0.0/1"]), "record_bad_field"),
        (fields(prefixes=["2000::/3"]), "record_bad_field"),
        (fields(prefixes=["127.0.0.0/8"]), "record_bad_field"),
        (fields(prefixes=["fe80::%1/64"]), "record_bad_field"),
    ],
    ids=range(56),
)
def test_a_hostile_record_is_refused_for_its_reason(value: bytes, problem: str) -> None:
    found = decode_record("node-a", value)
    assert isinstance(found, RecordProblem)
    assert found.value == problem


@pytest.mark.parametrize("point", LOW_ORDER.values(), ids=LOW_ORDER)
def test_a_key_whose_secrets_everybody_knows_is_no_key(point: int) -> None:
    key = point.to_bytes(32, "little")
    with pytest.raises(HandshakeFailed):
        StaticKey(bytes([1]) * 32).exchange(key)
    assert decode_record("node-a", fields(public_key=encode_key(key))) is RecordProblem.BAD_FIELD


def test_a_record_of_a_later_version_may_say_more() -> None:
    assert decode_record("node-a", fields(more={"to": ["come"]})) == RECORD


def test_lists_may_be_missing() -> None:
    short = {"v": 1, "name": "node-a", "public_key": encode_key(KEY)}
    assert decode_record("node-a", json.dumps(short).encode()) == NodeRecord(name="node-a", public_key=KEY)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["10.0.0.1/8", "::/0", "a.b", "session", "lz4"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_record_or_a_reason(value: bytes) -> None:
    assert isinstance(decode_record("node-a", value), RecordProblem)


FIELDS = [
    "v",
    "name",
    "public_key",
    "endpoints",
    "addresses",
    "prefixes",
    "serial",
    "curve_key",
    "security",
    "compression",
    "broker",
]


@given(st.dictionaries(st.sampled_from(FIELDS), json_values))
def test_any_fields_are_a_record_that_can_be_used_or_a_reason(changes: dict[str, Any]) -> None:
    found = decode_record("node-a", fields(**changes))
    if isinstance(found, NodeRecord):
        assert len(found.allowed()) == len(found.addresses) + len(found.prefixes)
        assert decode_record("node-a", encode_record(found)) == found
