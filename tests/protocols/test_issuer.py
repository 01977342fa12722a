"""The authority: a machine that was invited is let in, once, as it was agreed, and gets nothing that is somebody else's."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, ip_address, ip_network
from typing import Any

import pytest
from authority_world import DAY, NETWORK, NOW, Network, authority, identity, serial
from enrolment_world import SETTINGS_OF_NETWORK, Greedy, Joiner, World, v4

from holloway.protocols import ledger as ledger_module
from holloway.protocols.authorities import make_bundle
from holloway.protocols.certificates import CLOCK_SKEW_S, CertificateProblem, NodeCertificate
from holloway.protocols.enrolment import (
    EnrolProblem,
)
from holloway.protocols.errors import LocalError
from holloway.protocols.hostile_json import base64_text
from holloway.protocols.issuer import Decision, Issuer
from holloway.protocols.issuing import NODE_LIFETIME_S, make_request
from holloway.protocols.joiner import Granted
from holloway.protocols.ledger import EndReason, Ledger
from holloway.protocols.ledger_text import read_ledger, write_ledger
from holloway.protocols.network_settings import NetworkSettings, encode_settings
from holloway.protocols.renewal import read_renewed
from holloway.protocols.trust import Trust


@pytest.fixture
def world() -> World:
    return World()


# Who is invited gets in.


def test_a_machine_that_was_invited_gets_what_was_agreed(world: World) -> None:
    invitation = world.invite(name="node-a", addresses=v4("10.99.0.5"), prefixes=(ip_network("10.1.0.0/16"),))
    joiner = Joiner(invitation, identity("a"))
    decision = world.enrol(joiner)
    assert decision.has_changed
    assert decision.reason is None
    assert decision.answer is not None
    granted = joiner.read(decision.answer, NOW)
    assert isinstance(granted, Granted)
    assert granted.certificate.name == "node-a"
    assert granted.certificate.key == identity("a").public
    assert granted.certificate.addresses == {ip_address("10.99.0.5"), ip_address("fd99:0:0:1::a63:5")}
    assert granted.certificate.prefixes == {ip_network("10.1.0.0/16")}
    assert granted.bundle == world.network.bundle
    assert granted.list_number == 0
    trust = Trust(granted.bundle)
    assert trust.check(granted.certificate.der, NOW) == granted.certificate
    assert trust.take_settings(granted.settings, NOW) == encode_settings(SETTINGS_OF_NETWORK).decode()


def test_an_open_invitation_leaves_name_and_address_to_the_machine(world: World) -> None:
    granted = world.join(Joiner(world.invite(), identity("a"), name="mine", addresses=v4("10.99.0.9", "10.99.0.200")))
    assert isinstance(granted, Granted)
    assert granted.certificate.name == "mine"
    assert {ip_address("10.99.0.9"), ip_address("10.99.0.200")} <= granted.certificate.addresses


def test_who_wishes_for_no_address_gets_the_lowest_free_one_that_nobody_reserved(world: World) -> None:
    world.let_in("a", addresses=v4("10.99.0.64"))
    got = [world.let_in(name).certificate.addresses for name in ("b", "c")]
    assert [min(map(str, each)) for each in got] == ["10.99.0.65", "10.99.0.66"]


def test_when_all_addresses_are_taken_somebody_is_refused() -> None:
    small = NetworkSettings(network=IPv4Network("10.9.0.0/29"), static_range=None, floating_range=None)
    world = World(settings=small)
    for number in range(6):
        assert world.let_in(f"n{number}").certificate.addresses == {ip_address(f"10.9.0.{number + 1}")}
    joiner = Joiner(world.invite(), identity("late"), name="late")
    assert world.refusal(joiner) is EnrolProblem.NO_ADDRESS_LEFT


def test_the_first_and_last_of_256_addresses_are_not_given_out() -> None:
    wide = NetworkSettings(network=IPv4Network("10.9.0.0/23"), static_range=None, floating_range=None)
    world = World(settings=wide)
    for number in range(1, 255):
        world.ledger._holders[ip_address(f"10.9.0.{number}")] = "somebody"
    assert world.let_in("a").certificate.addresses == {ip_address("10.9.1.1")}


# What a machine can not wish for.


def test_a_wish_that_the_invitation_does_not_allow_is_misuse(world: World) -> None:
    bound = world.invite(name="node-a", addresses=v4("10.99.0.5"))
    for invitation, wish in [
        (bound, {"name": "node-b"}),
        (bound, {"addresses": v4("10.99.0.6")}),
        (world.invite(), {}),
        (world.invite(), {"name": "a/b"}),
    ]:
        with pytest.raises(LocalError, match="cannot"):
            Joiner(invitation, identity("a"), **wish)  # type: ignore[arg-type]
    assert Joiner(bound, identity("a"), name="node-a", addresses=v4("10.99.0.5")).request()


@pytest.mark.parametrize(
    ("terms", "fields", "reason"),
    [
        ({"name": "node-a"}, {"name": "node-b"}, EnrolProblem.NOT_INVITED),
        ({"addresses": v4("10.99.0.5")}, {"addresses": ["10.99.0.6"]}, EnrolProblem.NOT_INVITED),
        ({}, {"addresses": ["10.99.0.33"]}, EnrolProblem.ADDRESS_RESERVED),
        ({"addresses": v4("10.99.0.33")}, {}, EnrolProblem.ADDRESS_RESERVED),
        ({}, {"addresses": ["10.99.0.0"]}, EnrolProblem.ADDRESS_RESERVED),
        ({}, {"addresses": ["10.98.0.1"]}, EnrolProblem.ADDRESS_RESERVED),
        ({}, {"name": "a/b"}, EnrolProblem.BAD_NAME),
        ({}, {"name": "taken"}, EnrolProblem.NAME_TAKEN),
        ({}, {"addresses": ["10.99.0.100"]}, EnrolProblem.ADDRESS_TAKEN),
        ({}, {"csr": ""}, EnrolProblem.BAD_KEY),
        ({}, {"csr": base64_text(make_request(identity("taken")))}, EnrolProblem.KEY_TAKEN),
    ],
    ids=range(11),
)
def test_a_wish_that_cannot_be_fulfilled_is_refused_for_its_reason(
    world: World, terms: Any, fields: Any, reason: EnrolProblem
) -> None:
    world.let_in("taken", addresses=v4("10.99.0.100"))
    assert world.refusal(Greedy(world.invite(**terms), identity("greedy"), **fields)) is reason


def test_of_a_signing_request_only_the_key_counts(world: World) -> None:
    joiner = Greedy(world.invite(), identity("greedy"), prefixes=["0.0.0.0/0"], network="other", name="greedy")
    granted = world.join(joiner)
    assert isinstance(granted, Granted)
    assert granted.certificate.prefixes == frozenset()


@pytest.mark.parametrize(
    "fields",
    [
        {"csr": 1},
        {"csr": "A" * 2000},
        {"name": None},
        {"name": "x" * 64},
        {"addresses": None},
        {"addresses": ["x"]},
        {"addresses": ["fd99::1"]},
        {"addresses": [16909060]},
        {"addresses": ["127.0.0.1"]},
        {"addresses": ["10.99.0.70"] * 9},
        {"nonce": None},
        {"nonce": "00"},
    ],
    ids=range(12),
)
def test_a_request_that_makes_no_sense_is_not_answered_though_its_sender_was_invited(world: World, fields: Any) -> None:
    assert world.enrol(Greedy(world.invite(), identity("greedy"), **fields)) == Decision(None, EnrolProblem.MALFORMED)


# Once.


def test_the_same_key_may_ask_again_and_gets_the_same_certificate(world: World) -> None:
    invitation = world.invite(name="a")
    first = world.join(Joiner(invitation, identity("a")))
    later = NOW + 30 * DAY
    again = Joiner(invitation, identity("a"))
    decision = world.enrol(again, later)
    assert not decision.has_changed
    assert decision.answer is not None
    second = again.read(decision.answer, later)
    assert isinstance(first, Granted)
    assert isinstance(second, Granted)
    assert second.certificate == first.certificate


def test_another_key_may_not_use_the_same_invitation(world: World) -> None:
    invitation = world.invite()
    world.join(Joiner(invitation, identity("a"), name="a"))
    assert world.refusal(Joiner(invitation, identity("thief"), name="a")) is EnrolProblem.USED
    assert world.refusal(Joiner(invitation, identity("thief"), name="b")) is EnrolProblem.USED


def test_a_retry_with_another_wish_is_refused(world: World) -> None:
    invitation = world.invite()
    world.join(Joiner(invitation, identity("a"), name="a"))
    assert world.refusal(Joiner(invitation, identity("a"), name="b")) is EnrolProblem.USED
    other = Joiner(invitation, identity("a"), name="a", addresses=v4("10.99.0.99"))
    assert world.refusal(other) is EnrolProblem.USED


def test_an_invitation_that_was_used_is_used_also_when_the_machine_is_gone(world: World) -> None:
    invitation = world.invite(name="a")
    world.join(Joiner(invitation, identity("a")))
    world.issuer.release("a", NOW)
    assert world.refusal(Joiner(invitation, identity("a"))) is EnrolProblem.USED
    assert world.refusal(Joiner(invitation, identity("b"))) is EnrolProblem.USED


def test_a_refusal_does_not_use_the_invitation(world: World) -> None:
    world.let_in("taken")
    invitation = world.invite()
    assert world.refusal(Joiner(invitation, identity("a"), name="taken")) is EnrolProblem.NAME_TAKEN
    assert isinstance(world.join(Joiner(invitation, identity("b"), name="free")), Granted)


def test_an_invitation_expires_at_the_authority_too(world: World) -> None:
    joiner = Joiner(world.invite(name="a"), identity("a"))
    end = NOW + DAY + CLOCK_SKEW_S
    assert world.refusal(joiner, end + 1) is EnrolProblem.EXPIRED
    assert isinstance(world.join(joiner, end), Granted)


def test_a_certificate_that_has_run_out_is_not_granted_again(world: World) -> None:
    joiner = Joiner(world.invite(name="a"), identity("a"))
    world.join(joiner)
    assert world.refusal(joiner, NOW + NODE_LIFETIME_S + CLOCK_SKEW_S + 1) is EnrolProblem.EXPIRED


# Names, keys and addresses belong to somebody.


def test_a_machine_that_was_made_anew_inherits_nothing_before_the_old_one_is_released(world: World) -> None:
    old = world.let_in("a", addresses=v4("10.99.0.5"))
    renewed = identity("a, made anew")
    late = NOW + 10 * NODE_LIFETIME_S
    terms = {"name": "a", "addresses": v4("10.99.0.5"), "expires": late}
    for now in (NOW, late):
        assert world.refusal(Joiner(world.invite(**terms), renewed), now) is EnrolProblem.NAME_TAKEN
        other = Joiner(world.invite(**terms | {"name": "b"}), renewed)
        assert world.refusal(other, now) is EnrolProblem.ADDRESS_TAKEN
    world.issuer.release("a", NOW)
    new = world.let_in("a", renewed, addresses=v4("10.99.0.5"))
    trust = Trust(world.network.bundle)
    assert trust.take_revocations(world.issuer.revocation_list(NOW).der) is None
    assert trust.check(old.certificate.der, NOW) is CertificateProblem.REVOKED
    assert trust.check(new.certificate.der, NOW) == new.certificate


def test_a_revoked_key_is_never_let_in_again_and_a_released_one_is(world: World) -> None:
    world.let_in("a")
    world.let_in("b")
    world.issuer.revoke("a", NOW)
    world.issuer.release("b", NOW)
    assert world.refusal(Joiner(world.invite(), identity("a"), name="other")) is EnrolProblem.KEY_REVOKED
    assert world.let_in("c", identity("b")).certificate.name == "c"
    for name in ("a", "nobody"):
        with pytest.raises(LocalError, match="nobody has the name"):
            world.issuer.revoke(name, NOW)


def test_a_machine_that_is_invited_again_keeps_its_address_and_its_certificate(world: World) -> None:
    first = world.let_in("a")
    second = world.let_in("a")
    assert second.certificate.addresses == first.certificate.addresses
    assert second.certificate.serial != first.certificate.serial
    assert not world.ledger.is_list_due
    assert len(world.ledger.holdings) == 1


def test_a_machine_that_is_invited_again_for_less_loses_the_rest(world: World) -> None:
    first = world.let_in("a", prefixes=(ip_network("10.1.0.0/16"),))
    second = world.let_in("a", addresses=v4("10.99.0.77"))
    assert world.ledger.is_list_due
    made = world.issuer.revocation_list(NOW)
    assert made.serials == {first.certificate.serial}
    assert not world.ledger.is_list_due
    assert world.ledger.holder_of(ip_address("10.99.0.77")) == "a"
    assert world.ledger.holder_of(ip_address("10.99.0.64")) is None
    assert second.certificate.prefixes == frozenset()


def test_a_grant_tells_how_far_revocation_lists_have_come(world: World) -> None:
    world.let_in("a")
    world.issuer.revoke("a", NOW)
    made = world.issuer.revocation_list(NOW)
    granted = world.let_in("b")
    assert granted.list_number == made.number == 1
    trust = Trust(granted.bundle, list_number=granted.list_number)
    assert trust.check(granted.certificate.der, NOW) is CertificateProblem.REVOCATIONS_MISSING
    assert trust.take_revocations(made.der) is None
    assert trust.check(granted.certificate.der, NOW) == granted.certificate


def test_a_network_is_full_some_day(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MAX_HOLDINGS", "MAX_USED"):
        with monkeypatch.context() as patch:
            patch.setattr(ledger_module, name, len(world.ledger.holdings))
            assert world.refusal(Joiner(world.invite(name="a"), identity("a"))) is EnrolProblem.FULL
    monkeypatch.setattr(ledger_module, "MAX_REVOKED", ledger_module.MAX_EARLIER)
    assert world.refusal(Joiner(world.invite(name="a"), identity("a"))) is EnrolProblem.FULL


@pytest.mark.parametrize("prefix", ["10.99.0.0/24", "10.99.0.7/32", "fd99:0:0:1::/64", "fd99:0:0:1::a63:5/128"])
def test_nobody_gets_a_prefix_among_the_addresses_of_nodes(world: World, prefix: str) -> None:
    joiner = Joiner(world.invite(name="a", prefixes=(ip_network(prefix),)), identity("a"))
    assert world.refusal(joiner) is EnrolProblem.PREFIX_RESERVED
    wide = tuple(ip_network(each) for each in ("0.0.0.0/0", "::/0", "10.0.0.0/8", "fd98::/16"))
    assert world.let_in("b", prefixes=wide).certificate.prefixes == set(wide)


def test_in_a_network_without_ipv6_no_ipv6_prefix_is_reserved() -> None:
    world = World(settings=NetworkSettings())
    prefix = ip_network("fd99:0:0:1::/64")
    assert world.let_in("b", prefixes=(prefix,)).certificate.prefixes == {prefix}


# Misuse.


def test_an_issuer_is_made_of_parts_that_belong_together() -> None:
    old, new = authority("old"), authority("new")
    both = make_bundle(NETWORK, 2, [old.certificate, new.certificate], [old, new])
    assert World(new, bundle=both).issuer
    with pytest.raises(LocalError, match="not the last one"):
        World(old, bundle=both)
    with pytest.raises(LocalError, match="different networks"):
        World(ledger=Ledger("other"))
    parameters = (Ledger(NETWORK), Network().bundle, SETTINGS_OF_NETWORK, b"")
    with pytest.raises(LocalError, match="or the key is none"):
        Issuer(authority(), bytes(31), *parameters)


def test_a_serial_number_that_comes_twice_is_misuse_and_changes_nothing(world: World) -> None:
    world.let_in("a")
    before = write_ledger(world.ledger)
    joiner = Joiner(world.invite(name="b", id=bytes(16)), identity("b"))
    with pytest.raises(LocalError, match="serial number"):
        world.issuer.enrol(bytes(16), joiner.request(), NOW, serial(0))
    assert write_ledger(world.ledger) == before


def test_a_ledger_survives_its_text_after_all_of_this(world: World) -> None:
    world.let_in("a", prefixes=(ip_network("10.1.0.0/16"),))
    world.let_in("a", addresses=v4("10.99.0.5"))
    world.let_in("b")
    world.let_in("b")
    world.issuer.revoke("b", NOW)
    text = write_ledger(world.ledger)
    again = World(ledger=read_ledger(text))
    assert write_ledger(again.ledger) == text
    assert {each.reason for each in again.ledger.ended} == {EndReason.SUPERSEDED, EndReason.REVOKED}
    assert again.ledger.holder_of(ip_address("10.99.0.5")) == "a"


def test_a_single_address_of_the_floating_range_may_be_certified_and_nothing_else_inside(world: World) -> None:
    range_ = SETTINGS_OF_NETWORK.floating_range
    assert range_ is not None
    single = ip_network(f"{range_[1]}/32")
    assert world.let_in("a", prefixes=(single,)).certificate.prefixes == {single}
    assert world.let_in("b", prefixes=(single,)).certificate.prefixes == {single}  # that is the point of it
    outside = SETTINGS_OF_NETWORK.network[-1]
    for prefix in (range_, ip_network(f"{range_[0]}/31"), ip_network(f"{outside}/32")):
        joiner = Joiner(world.invite(name="c", prefixes=(prefix,)), identity("c"))
        assert world.refusal(joiner) is EnrolProblem.PREFIX_RESERVED


def test_the_first_address_of_a_network_is_no_floating_one_though_it_is_in_the_range() -> None:
    network = IPv4Network("10.9.0.0/22")
    world = World(
        settings=NetworkSettings(network=network, static_range=None, floating_range=IPv4Network("10.9.0.0/24"))
    )
    joiner = Joiner(world.invite(name="a", prefixes=(ip_network("10.9.0.0/32"),)), identity("a"))
    assert world.refusal(joiner) is EnrolProblem.PREFIX_RESERVED


def test_an_address_that_was_freed_rests_before_others_get_it_unless_their_invitation_names_it(world: World) -> None:
    freed = world.let_in("node-a").certificate
    (address,) = [each for each in freed.addresses if isinstance(each, IPv4Address)]
    world.issuer.release("node-a", NOW)
    assert address not in world.let_in("node-b").certificate.addresses, "the lowest free one rests"
    wishing = Joiner(world.invite(name="node-c"), identity("node-c"), addresses=(address,))
    assert world.refusal(wishing) is EnrolProblem.ADDRESS_RESTING
    assert address in world.let_in("node-a").certificate.addresses, "its own machine has it again at once"
    world.issuer.revoke("node-a", NOW)
    assert address in world.let_in("node-d", addresses=(address,)).certificate.addresses
    world.issuer.release("node-d", NOW)
    later = NOW + SETTINGS_OF_NETWORK.rest_s
    assert address in world.let_in("node-e", now=later).certificate.addresses


# Who is in may announce more, if the owner says so.


def test_a_node_gets_another_certificate_with_more_prefixes(world: World) -> None:
    granted = world.let_in("node-a", prefixes=(ip_network("10.1.0.0/16"),))
    more = (ip_network("0.0.0.0/0"), ip_network("10.1.0.0/16"))
    decision = world.issuer.certify("node-a", more, NOW + 5, serial("more"))
    assert decision.has_changed
    assert decision.answer is not None
    trust = Trust(world.network.bundle)
    assert trust.take_revocations(world.issuer.revocation_list(NOW).der) is None
    found = read_renewed(decision.answer, granted.certificate, trust, NOW + 5)
    assert isinstance(found, NodeCertificate)
    assert found.prefixes == {ip_network("0.0.0.0/0"), ip_network("10.1.0.0/16")}
    assert found.addresses == granted.certificate.addresses
    # The one before says less, and goes on counting: nothing is cut off before the node has heard of this.
    assert trust.problem(granted.certificate, NOW + 5) is None
    again = world.issuer.certify("node-a", more, NOW + 9, serial("again"))
    assert (again.has_changed, again.answer) == (False, decision.answer)


@pytest.mark.parametrize("prefix", ["10.99.0.64/28", "10.99.0.77/32", "fd99:0:0:1::/96"])
def test_nobody_is_certified_for_addresses_of_others(world: World, prefix: str) -> None:
    world.let_in("node-a")
    with pytest.raises(LocalError, match="inside the network"):
        world.issuer.certify("node-a", (ip_network(prefix),), NOW, serial("more"))
    holding = world.ledger.holding("node-a")
    assert holding is not None
    assert not holding.certificate.prefixes


def test_only_who_is_in_and_in_time_can_be_certified_for_more(world: World) -> None:
    world.let_in("node-a")
    for name, now, why in (("node-b", NOW, "nobody has the name"), ("node-a", NOW + 100 * DAY, "has run out")):
        with pytest.raises(LocalError, match=why):
            world.issuer.certify(name, (ip_network("10.1.0.0/16"),), now, serial("more"))
