"""What a pair agrees on: the same on both sides, never below either policy, plain text only where both ask for it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holloway.protocols.membership import SECURITY_WORDS
from holloway.protocols.offers import (
    ALL_TERMS,
    SEALED,
    Offers,
    Policy,
    Security,
    Terms,
    agreed_security,
    willing,
)

NONE, SESSION, DTLS = Security
WITH_DTLS = (DTLS, SESSION, NONE)

policies = st.builds(
    Policy,
    require=st.sampled_from(Security),
    supported=st.sampled_from([WITH_DTLS, (SESSION, NONE)]),
    compression=st.sampled_from(["none", "lz4"]),
).filter(lambda policy: policy.require in policy.supported)  # others find no peers, and no node starts with one
words = st.lists(st.sampled_from([*sorted(SECURITY_WORDS), "rot13", ""]), max_size=4).map(tuple)
forged = st.builds(Offers, words, st.lists(st.sampled_from(["lz4", "none", "zip"]), max_size=3).map(tuple))


@settings(deadline=None, max_examples=300, derandomize=True)
@given(policies, policies)
def test_both_sides_come_to_the_same_and_never_below_either_policy(a: Policy, b: Policy) -> None:
    security = agreed_security(a, b.offers.security)
    assert security == agreed_security(b, a.offers.security)
    if security is not None:
        assert security >= max(a.require, b.require)
        assert security in a.supported
        assert security in b.supported


@settings(deadline=None, max_examples=500, derandomize=True)
@given(policies, forged)
def test_whatever_a_record_says_nothing_below_the_policy_comes_of_it(policy: Policy, offers: Offers) -> None:
    security = agreed_security(policy, offers.security)
    assert security is None or security >= policy.require
    if Terms.CLEAR in willing(policy, offers):
        assert policy.require is NONE
        assert "none" in offers.security
    if Terms.LZ4 in willing(policy, offers):
        assert policy.compression == "lz4"


@settings(deadline=None, max_examples=500, derandomize=True)
@given(policies, policies, forged, forged)
def test_forged_records_take_terms_away_and_give_none(a: Policy, b: Policy, of_a: Offers, of_b: Offers) -> None:
    """Each side sees what the store shows it; what both are willing to is what both would be by the true records, or less."""
    true = willing(a, b.offers) & willing(b, a.offers)
    seen = willing(a, of_b) & willing(b, of_a)
    by_policy = SEALED
    if a.require is b.require is NONE:
        by_policy |= Terms.CLEAR
    if a.compression == b.compression == "lz4":
        by_policy |= Terms.LZ4
    assert true == by_policy
    assert seen & ~true == SEALED


@pytest.mark.parametrize(
    ("ours", "theirs", "security"),
    [
        (Policy(), ("session",), SESSION),
        (Policy(), (), SESSION),
        (Policy(), ("session", "none"), SESSION),
        (Policy(), ("none",), None),
        (Policy(), ("dtls",), None),
        (Policy(NONE), ("session",), SESSION),
        (Policy(NONE), ("session", "none"), NONE),
        (Policy(NONE), ("none",), NONE),
        (Policy(NONE, WITH_DTLS), ("dtls", "session"), DTLS),
        (Policy(supported=WITH_DTLS), ("dtls", "session"), DTLS),
        (Policy(supported=WITH_DTLS), ("session",), SESSION),
        (Policy(DTLS, WITH_DTLS), ("session", "none"), None),
        (Policy(DTLS, WITH_DTLS), ("dtls", "session"), DTLS),
        (Policy(DTLS, WITH_DTLS), ("dtls",), DTLS),
        (Policy(DTLS), ("dtls", "session"), None),
    ],
)
def test_the_table_of_the_document(ours: Policy, theirs: tuple[str, ...], security: Security | None) -> None:
    assert agreed_security(ours, theirs) is security


@pytest.mark.parametrize(
    ("policy", "offered"),
    [
        (Policy(NONE), ("session", "none")),
        (Policy(NONE, WITH_DTLS), ("dtls", "session", "none")),
        (Policy(), ("session",)),
        (Policy(supported=WITH_DTLS), ("dtls", "session")),
        (Policy(DTLS, WITH_DTLS), ("dtls",)),
    ],
)
def test_a_node_offers_what_its_policy_allows_the_strongest_first(policy: Policy, offered: tuple[str, ...]) -> None:
    assert policy.offers == Offers(offered, ())
    assert replace(policy, compression="lz4").offers.compression == ("lz4",)


def test_a_configured_peer_needs_no_record() -> None:
    assert willing(Policy(NONE, compression="lz4"), None) == ALL_TERMS
    assert willing(Policy(), None) == SEALED
    assert willing(Policy(NONE, compression="lz4"), Offers()) == SEALED, "one that is silent offers neither"
