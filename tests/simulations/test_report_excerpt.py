"""What a report holds of a trace, and how it is written: everything that needs no browser."""

from __future__ import annotations

import json
import re
from importlib.resources import files
from pathlib import Path

import pytest
from reported_runs import HOSTILE, page_of, play, quiet_plan, told

from holloway.simulations.report.excerpt import take_excerpt
from holloway.simulations.report.page import SCRIPTS, embedded_json


def test_an_excerpt_keeps_what_lies_round_the_violation_and_what_still_lasts() -> None:
    lines: list[tuple[float, str, str, str, int, str]] = [(0, "a", "state", "b", 0, "INITIATING epoch 0")]
    lines += [(0.1, "a", "state", "b", 0, "ESTABLISHED epoch 1"), (0.2, "b", "state", "a", 0, "IDLE epoch 0")]
    lines += [(1 + number / 100, "a", "send", "b", 0, f"data {number}") for number in range(100)]
    lines += [(2, "b", "state", "a", 0, "ESTABLISHED epoch 1"), (2.1, "world", "violation", "", 0, "broken")]
    lines += [(3 + number / 100, "a", "send", "b", 0, f"data {number}") for number in range(100)]
    lines += [(4 + number, "b", "store", "", 0, "wrote") for number in range(3)]
    run = told(quiet_plan(), *lines)
    excerpt = take_excerpt(["no line", *run.text.splitlines(), '{"t":-1}', "[]"], traffic=40, marks=4)
    sends = [line for line in excerpt.lines if line.kind == "send"]
    assert [line.seq for line in sends] == [*range(74, 104), *range(106, 116)]
    assert [line.what for line in excerpt.lines if line.kind == "state"] == [
        "ESTABLISHED epoch 1",
        "ESTABLISHED epoch 1",
    ]
    assert [line.seq for line in excerpt.lines] == sorted(line.seq for line in excerpt.lines)
    assert excerpt.before["a"] == [70, 0, 0, 0]
    assert [(gap.from_ns, gap.until_ns) for gap in excerpt.gaps] == [(0, 1_700_000_000), (3_100_000_000, None)]
    assert excerpt.extent.read == len(lines) + 3
    assert excerpt.extent.unreadable == 3
    assert excerpt.extent.left_out == len(lines) - len(excerpt.lines)


def test_the_same_run_gives_the_same_page_and_it_is_ascii() -> None:
    lossy = play("rekey-under-loss", 3)
    first, second = page_of(lossy)[0], page_of(lossy)[0]
    assert first == second
    assert first.isascii()
    assert first.count("</script>") == 2
    assert str(Path.cwd()) not in first


@pytest.mark.parametrize("text", [HOSTILE, "<!--<script>", "]]>", "\ud800"])
def test_embedded_json_has_no_character_that_could_end_its_element(text: str) -> None:
    embedded = embedded_json({text: [text]})
    assert embedded.isascii()
    assert not re.search(r"[<>&]", embedded)
    assert json.loads(embedded) == {text: [text]}


def test_the_parts_of_the_page_lie_beside_the_code_so_that_they_are_installed_with_it() -> None:
    folder = files("holloway.simulations.report")
    parts = sorted(each.name for each in folder.iterdir() if not each.name.endswith((".py", "__")))
    assert parts == sorted(("page.html", "page.css", *SCRIPTS))
