"""Whom a certificate of a given authority speaks for."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from dtls_certificates import Authority
from hypothesis import given
from hypothesis import strategies as st

from holloway.protocols.certificates import CertificateProblem
from holloway.protocols.dtls_names import OF_CERTIFICATES, DtlsProblem, Speaker, speaker_of

ONE, TWO = ip_address("10.99.0.1"), ip_address("fd99::1")
AUTHORITY = Authority()


def speaker(*uris: str, addresses: tuple[str, ...] = ()) -> Speaker | DtlsProblem:
    return speaker_of(AUTHORITY.issue("whatever", uris=uris, addresses=addresses).der, "home")


def test_a_certificate_names_a_node_or_its_addresses_or_both() -> None:
    assert speaker("holloway://home/a") == Speaker("a", None)
    assert speaker(addresses=("10.99.0.1", "fd99::1")) == Speaker(None, frozenset({ONE, TWO}))
    assert speaker("holloway://home/a", addresses=("10.99.0.1",)) == Speaker("a", frozenset({ONE}))
    assert speaker("holloway://home/a", "holloway://home/a?prefix=10.1.0.0/16") == Speaker("a", None)
    assert speaker("https://example.org", "holloway://home/a") == Speaker("a", None)


def test_a_common_name_says_nothing() -> None:
    assert speaker_of(AUTHORITY.issue("a").der, "home") is DtlsProblem.NO_NAMES
    assert speaker("https://example.org") is DtlsProblem.NO_NAMES


@pytest.mark.parametrize("uri", ["holloway://away/a", "holloway://home/", "holloway://home", "holloway://home/a/b"])
def test_a_name_in_another_network_is_none_in_ours(uri: str) -> None:
    assert speaker(uri) is DtlsProblem.WRONG_NETWORK


def test_nobody_has_two_names() -> None:
    assert speaker("holloway://home/a", "holloway://home/b") is DtlsProblem.MALFORMED


def test_name_and_addresses_must_fit_where_there_are_any() -> None:
    both = Speaker("a", frozenset({ONE}))
    assert both.fits("a", [ONE]) is None
    assert both.fits("b", [ONE]) is DtlsProblem.WRONG_NAME
    assert both.fits("a", [ONE, TWO]) is DtlsProblem.WRONG_ADDRESS
    assert Speaker("a", None).fits("a", [TWO]) is None
    assert Speaker(None, frozenset({ONE})).fits("whoever", [ONE]) is None
    assert Speaker(None, frozenset({ONE})).fits("whoever", [TWO]) is DtlsProblem.WRONG_ADDRESS
    # A node that has no address of its own is nobody's by its address.
    assert Speaker(None, frozenset({ONE})).fits("whoever", []) is DtlsProblem.WRONG_ADDRESS


@given(st.binary(max_size=300))
def test_any_bytes_are_judged(data: bytes) -> None:
    assert isinstance(speaker_of(data, "home"), DtlsProblem)


def test_every_problem_of_a_certificate_has_a_word_in_dtls() -> None:
    assert set(OF_CERTIFICATES) == set(CertificateProblem)
    assert len({problem.value for problem in DtlsProblem}) == len(DtlsProblem)
