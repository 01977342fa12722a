"""docs/control_plane.md says what is so: kinds of messages and their fields, reasons of refusals, who may do what; docs/security.md, which
attacks are tried.
"""

from __future__ import annotations

import re
from pathlib import Path

from holloway.protocols.control_plane.access import DEFAULT_ACCESS, Place
from holloway.protocols.control_plane.messages import Refusal, Role, State
from holloway.protocols.control_plane.wire import _SHAPES

DOCUMENTS = Path(__file__).parents[2] / "docs"
DOCUMENT = (DOCUMENTS / "control_plane.md").read_text()


def table(after: str) -> list[list[str]]:
    """The rows of the first table behind a text."""
    rows = []
    for line in DOCUMENT[DOCUMENT.index(after) :].splitlines():
        if line.startswith("|"):
            rows.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
        elif rows:
            break
    return rows[2:]


def test_every_kind_of_message_is_there_with_its_fields() -> None:
    written = {}
    for kind, _, fields in table("| kind | from, to |"):
        names = re.findall(r"`([a-z_0-9]+)`", fields)
        in_body = [name for name in ("body", "nodes") if f"**{name}**" in fields]
        written[kind.strip("`")] = (sorted(names), in_body)
    assert written == {
        kind: (sorted(shape.forms), [shape.body.name] if shape.body is not None else [])
        for kind, shape in _SHAPES.items()
    }


def test_every_reason_why_frames_are_no_message_is_there() -> None:
    assert set(re.findall(r"`(control_[a-z_]+)`", DOCUMENT.partition("No message says who sent it")[0])) == {
        each.value for each in Refusal
    }


def test_every_state_is_there() -> None:
    assert [row[0].strip("`") for row in table("| state | what it means |")] == [each.value for each in State]


def test_who_may_do_what_is_what_is_written() -> None:
    written: set[tuple[str, str, Place]] = set()
    for commands, roles, place in table("| commands | who | where |"):
        for command in re.findall(r"`([a-z-]+)`", commands):
            written |= {(command, role, Place(place)) for role in roles.split(", ")}
    assert written == {
        (command, role.value, place)
        for command in DEFAULT_ACCESS._rules
        for role in Role
        for place in Place
        if DEFAULT_ACCESS.problem(role, command, place) is None
    }


def test_every_test_that_is_named_for_an_attack_is_there() -> None:
    attacks = (DOCUMENTS / "security.md").read_text().partition("## Brokers, agents and operators")[2]
    named = set(re.findall(r"`(test_[a-z_]+)`", attacks))
    there = "\n".join(path.read_text() for path in (DOCUMENTS.parent / "tests").rglob("test_control*.py"))
    there += "\n".join(path.read_text() for path in (DOCUMENTS.parent / "tests" / "cli").glob("test_cli_*.py"))
    assert len(named) > 15
    assert not {name for name in named if f"def {name}(" not in there}
