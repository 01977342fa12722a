"""Control without keys: whoever says a name has it, whoever says nothing of the kind is nobody."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holloway.protocols.control_plane.effects import Principal
from holloway.protocols.control_plane.messages import Role
from holloway.protocols.control_plane.null_security import is_loopback, principal_of, said_name
from holloway.protocols.errors import LocalError

TOKEN = bytes(range(8))


def test_a_node_is_a_node_and_everybody_else_an_admin() -> None:
    assert principal_of(said_name("web1", is_node=True, token=TOKEN)) == Principal("web1", Role.NODE)
    assert principal_of(said_name("ann", is_node=False, token=TOKEN)) == Principal("ann", Role.ADMIN)


@pytest.mark.parametrize("name", ["", "-x", "a/b", "a b", "x" * 64, "é"])
def test_what_is_no_name_is_not_said(name: str) -> None:
    with pytest.raises(LocalError):
        said_name(name, is_node=True, token=TOKEN)


@given(st.binary(max_size=255))
def test_a_connection_that_says_anything_else_is_nobody(route: bytes) -> None:
    assert principal_of(route) is None
    assert principal_of(b"node/-x/0001020304050607" + route) is None
    assert principal_of(b"admin/x/0001020304050607") is None


@pytest.mark.parametrize(
    ("host", "is_own"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("*", False),
        ("192.0.2.1", False),
        ("localhost.example", False),
        ("", False),
    ],
)
def test_only_the_loopback_address_is_taken_for_this_machine(host: str, is_own: bool) -> None:
    assert is_loopback(host) is is_own
