"""The exception tree is the one drawn at the head of its module."""

from __future__ import annotations

import inspect

import pytest

from holloway.protocols import errors
from holloway.protocols.errors import HollowayError, LocalError, PortError, ProtocolError, RegistryError


def test_the_tree_is_the_one_that_is_drawn() -> None:
    classes = [value for value in vars(errors).values() if inspect.isclass(value) and issubclass(value, Exception)]
    drawn = errors.__doc__ or ""
    for error in classes:
        assert error.__name__ in drawn
    assert issubclass(LocalError, ProtocolError)
    assert issubclass(RegistryError, PortError)
    assert all(issubclass(error, HollowayError) for error in classes)


def test_an_error_says_what_why_and_how_to_mend_it() -> None:
    error = LocalError("no key", "the file is empty", "run `holloway keygen`")
    assert (error.what, error.why, error.fix) == ("no key", "the file is empty", "run `holloway keygen`")
    assert str(error) == "no key: the file is empty"
    assert str(LocalError("no key")) == "no key"


@pytest.mark.parametrize("kind", ["unavailable", "denied", "compacted"])
def test_a_registry_error_says_which_kind_it_is(kind: str) -> None:
    assert RegistryError("refused", kind=kind).kind == kind  # type: ignore[arg-type]
