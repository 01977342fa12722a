"""What is refused stands in the audit trail, and nobody can flood that."""

from __future__ import annotations

import pytest
from control_site import Site, request

from holloway.protocols.control_plane import messages as m
from holloway.protocols.control_plane.effects import Audit, Principal
from holloway.protocols.control_plane.messages import Role
from holloway.protocols.control_plane.refusals import (
    AUDITED,
    MAX_SENDERS,
    MAX_STRANGERS,
    WINDOW_S,
    Refusals,
    lines_of,
)
from holloway.protocols.control_plane.wire import encode

NODE = Principal("a", Role.NODE)


def test_a_flood_of_refusals_is_written_down_as_its_number() -> None:
    site = Site("a")
    for _ in range(1000):
        site.say_frames([b"x"], NODE, b"evil")
    site.wait(WINDOW_S + 1)
    entries = [entry for entry in site.audit if entry.event == "refused"]
    assert len(entries) == AUDITED + 1
    assert entries[-1].what == f"and {1000 - AUDITED} more within the minute"
    assert site.broker.counts["control_frame_count"] == 1000


def test_the_first_of_each_kind_is_written_down_in_the_midst_of_a_flood() -> None:
    refusals = Refusals()
    written = [entry for _ in range(500) for entry in refusals.note(1.0, "evil", "x", "flood")]
    written += refusals.note(2.0, "evil", "client-create mallory", "access_role")
    assert written[-1].what == "client-create mallory"
    assert len(written) == AUDITED + 1
    assert [(entry.what, entry.outcome) for entry in refusals.due(61.0)] == [
        ("and 480 more within the minute", "flood")
    ]


@pytest.mark.parametrize(("is_stranger", "each", "most"), [(False, AUDITED, MAX_SENDERS), (True, 5, MAX_STRANGERS)])
def test_refusals_of_many_senders_are_bounded_and_none_is_lost(is_stranger: bool, each: int, most: int) -> None:
    refusals = Refusals()
    written = []
    for sender in range(most + 500):
        for _ in range(each + 2):
            written += refusals.note(1.0, str(sender), "x", "reason", is_stranger=is_stranger)
    assert refusals.next_due() == 61.0
    assert refusals.due(60.9) == []
    written += refusals.due(61.0)
    assert len(written) <= (most + 1) * (each + 1)
    assert sum(lines_of(entry.what) for entry in written) == (most + 500) * (each + 2) == refusals.counts["reason"]
    assert refusals.next_due() is None


def test_strangers_leave_those_with_keys_their_lines() -> None:
    refusals = Refusals()
    for sender in range(5000):
        refusals.note(1.0, f"192.0.2.{sender}", "handshake", "unknown_key", is_stranger=True)
    assert refusals.note(1.0, "ann", "exec", "access_role") == [Audit("refused", "ann", "exec", "access_role")]


def test_a_node_that_registers_again_and_again_does_not_flood_the_trail() -> None:
    site = Site("a")
    for number in range(300):
        register = m.Register("a", "", "", (), request(number), "ff" * 16, "1", ())
        site.broker.receive(site.moment, NODE, b"%d" % number, encode(register))
    told = [
        entry
        for number in range(300)
        for entry in site.broker.receive(
            site.moment, NODE, b"x", encode(m.Register("a", "", "", (), request(number), "ff" * 16, "1", ()))
        )
        if isinstance(entry, Audit)
    ]
    assert told == []
    site.wait(WINDOW_S + 1)
    assert {entry.event for entry in site.audit if lines_of(entry.what) > 500} == {"registered"}
