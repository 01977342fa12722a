"""Signed node records: who owns the store can withhold them, and nothing more."""

from __future__ import annotations

import json
import re
from base64 import b64decode
from ipaddress import ip_interface, ip_network
from pathlib import Path
from typing import Any

import pytest
from authority_world import DAY, NETWORK, NOW, Network, Node, authority, identity, mutations
from hypothesis import given
from hypothesis import strategies as st

from holloway.protocols import issuing
from holloway.protocols import signed_records as module
from holloway.protocols.certificates import CLOCK_SKEW_S, CertificateProblem, read_node
from holloway.protocols.envelopes import MAX_ENVELOPE_BYTES, MAX_TEXT_CHARS, EnvelopeProblem, open_text, seal_text
from holloway.protocols.errors import LocalError
from holloway.protocols.hostile_json import base64_text, compact
from holloway.protocols.membership import MAX_SERIAL, RecordProblem, encode_record
from holloway.protocols.signed_records import SignedRecords, VerifiedRecord, seal_record
from holloway.protocols.trust import Trust

CURVE_KEY = "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"  # zmq_curve(7), the server's public key in the example


@pytest.fixture
def world() -> Network:
    return Network()


def changed(value: bytes, **changes: Any) -> bytes:
    """The envelope with some fields of an attacker's making; None takes a field out."""
    fields = json.loads(value) | changes
    return json.dumps({key: field for key, field in fields.items() if field is not None}).encode()


def signed_text(node: Node, text: str) -> bytes:
    """A text that the node signed as its record, though it would not."""
    return seal_text("record", text, node.identity, node.certificate)


def refused(world: Network, value: bytes, name: str | None = "node-a", now: int = NOW) -> RecordProblem:
    found = world.records.verify(name, value, now)
    assert isinstance(found, RecordProblem), found
    return found


# What is believed.


def test_a_record_is_believed_with_the_certificate_of_its_node(world: Network) -> None:
    node = world.node("node-a", "10.99.0.1", "fd99::1", prefixes=["10.1.0.0/16"])
    record = node.record(serial=7, curve_key=CURVE_KEY, security=("dtls", "session"), compression=("lz4",))
    value = seal_record(record, node.identity, node.certificate)
    for name in ("node-a", None, "node-a"):
        assert world.records.verify(name, value, NOW) == VerifiedRecord(record, node.certificate)


def test_the_form_of_a_signed_record_is_what_other_versions_rely_on(world: Network) -> None:
    node = world.node()
    fields = json.loads(node.seal())
    assert list(fields) == ["v", "record", "certificate", "signature"]
    assert fields["v"] == 2
    assert fields["record"] == encode_record(node.record()).decode()
    assert fields["certificate"] == base64_text(node.certificate.der)
    assert node.identity.public.verify(
        b64decode(fields["signature"]), b"holloway record\0net\0" + fields["record"].encode()
    )


def test_a_record_may_say_less_than_its_certificate(world: Network) -> None:
    node = world.node("node-a", "10.99.0.1", prefixes=["10.1.0.0/16"])
    assert isinstance(world.records.verify("node-a", node.seal(addresses=(), prefixes=()), NOW), VerifiedRecord)


# What is refused.


def test_a_record_without_a_signature_is_refused(world: Network) -> None:
    node = world.node()
    value = node.seal()
    assert refused(world, encode_record(node.record(serial=0))) is RecordProblem.UNSIGNED
    assert refused(world, encode_record(node.record())) is RecordProblem.UNSIGNED
    for stripped in ({"signature": None}, {"certificate": None}, {"signature": ""}, {"v": 1}):
        assert refused(world, changed(value, **stripped)) is RecordProblem.UNSIGNED


def test_a_record_that_was_changed_is_refused(world: Network) -> None:
    value = world.node().seal()
    text = json.loads(value)["record"].replace("192.0.2.1", "198.51.100.1")
    assert refused(world, changed(value, record=text)) is RecordProblem.BAD_SIGNATURE
    assert refused(world, changed(value, record=text.replace(",", ", "))) is RecordProblem.BAD_SIGNATURE


def test_offers_that_were_stripped_or_added_break_the_signature(world: Network) -> None:
    node = world.node()
    value = node.seal(security=("session", "none"), compression=("lz4",))
    text = json.loads(value)["record"]
    assert '"security":["session","none"],"compression":["lz4"]' in text
    for altered in (
        text.replace('"session",', ""),
        text.replace(',"none"', ""),
        text.replace(',"security":["session","none"]', ""),
        text.replace(',"compression":["lz4"]', ""),
        text.replace('"session"', '"dtls"'),
    ):
        assert altered != text
        assert refused(world, changed(value, record=altered)) is RecordProblem.BAD_SIGNATURE


def test_a_record_by_somebody_without_a_certificate_is_refused(world: Network) -> None:
    attacker = Network(authority("attacker")).node("node-a", key=identity("attacker"))
    assert refused(world, attacker.seal()) is RecordProblem.FOREIGN_AUTHORITY
    victim = world.node("node-a")
    swapped = changed(attacker.seal(), certificate=base64_text(victim.certificate.der))
    assert refused(world, swapped) is RecordProblem.BAD_SIGNATURE


def test_a_record_of_one_node_is_none_of_another(world: Network) -> None:
    thief, victim = world.node("thief", "10.99.0.9"), world.node("node-a")
    assert refused(world, thief.seal(), "node-a") is RecordProblem.WRONG_NAME
    text = encode_record(victim.record()).decode()
    assert refused(world, signed_text(thief, text), "node-a") is RecordProblem.WRONG_NAME
    assert refused(world, signed_text(thief, text), None) is RecordProblem.WRONG_NAME
    crossed = changed(thief.seal(), certificate=base64_text(victim.certificate.der))
    assert refused(world, crossed, "thief") is RecordProblem.BAD_SIGNATURE


def test_a_record_of_another_network_is_refused_though_the_authority_has_the_same_key() -> None:
    theirs = authority("shared", network="other")
    issued = theirs.issue(identity("node-a").public, "node-a", [], now=NOW, serial=bytes(16))
    node = Node(identity("node-a"), issued)
    world = Network(authority("shared"))
    assert refused(world, node.seal()) is RecordProblem.FOREIGN_AUTHORITY
    ours = Network(authority("shared")).node("node-a")
    crossed = changed(node.seal(), certificate=base64_text(ours.certificate.der))
    assert refused(world, crossed) is RecordProblem.BAD_SIGNATURE


def test_a_node_that_our_authority_certified_for_another_network_is_refused(
    world: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(issuing, "node_uri", lambda network, name, prefix=None: f"holloway://other/{name}")
    monkeypatch.setattr(issuing, "read_node", lambda der, network, known: read_node(der, "other", known))
    assert refused(world, world.node().seal()) is RecordProblem.WRONG_NETWORK


def test_a_text_that_was_signed_for_something_else_is_no_record(world: Network) -> None:
    node = world.node()
    text = encode_record(node.record()).decode()
    other = json.loads(seal_text("renewal", text, node.identity, node.certificate))
    value = changed(json.dumps(other).encode(), record=text, renewal=None)
    assert refused(world, value) is RecordProblem.BAD_SIGNATURE


def test_an_address_or_a_prefix_that_the_certificate_does_not_have_is_refused(world: Network) -> None:
    node = world.node("node-a", "10.99.0.1", prefixes=["10.1.0.0/16", "0.0.0.0/0"])
    for changes, problem in [
        ({"addresses": (ip_interface("10.99.0.2/24"),)}, RecordProblem.ADDRESS_NOT_CERTIFIED),
        ({"addresses": (ip_interface("fd99::1/64"),)}, RecordProblem.ADDRESS_NOT_CERTIFIED),
        ({"prefixes": (ip_network("10.2.0.0/16"),)}, RecordProblem.PREFIX_NOT_CERTIFIED),
        ({"prefixes": (ip_network("10.1.1.0/24"),)}, RecordProblem.PREFIX_NOT_CERTIFIED),
        ({"prefixes": (ip_network("10.99.0.2/32"),)}, RecordProblem.PREFIX_NOT_CERTIFIED),
        ({"prefixes": (ip_network("10.0.0.0/15"),)}, RecordProblem.PREFIX_NOT_CERTIFIED),
        ({"prefixes": (ip_network("::/0"),)}, RecordProblem.PREFIX_NOT_CERTIFIED),
    ]:
        record = node.record(**changes)
        assert refused(world, signed_text(node, encode_record(record).decode())) is problem
        with pytest.raises(LocalError, match=problem.value):
            seal_record(record, node.identity, node.certificate)


def test_a_certificate_counts_in_its_time(world: Network) -> None:
    value = world.node(lifetime_s=DAY).seal()
    end = NOW + DAY + CLOCK_SKEW_S
    assert isinstance(world.records.verify("node-a", value, end), VerifiedRecord)
    assert refused(world, value, now=end + 1) is RecordProblem.EXPIRED
    assert refused(world, value, now=NOW - 2 * CLOCK_SKEW_S - 1) is RecordProblem.NOT_YET_VALID


def test_a_revoked_node_is_refused_also_if_its_record_was_believed_before(world: Network) -> None:
    node = world.node()
    value = node.seal()
    assert isinstance(world.records.verify("node-a", value, NOW), VerifiedRecord)
    assert world.trust.take_revocations(world.revoke(1, node).der) is None
    assert refused(world, value) is RecordProblem.REVOKED
    assert refused(world, node.seal(serial=2)) is RecordProblem.REVOKED


def test_before_the_revocation_list_is_there_nobody_is_believed(world: Network) -> None:
    records = SignedRecords(Trust(world.bundle, list_number=1))
    assert records.verify("node-a", world.node().seal(), NOW) is RecordProblem.REVOCATIONS_MISSING


# Serial numbers.


def test_an_old_record_does_not_come_back(world: Network) -> None:
    node = world.node()
    old, new = node.seal(serial=1), node.seal(serial=5)
    assert isinstance(world.records.verify("node-a", old, NOW), VerifiedRecord)
    assert isinstance(world.records.verify("node-a", new, NOW), VerifiedRecord)
    for name in ("node-a", None):
        assert refused(world, old, name) is RecordProblem.STALE
    other = node.seal(serial=5, endpoints=())
    assert refused(world, other) is RecordProblem.STALE, "one serial number is one record"
    assert isinstance(world.records.verify("node-a", new, NOW), VerifiedRecord)


def test_the_same_record_in_another_envelope_is_the_same_record(world: Network) -> None:
    node = world.node()
    renewed = world.node()
    first, second = node.seal(), seal_record(node.record(), node.identity, renewed.certificate)
    assert first != second
    for value in (first, second, changed(first, more=1)):
        assert isinstance(world.records.verify("node-a", value, NOW), VerifiedRecord)


def test_another_key_counts_anew(world: Network) -> None:
    old, new = world.node(), world.node(key=identity("again"))
    assert isinstance(world.records.verify("node-a", old.seal(serial=100), NOW), VerifiedRecord)
    assert isinstance(world.records.verify("node-a", new.seal(serial=1), NOW), VerifiedRecord)
    assert world.trust.take_revocations(world.revoke(1, old).der) is None
    assert refused(world, old.seal(serial=101)) is RecordProblem.REVOKED


def test_serial_numbers_outlive_the_process(world: Network) -> None:
    node = world.node()
    assert isinstance(world.records.verify("node-a", node.seal(serial=5), NOW), VerifiedRecord)
    memory = world.records.memory()
    again = SignedRecords(Trust(world.bundle), memory)
    assert again.memory() == memory
    assert again.verify("node-a", node.seal(serial=4), NOW) is RecordProblem.STALE
    assert again.verify("node-a", node.seal(serial=5, endpoints=()), NOW) is RecordProblem.STALE
    assert isinstance(again.verify("node-a", node.seal(serial=5), NOW), VerifiedRecord)


ROW = {"name": "a", "key": "00" * 32, "serial": 1, "text": "00" * 32, "expires": NOW}


@pytest.mark.parametrize(
    "memory",
    [
        "",
        "[]",
        '{"v":2,"seen":[]}',
        '{"v":1}',
        '{"v":1,"seen":[1]}',
        *(
            compact({"v": 1, "seen": [ROW | changes]})
            for changes in ({"name": "/"}, {"name": 1}, {"key": "00"}, {"serial": 0}, {"text": ""}, {"expires": -1})
        ),
    ],
)
def test_a_memory_that_is_none_is_misuse(world: Network, memory: str) -> None:
    assert SignedRecords(world.trust, compact({"v": 1, "seen": [ROW]})).memory()
    with pytest.raises(LocalError, match="serial numbers"):
        SignedRecords(world.trust, memory)


def test_the_longest_memory_can_be_recalled(world: Network) -> None:
    row = {"name": "", "key": "ff" * 32, "serial": MAX_SERIAL, "text": "ff" * 32, "expires": 250_000_000_000}
    rows = [row | {"name": f"{number:063}"} for number in range(module.MAX_WRITERS)]
    memory = compact({"v": 1, "seen": rows})
    assert SignedRecords(world.trust, memory).memory() == memory


def test_what_is_remembered_is_bounded_and_what_has_run_out_makes_room(
    world: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_WRITERS", 2)
    for number in range(2):
        value = world.node(f"node-{number}", lifetime_s=DAY * (1 + number)).seal()
        assert isinstance(world.records.verify(f"node-{number}", value, NOW), VerifiedRecord)
    third = world.node("node-3", lifetime_s=DAY * 9).seal()
    assert refused(world, third, "node-3") is RecordProblem.TOO_MANY
    later = NOW + DAY + CLOCK_SKEW_S + 1
    assert isinstance(world.records.verify("node-3", third, later), VerifiedRecord)
    assert {row["name"] for row in json.loads(world.records.memory())["seen"]} == {"node-1", "node-3"}


def test_a_record_that_is_read_again_costs_no_signature(world: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    value = world.node().seal()
    found = world.records.verify("node-a", value, NOW)
    monkeypatch.setattr(module, "open_text", None)
    assert world.records.verify("node-a", value, NOW) is found


# What is not written.


def test_a_record_that_the_others_would_refuse_is_not_sealed(world: Network) -> None:
    node = world.node()
    for record, why in [
        (node.record(serial=0), "no serial number"),
        (node.record(name="node-b"), "record_wrong_name"),
        (node.record(serial=MAX_SERIAL + 1), "would not be read"),
    ]:
        with pytest.raises(LocalError, match=why):
            seal_record(record, node.identity, node.certificate)
    with pytest.raises(LocalError, match="another key"):
        seal_record(node.record(), identity("other"), node.certificate)
    with pytest.raises(LocalError, match=r"16385 characters"):
        signed_text(node, "x" * (MAX_TEXT_CHARS + 1))


# Hostile bytes.


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"v": 3}, RecordProblem.WRONG_VERSION),
        ({"v": 2.0}, RecordProblem.WRONG_VERSION),
        ({"v": True}, RecordProblem.WRONG_VERSION),
        ({"v": None}, RecordProblem.WRONG_VERSION),
        ({"record": None}, RecordProblem.BAD_FIELD),
        ({"record": {"v": 1}}, RecordProblem.BAD_FIELD),
        ({"record": "\u00e9"}, RecordProblem.BAD_FIELD),
        ({"record": "\ud800"}, RecordProblem.BAD_FIELD),
        ({"record": "x" * (MAX_TEXT_CHARS + 1)}, RecordProblem.BAD_FIELD),
        ({"record": ""}, RecordProblem.BAD_SIGNATURE),
        ({"certificate": 1}, RecordProblem.BAD_FIELD),
        ({"certificate": ["x"]}, RecordProblem.BAD_FIELD),
        ({"certificate": "x"}, RecordProblem.BAD_FIELD),
        ({"certificate": "AAAA\n"}, RecordProblem.BAD_FIELD),
        ({"certificate": "AAAA"}, RecordProblem.BAD_CERTIFICATE),
        ({"certificate": "A" * 12_000}, RecordProblem.BAD_FIELD),
        ({"signature": "AAAA"}, RecordProblem.BAD_SIGNATURE),
        ({"signature": "A" * 200}, RecordProblem.BAD_FIELD),
        ({"signature": True}, RecordProblem.BAD_FIELD),
        ({"more": "x" * MAX_ENVELOPE_BYTES}, RecordProblem.TOO_BIG),
    ],
    ids=range(20),
)
def test_a_hostile_envelope_is_refused_for_its_reason(world: Network, changes: Any, problem: RecordProblem) -> None:
    value = world.node().seal()
    fields = json.loads(value) | changes
    assert refused(world, json.dumps(fields).encode()) is problem


@pytest.mark.parametrize("value", [b"", b"[]", b"[" * 20_000, b'{"v":2,"record":' * 900, b"\xff", b"null"])
def test_what_is_no_envelope_is_refused(world: Network, value: bytes) -> None:
    assert refused(world, value) is RecordProblem.NOT_JSON


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", RecordProblem.NOT_JSON),
        ("{}", RecordProblem.WRONG_VERSION),
        ('{"v":2}', RecordProblem.WRONG_VERSION),
        ("[" * 10_000, RecordProblem.NOT_JSON),
    ],
)
def test_a_node_that_signs_nonsense_is_refused_like_everybody(
    world: Network, text: str, problem: RecordProblem
) -> None:
    assert refused(world, signed_text(world.node(), text)) is problem


def test_a_signed_record_has_a_serial_number(world: Network) -> None:
    node = world.node()
    text = encode_record(node.record(serial=0)).decode()
    assert refused(world, signed_text(node, text)) is RecordProblem.BAD_FIELD


@given(st.binary(max_size=300))
def test_any_bytes_are_no_record(value: bytes) -> None:
    assert isinstance(Network().records.verify("node-a", value, NOW), RecordProblem)


def test_a_damaged_envelope_holds_the_same_record_or_none(world: Network) -> None:
    node = world.node("node-a", "10.99.0.1", "fd99::1", prefixes=["10.1.0.0/16"])
    kinds = set()
    for damaged in mutations(node.seal(), 3000):
        found = SignedRecords(world.trust).verify("node-a", damaged, NOW)
        kinds.add(type(found) if isinstance(found, VerifiedRecord) else found)
        if isinstance(found, VerifiedRecord):
            assert found.record == node.record()
    assert {RecordProblem.NOT_JSON, RecordProblem.BAD_SIGNATURE, RecordProblem.FOREIGN_AUTHORITY} <= kinds


def test_every_reason_not_to_open_an_envelope_is_a_reason_to_refuse_a_record() -> None:
    assert set(module._REASONS) == {*EnvelopeProblem, *CertificateProblem}
    for problem, reason in module._REASONS.items():
        same = RecordProblem.__members__.get(problem.name)
        assert reason in (same, RecordProblem.BAD_CERTIFICATE)


def test_the_document_says_every_reason_that_needs_an_authority() -> None:
    root = Path(__file__).resolve().parent.parent.parent
    stated = re.findall(
        r"^\| `(record_\w+)` \|", (root / "docs" / "protocol.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    ours = set(module._REASONS.values()) | {
        RecordProblem.WRONG_NAME,
        RecordProblem.ADDRESS_NOT_CERTIFIED,
        RecordProblem.PREFIX_NOT_CERTIFIED,
        RecordProblem.STALE,
    }
    any_record = {RecordProblem[name] for name in ("TOO_BIG", "NOT_JSON", "WRONG_VERSION", "BAD_FIELD")}
    assert set(stated) == {problem.value for problem in ours - any_record}
    assert len(stated) == len(set(stated))


def test_other_texts_travel_the_same_way(world: Network) -> None:
    node = world.node()
    value = seal_text("claim", "10.99.0.7", node.identity, node.certificate)
    opened = open_text("claim", value, world.trust, NOW)
    assert not isinstance(opened, EnvelopeProblem | CertificateProblem)
    assert (opened.text, opened.signer) == ("10.99.0.7", node.certificate)
    assert open_text("record", value, world.trust, NOW) is EnvelopeProblem.BAD_FIELD
    assert world.trust.network == NETWORK
