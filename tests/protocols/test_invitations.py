"""Invitations: what is made is read, what is damaged is told apart, and nobody makes one without the key."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from dataclasses import replace
from ipaddress import IPv4Address, ip_network
from typing import Any

import pytest
from authority_world import DAY, NETWORK, NOW, entropy, mutations
from hypothesis import given
from hypothesis import strategies as st

from holloway.protocols.certificates import CLOCK_SKEW_S
from holloway.protocols.errors import LocalError
from holloway.protocols.invitations import (
    MAX_FILE_CHARS,
    MAX_TERMS_ADDRESSES,
    MAX_TERMS_PREFIXES,
    MAX_TOKEN_CHARS,
    MAX_URL_CHARS,
    Invitation,
    Terms,
    encode_token,
    has_mac,
    invitation_secret,
    invite,
    mac,
    parse_token,
    read_terms,
)

KEY = entropy("invitation key", 32)
FINGERPRINT = entropy("authority", 32)
TERMS = Terms(
    network=NETWORK,
    id=entropy("id", 16),
    expires=NOW + DAY,
    name="node-a",
    addresses=(IPv4Address("10.99.0.7"),),
    prefixes=(ip_network("10.1.0.0/16"), ip_network("fd00:1::/48")),
)
OPEN = Terms(network=NETWORK, id=entropy("open", 16), expires=NOW + DAY)
FILES = {"ca": "-----BEGIN CERTIFICATE-----\nAAAA\n", "password": 'p"\\ss'}


def made(terms: Terms = TERMS, **changes: Any) -> Invitation:
    parameters: dict[str, Any] = {"registry": "etcd://192.0.2.1:2379", "authority": FINGERPRINT, "files": FILES}
    return invite(terms, KEY, **parameters | changes)


TOKEN = encode_token(made())


def packed(body: bytes) -> str:
    """A token of anything, with a head that fits."""
    head = len(body).to_bytes(4, "big") + hashlib.sha256(body).digest()[:8]
    return "holloway1-" + base64.urlsafe_b64encode(head + body).rstrip(b"=").decode()


def with_fields(**changes: Any) -> str:
    found = base64.urlsafe_b64decode(TOKEN.removeprefix("holloway1-") + "==")[12:]
    return packed(json.dumps(json.loads(found) | changes).encode())


def test_what_is_made_is_read() -> None:
    invitation = parse_token(TOKEN, NOW)
    assert invitation == made()
    assert (invitation.terms, invitation.registry) == (TERMS, "etcd://192.0.2.1:2379")
    assert (invitation.authority, invitation.files) == (FINGERPRINT, FILES)
    assert parse_token(encode_token(made(OPEN, files=None)), NOW).terms == OPEN


def test_the_form_of_an_invitation_is_what_other_versions_rely_on() -> None:
    assert TERMS.text() == (
        '{"network":"net","id":"' + TERMS.id.hex() + f'","expires":{NOW + DAY},"name":"node-a",'
        '"addresses":["10.99.0.7"],"prefixes":["10.1.0.0/16","fd00:1::/48"]}'
    )
    assert OPEN.text() == (
        '{"network":"net","id":"' + OPEN.id.hex() + f'","expires":{NOW + DAY},"addresses":[],"prefixes":[]}}'
    )
    secret = hmac.digest(KEY, b"holloway invitation\0" + TERMS.text().encode(), "sha256")
    assert made().secret == secret == invitation_secret(KEY, TERMS.text())
    fields = json.loads(base64.urlsafe_b64decode(TOKEN.removeprefix("holloway1-") + "==")[12:])
    assert fields == {
        "terms": TERMS.text(),
        "registry": "etcd://192.0.2.1:2379",
        "authority": FINGERPRINT.hex(),
        "secret": base64.b64encode(secret).decode(),
        "files": FILES,
    }


def test_a_token_is_one_word_and_may_be_wrapped() -> None:
    assert len(TOKEN.split()) == 1
    wrapped = "\n".join(TOKEN[at : at + 40] for at in range(0, len(TOKEN), 40))
    assert parse_token(f"  {wrapped}\r\n", NOW) == made()


def test_other_terms_or_another_key_make_another_secret() -> None:
    secrets = {
        invitation_secret(KEY, TERMS.text()),
        invitation_secret(entropy("x", 32), TERMS.text()),
        *(
            invitation_secret(KEY, replace(TERMS, **changes).text())
            for changes in (
                {"name": "node-b"},
                {"expires": NOW},
                {"id": bytes(16)},
                {"addresses": ()},
                {"prefixes": ()},
            )
        ),
    }
    assert len(secrets) == 7
    with pytest.raises(LocalError, match="31 bytes of 32"):
        invitation_secret(KEY[:31], TERMS.text())


def test_a_mac_is_for_one_purpose() -> None:
    tag = mac(KEY, "request", "x")
    assert has_mac(KEY, "request", "x", tag)
    assert not has_mac(KEY, "grant", "x", tag)
    assert not has_mac(KEY, "request", "y", tag)
    assert not has_mac(KEY, "request", "x", tag[:-1])
    assert not has_mac(KEY, "request", "x", b"")


@pytest.mark.parametrize(
    "changes",
    [
        {"network": "a/b"},
        {"network": "\u00e9"},
        {"id": bytes(15)},
        {"expires": -1},
        {"expires": 1 << 60},
        {"name": ""},
        {"name": "a/b"},
        {"name": "x" * 64},
        {"addresses": (IPv4Address("127.0.0.1"),)},
        {"addresses": tuple(IPv4Address(0x0A000001 + each) for each in range(MAX_TERMS_ADDRESSES + 1))},
        {"prefixes": (ip_network("128.0.0.0/1"),)},
        {"prefixes": tuple(ip_network((each << 16, 16)) for each in range(2000, 2001 + MAX_TERMS_PREFIXES))},
    ],
    ids=range(12),
)
def test_terms_that_nobody_could_read_are_not_offered(changes: Any) -> None:
    with pytest.raises(LocalError, match="cannot be used"):
        made(replace(TERMS, **changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"registry": "x" * (MAX_URL_CHARS + 1)},
        {"registry": "\u00e9"},
        {"authority": bytes(31)},
        {"files": {"ca": "x" * (MAX_FILE_CHARS + 1)}},
        {"files": {"../ca": "x"}},
    ],
    ids=range(5),
)
def test_an_invitation_that_nobody_could_read_is_not_made(changes: Any) -> None:
    with pytest.raises(LocalError, match="cannot be used"):
        made(**changes)


def test_what_would_be_read_as_something_else_is_not_made() -> None:
    with pytest.raises(LocalError, match="does not survive"):
        made(replace(TERMS, addresses=[IPv4Address("10.99.0.7")]))  # type: ignore[arg-type]


def test_an_unusual_spelling_of_the_same_terms_is_none() -> None:
    for text in [TERMS.text() + " ", TERMS.text().replace(',"', ', "'), TERMS.text()[:-1] + ',"more":1}']:
        with pytest.raises(ValueError, match="usual text"):
            read_terms(text)
    with pytest.raises(ValueError, match="IPv6"):
        read_terms(TERMS.text().replace("10.99.0.7", "fd99::7"))


def test_a_token_counts_until_it_expires() -> None:
    last = TERMS.expires + CLOCK_SKEW_S
    assert parse_token(TOKEN, last) == made()
    with pytest.raises(LocalError, match="has expired: that was 301 s ago"):
        parse_token(TOKEN, last + 1)


@pytest.mark.parametrize(
    "token", ["", "holloway1", "holloway-AAAA", "Holloway1-AAAA", "hunter2", "holloway1-A+/A", "x" * 99]
)
def test_what_is_no_token_is_told_apart(token: str) -> None:
    with pytest.raises(LocalError, match="not an invitation: an invitation is a word"):
        parse_token(token, NOW)


def test_a_token_of_another_version_is_told_apart() -> None:
    with pytest.raises(LocalError, match="another version: it has the version 2"):
        parse_token(TOKEN.replace("holloway1-", "holloway2-"), NOW)


def test_a_token_that_is_cut_short_is_told_apart_wherever_it_is_cut() -> None:
    for length in range(len("holloway1-"), len(TOKEN)):
        with pytest.raises(LocalError, match="cut short"):
            parse_token(TOKEN[:length], NOW)


def test_a_token_with_a_wrong_character_is_told_apart_wherever_it_is() -> None:
    for at in range(len("holloway1-") + 6, len(TOKEN) - 1, 7):
        wrong = "A" if TOKEN[at] != "A" else "B"
        with pytest.raises(LocalError, match="damaged"):
            parse_token(TOKEN[:at] + wrong + TOKEN[at + 1 :], NOW)
    for more in ("AAAA", "A" * 40):
        with pytest.raises(LocalError, match="damaged"):
            parse_token(TOKEN + more, NOW)
    inside = base64.urlsafe_b64decode(TOKEN.removeprefix("holloway1-") + "==")
    shorter = (len(inside) - 13).to_bytes(4, "big") + inside[4:]
    with pytest.raises(LocalError, match="damaged"):
        parse_token("holloway1-" + base64.urlsafe_b64encode(shorter).decode().rstrip("="), NOW)
    with pytest.raises(LocalError, match="more than 49152 characters"):
        parse_token(TOKEN + "A" * MAX_TOKEN_CHARS, NOW)


@pytest.mark.parametrize(
    "token",
    [
        packed(b""),
        packed(b"[]"),
        packed(b"[" * 5000),
        packed(b"\xff"),
        with_fields(terms=1),
        with_fields(terms="{}"),
        with_fields(terms="[]"),
        with_fields(secret=""),
        with_fields(secret="A" * 100),
        with_fields(authority="x"),
        with_fields(files=[]),
        with_fields(files=None),
        with_fields(files={"ca": 1}),
        with_fields(files={"etc": "x"}),
        with_fields(registry=None),
    ],
    ids=range(15),
)
def test_a_token_that_makes_no_sense_is_refused(token: str) -> None:
    with pytest.raises(LocalError, match="cannot be used"):
        parse_token(token, NOW)


def test_a_damaged_token_is_refused_and_never_quoted() -> None:
    said = set()
    for damaged in mutations(TOKEN.encode(), 1500):
        try:
            found = parse_token(damaged.decode("latin-1"), NOW)
        except LocalError as error:
            said.add((str(error), error.fix, error.__cause__))
        else:
            assert found == made(), "a space was put in, or bits were turned that hold nothing"
    assert all(TOKEN[40:60] not in what + fix and cause is None for what, fix, cause in said)
    assert len(said) >= 4


@given(st.text(max_size=60))
def test_any_text_is_a_token_or_misuse(text: str) -> None:
    with pytest.raises(LocalError):
        parse_token("holloway1-" + text, NOW)


def test_no_repr_shows_the_secret_or_what_is_carried_along() -> None:
    shown = repr(made())
    assert "node-a" in shown
    assert "secret" not in shown
    assert "BEGIN" not in shown
    assert 'p"' not in shown
