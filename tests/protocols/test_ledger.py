"""The authority's ledger: one name, one key, one address; and a file that says anything else is not used."""

from __future__ import annotations

import json
from collections.abc import Callable
from ipaddress import IPv4Address, ip_address
from typing import Any

import pytest
from authority_world import DAY, NETWORK, NOW, Network, Node, authority, entropy, identity, mutations
from hypothesis import given
from hypothesis import strategies as st

from holloway.protocols import ledger as module
from holloway.protocols.certificates import CLOCK_SKEW_S
from holloway.protocols.errors import LocalError
from holloway.protocols.ledger import EndReason, Ledger
from holloway.protocols.ledger_text import read_ledger, write_ledger
from holloway.protocols.revocation import KEPT_AFTER_EXPIRY_S

WORLD = Network()
A = WORLD.node("node-a", "10.99.0.1", "fd99::1")
B = WORLD.node("node-b", "10.99.0.2")
ID = entropy("id", 16)


def ledger_of(*nodes: Node) -> Ledger:
    made = Ledger(NETWORK)
    for node in nodes:
        made.hold(node.certificate, ID, NOW)
    return made


def full() -> Ledger:
    """A ledger with something in every list."""
    made = ledger_of(A, B, WORLD.node("node-c", "10.99.0.3"))
    made.hold(WORLD.node("node-c", "10.99.0.3").certificate, ID, NOW)
    made.use(ID, A.identity.public, NOW + DAY)
    made.end("node-b", EndReason.REVOKED, NOW)
    assert made.next_list()[0] == 1
    return made


def test_a_holding_is_found_by_its_name_its_key_and_its_addresses() -> None:
    ledger = ledger_of(A)
    holding = ledger.holding("node-a")
    assert holding is not None
    assert holding.certificate == A.certificate
    assert holding.addresses == (ip_address("10.99.0.1"),)
    assert ledger.name_of(A.identity.public) == "node-a"
    assert ledger.holder_of(ip_address("fd99::1")) == "node-a"
    assert ledger.holder_of(ip_address("10.99.0.2")) is None
    assert ledger.holding("node-b") is None
    assert ledger.name_of(B.identity.public) is None


@pytest.mark.parametrize(
    "other",
    [
        WORLD.node("node-a", "10.99.0.9", key=identity("other")),
        WORLD.node("node-x", "10.99.0.9", key=A.identity),
        WORLD.node("node-x", "10.99.0.1"),
        A,
        Node(B.identity, authority("o", network="other").issue(B.identity.public, "node-x", [], now=NOW, serial=ID)),
    ],
    ids=["name", "key", "address", "serial number", "network"],
)
def test_what_belongs_to_somebody_is_not_given_to_another(other: Node) -> None:
    ledger = ledger_of(A)
    before = write_ledger(ledger)
    with pytest.raises(LocalError, match="belongs to another"):
        ledger.hold(other.certificate, ID, NOW)
    assert write_ledger(ledger) == before


def test_a_name_that_is_taken_back_is_free_and_all_of_its_certificates_are_listed() -> None:
    ledger = ledger_of(A)
    second = WORLD.node("node-a", "10.99.0.1", "fd99::1")
    ledger.hold(second.certificate, ID, NOW)
    assert not ledger.is_list_due
    ledger.end("node-a", EndReason.RELEASED, NOW + 5)
    assert ledger.is_list_due
    number, revoked = ledger.next_list()
    assert (number, ledger.is_list_due) == (1, False)
    assert {(each.serial, each.at, each.expires) for each in revoked} == {
        (each.certificate.serial, NOW + 5, each.certificate.not_after) for each in (A, second)
    }
    assert ledger.holder_of(ip_address("10.99.0.1")) is None
    assert not ledger.is_revoked(A.identity.public), "released, not revoked"
    with pytest.raises(LocalError, match="belongs to another"):
        ledger.hold(A.certificate, ID, NOW)
    ledger.hold(WORLD.node("node-b", "10.99.0.1").certificate, ID, NOW)
    ledger.end("node-b", EndReason.REVOKED, NOW)
    assert ledger.is_revoked(B.identity.public)


def test_what_has_run_out_does_not_count_as_an_earlier_certificate() -> None:
    short = WORLD.node("node-s", "10.99.0.8", lifetime_s=DAY)
    for late, kept in [(0, 1), (1, 0)]:
        ledger = ledger_of(short)
        now = short.certificate.not_after + CLOCK_SKEW_S + late
        ledger.hold(WORLD.node("node-s", "10.99.0.8", now=now).certificate, ID, now)
        holding = ledger.holding("node-s")
        assert holding is not None
        assert len(holding.earlier) == kept


def test_a_full_list_takes_nobody_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = ledger_of(A, B)
    monkeypatch.setattr(module, "MAX_REVOKED", 1)
    ledger.end("node-a", EndReason.REVOKED, NOW)
    before = write_ledger(ledger)
    with pytest.raises(LocalError, match="cannot be taken back"):
        ledger.end("node-b", EndReason.REVOKED, NOW)
    assert write_ledger(ledger) == before


def test_what_cannot_matter_any_more_is_forgotten() -> None:
    ledger = full()
    ledger.prune(NOW + DAY + KEPT_AFTER_EXPIRY_S)
    assert ledger.user_of(ID) == A.identity.public.fingerprint
    ledger.prune(NOW + DAY + KEPT_AFTER_EXPIRY_S + 1)
    assert ledger.user_of(ID) is None
    assert len(ledger.ended) == 1
    end = B.certificate.not_after + KEPT_AFTER_EXPIRY_S
    ledger.prune(end)
    assert len(ledger.ended) == 1
    ledger.prune(end + 1)
    assert not ledger.ended


def test_an_address_that_was_let_go_rests_for_all_but_its_machine_and_outlives_the_file() -> None:
    ledger = ledger_of(A, B)
    address = next(each for each in A.certificate.addresses if isinstance(each, IPv4Address))
    ledger.end("node-a", EndReason.RELEASED, NOW, rest_s=60)
    for kept in (ledger, read_ledger(write_ledger(ledger))):
        assert kept.is_resting(address, B.certificate.key, NOW + 59)
        assert not kept.is_resting(address, B.certificate.key, NOW + 60)
        assert not kept.is_resting(address, A.certificate.key, NOW)
    assert '"resting"' in write_ledger(ledger)
    ledger.prune(NOW + 60)
    assert '"resting"' not in write_ledger(ledger)
    ledger.end("node-b", EndReason.REVOKED, NOW, rest_s=60)
    ledger.hold(WORLD.node("node-c", "10.99.0.2").certificate, ID, NOW)
    assert not list(ledger.resting), "the owner has given it to somebody"


def test_an_address_that_a_node_has_no_longer_rests() -> None:
    ledger = Ledger(NETWORK)
    two = WORLD.node("node-a", "10.99.0.1", "10.99.0.7")
    ledger.hold(two.certificate, ID, NOW)
    ledger.hold(WORLD.node("node-a", "10.99.0.1").certificate, ID, NOW, rest_s=60)
    assert [str(address) for address, _ in ledger.resting] == ["10.99.0.7"]
    assert ledger.is_resting(IPv4Address("10.99.0.7"), B.certificate.key, NOW + 59)


def test_an_invitation_is_used_once() -> None:
    ledger = full()
    ledger.use(ID, B.identity.public, NOW + 99 * DAY)
    assert ledger.user_of(ID) == A.identity.public.fingerprint


# Its text.


def test_what_is_written_is_read() -> None:
    for ledger in (Ledger(NETWORK), ledger_of(A), full()):
        text = write_ledger(ledger)
        again = read_ledger(text + "\n")
        assert write_ledger(again) == text
        assert again.is_list_due == ledger.is_list_due
        assert again.list_number == ledger.list_number
        assert [each.certificate for each in again.holdings] == [each.certificate for each in ledger.holdings]
        assert list(again.ended) == list(ledger.ended)
    assert again.user_of(ID) == A.identity.public.fingerprint
    assert again.is_revoked(B.identity.public)
    assert again.name_of(A.identity.public) == "node-a"
    holding = again.holding("node-c")
    assert holding is not None
    assert len(holding.earlier) == 1


def spoilt(change: Callable[[dict[str, Any]], object]) -> str:
    fields = json.loads(write_ledger(full()))
    change(fields)
    return json.dumps(fields, separators=(",", ":"))


SPOILT: dict[str, Callable[[dict[str, Any]], object]] = {
    "another version": lambda f: f.update(v=2),
    "no version": lambda f: f.pop("v"),
    "a field too many": lambda f: f.update(more=1),
    "a field too few": lambda f: f.pop("used"),
    "another network": lambda f: f.update(network="other"),
    "no network": lambda f: f.update(network="a/b"),
    "a number below zero": lambda f: f.update(list_number=-1),
    "a flag that is none": lambda f: f.update(is_list_due=1),
    "a holding twice": lambda f: f["holdings"].append(f["holdings"][0]),
    "a holding that was taken back": lambda f: f["holdings"][0].update(
        certificate=json.loads(write_ledger(ledger_of(B)))["holdings"][0]["certificate"]
    ),
    "an address twice": lambda f: f["holdings"].append(
        json.loads(write_ledger(ledger_of(WORLD.node("node-x", "10.99.0.1"))))["holdings"][0]
    ),
    "a holding that is none": lambda f: f["holdings"].append(1),
    "a certificate that is none": lambda f: f["holdings"][0].update(certificate="AAAA"),
    "a fingerprint that is none": lambda f: f["holdings"][0].update(authority="00"),
    "a note in a holding": lambda f: f["holdings"][0].update(note="x"),
    "no earlier ones": lambda f: f["holdings"][0].pop("earlier"),
    "a serial number that is none": lambda f: f["ended"][0].update(serial="x"),
    "a serial number in capitals": lambda f: f["ended"][0].update(serial=f["ended"][0]["serial"].upper() + "A"),
    "an ended one twice": lambda f: f["ended"].append(f["ended"][0]),
    "a name that is none": lambda f: f["ended"][0].update(name="/"),
    "a reason that is none": lambda f: f["ended"][0].update(reason="x"),
    "an invitation twice": lambda f: f["used"].append(f["used"][0]),
    "an invitation that is none": lambda f: f["used"][0].update(invitation=""),
}


@pytest.mark.parametrize("change", SPOILT.values(), ids=SPOILT)
def test_a_ledger_that_contradicts_itself_or_says_too_much_is_not_used(change: Callable[..., object]) -> None:
    with pytest.raises(LocalError):
        read_ledger(spoilt(change))


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 9000, "\ud800", "null"])
def test_what_is_no_ledger_is_misuse(text: str) -> None:
    with pytest.raises(LocalError, match="the authority's ledger cannot be used"):
        read_ledger(text)


@given(st.text(max_size=50))
def test_any_text_is_no_ledger(text: str) -> None:
    with pytest.raises(LocalError):
        read_ledger(text)


def test_a_damaged_ledger_is_another_ledger_or_misuse() -> None:
    text = write_ledger(full())
    used = 0
    for damaged in mutations(text.encode(), 1500):
        try:
            read = read_ledger(damaged.decode("latin-1"))
        except LocalError:
            continue
        used += 1
        assert write_ledger(read) == damaged.decode("latin-1").strip()
    assert used < 400, "only numbers and words can be other ones"


def test_a_network_that_cannot_be_named_has_no_ledger() -> None:
    with pytest.raises(LocalError, match="network name"):
        Ledger("a/b")
