"""What people read of the control plane: the audit trail that tells when it was changed, output without tricks, equal answers once."""

from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holloway.protocols.control_plane.audit_chain import MAX_WHAT_CHARS, Flaw, Head, head_of, next_line, verify
from holloway.protocols.control_plane.collapse import NodeResult, collapse, natural
from holloway.protocols.control_plane.effects import Audit
from holloway.protocols.control_plane.messages import State
from holloway.protocols.control_plane.plain_output import MAX_SEQUENCE_CHARS, Sanitiser, sanitise


def trail(count: int) -> list[bytes]:
    head, lines = Head(), []
    for number in range(count):
        line, head = next_line(head, 1_700_000_000.0 + number, Audit("asked", "ann", f'exec "{number}"\n', "ok"))
        lines.append(line)
    return lines


def test_a_trail_verifies_and_goes_on_after_its_last_line() -> None:
    lines = trail(3)
    verdict = verify(lines)
    assert (verdict.lines, verdict.first, verdict.head.number, verdict.flaw) == (3, 1, 3, None)
    head = head_of(lines[-1])
    assert head == verdict.head
    assert isinstance(head, Head)
    more, _ = next_line(head, 1.0, Audit("asked", "bob", "x", "ok"))
    assert verify([*lines, more]).flaw is None
    assert verify(lines[1:]).first == 2
    assert verify([]).lines == 0
    assert json.loads(lines[0])["what"] == 'exec "0"\n'


@pytest.mark.parametrize(
    ("spoil", "line", "flaw"),
    [
        (lambda lines: [lines[0], lines[1].replace(b"ann", b"bob"), lines[2]], 2, Flaw.CHANGED),
        (lambda lines: [lines[0], lines[2]], 2, Flaw.GAP),
        (lambda lines: [lines[1], lines[0], lines[2]], 2, Flaw.GAP),
        (lambda lines: [*lines, lines[-1]], 4, Flaw.GAP),
        (lambda lines: [lines[0], b"{}\n", lines[2]], 2, Flaw.NOT_A_LINE),
        (lambda lines: [lines[0][:-20]], 1, Flaw.NOT_A_LINE),
        (lambda lines: [next_line(Head(0, "1" * 64), 1.0, Audit("", "", "", ""))[0]], 1, Flaw.FOREIGN),
        (lambda lines: [lines[0], next_line(Head(1, "1" * 64), 1.0, Audit("", "", "", ""))[0]], 2, Flaw.FOREIGN),
    ],
)
def test_what_was_done_to_a_trail_is_named_at_its_line(spoil: object, line: int, flaw: Flaw) -> None:
    verdict = verify(spoil(trail(3)))  # type: ignore[operator]
    assert (verdict.line, verdict.flaw) == (line, flaw)


@given(st.lists(st.binary(max_size=300), max_size=4), st.integers(0, 600), st.binary(min_size=1, max_size=1))
@settings(max_examples=100, deadline=None)
def test_no_bytes_raise_and_no_changed_byte_passes(junk: list[bytes], at: int, byte: bytes) -> None:
    assert verify(junk).flaw is not None or not junk
    [line] = trail(1)
    line = line.removesuffix(b"\n")
    at %= len(line)
    spoilt = line[:at] + byte + line[at + 1 :]
    assert verify([spoilt]).flaw is not None or spoilt == line


def test_long_texts_are_cut_and_still_verify() -> None:
    line, _ = next_line(Head(), 1.0, Audit("asked", "ann", "\U0001f600" * 10_000, "x" * 10_000))
    assert verify([line]).flaw is None
    what = json.loads(line)["what"]
    assert len(what) == MAX_WHAT_CHARS
    digest = hashlib.sha256(("\U0001f600" * 10_000).encode()).hexdigest()
    assert what.endswith(f"… (10000 characters, SHA-256 {digest})")
    assert json.loads(next_line(Head(), 1.0, Audit("asked", "ann", "\udcff" * 5000, ""))[0])["what"].endswith(")")
    assert json.loads(next_line(Head(), 1.0, Audit("asked", "ann", "x" * MAX_WHAT_CHARS, ""))[0])["what"][-1] == "x"


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b"plain\n", "plain\n"),
        ("grüße \U0001f600\t".encode(), "grüße \U0001f600\t"),
        (b"\x1b[31mred\x1b[0m", "red"),
        (b"\x1b]0;title\x07after", "after"),
        (b"\x1b]52;c;ZXZpbA==\x1b\\after", "after"),
        (b"\x1bPdcs\x1b\\after\x1b(B.", "after."),
        ("\x9b31mred\x9dtitle\x9c.".encode(), "red."),
        (b"\x1b]0;cut \x1b[31mred", "red"),
        (b"a\x08\x7f\x00b\x07", "ab"),
        (b"50%\r100%\r\n", "50%\n100%\n"),
        (b"\xff\xfe ok", "\ufffd\ufffd ok"),
        ("evil\u202egnp.exe\u2066".encode(), "evilgnp.exe"),
        (b"\x1b[3\nnext", "\nnext"),
        (b"\x1b\nnext", "\nnext"),
        (b"ends in \xc3", "ends in \ufffd"),
    ],
)
def test_output_is_plain_text_however_it_is_cut(data: bytes, shown: str) -> None:
    assert sanitise(data) == shown
    sanitiser = Sanitiser()
    pieces = [sanitiser.feed(data[at : at + 1]) for at in range(len(data))]
    assert "".join(pieces) + sanitiser.feed(b"", is_last=True) == shown


def test_a_sequence_that_never_ends_does_not_swallow_everything() -> None:
    shown = sanitise(b"\x1b]" + b"x" * 2 * MAX_SEQUENCE_CHARS)
    assert shown == "x" * (MAX_SEQUENCE_CHARS + 1)


@given(st.binary(max_size=200) | st.text("\x1b[]\\P;31mx\r\n\x9b", max_size=60).map(str.encode))
@settings(max_examples=200, deadline=None)
def test_no_output_ever_shows_a_control_character(data: bytes) -> None:
    assert all(
        character in "\t\n" or (character >= " " and not "\x7f" <= character <= "\x9f") for character in sanitise(data)
    )


def result(node: str, state: State = State.OK, stdout: bytes = b"same", duration_s: float = 1.0) -> NodeResult:
    return NodeResult(node, state, 0 if state is State.OK else 1, stdout, b"", duration_s, "")


def test_equal_answers_are_one_group_and_what_went_wrong_stands_last() -> None:
    groups = collapse(
        [
            result("web10", duration_s=2.0),
            result("db1", State.FAILED),
            result("web2"),
            result("odd", stdout=b"other"),
            result("web1", State.FAILED),
            result("web3"),
        ]
    )
    assert [group.nodes for group in groups] == [("web2", "web3", "web10"), ("odd",), ("db1", "web1")]
    assert groups[0].result.node == "web2"
    assert collapse([]) == []
    assert sorted(["a10", "a9", "a", "b1"], key=natural) == ["a", "a9", "a10", "b1"]
