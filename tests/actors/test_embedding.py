"""The example of docs/embedding.md does what the page says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import trio.testing

PAGE = Path(__file__).resolve().parents[2] / "docs" / "embedding.md"


def test_the_example_exchanges_a_packet() -> None:
    example = re.search(r"test_embedding\.py -->\n```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert example is not None
    namespace: dict[str, Any] = {}
    exec(compile(example[1], str(PAGE), "exec"), namespace)
    packets = trio.run(namespace["main"], clock=trio.testing.MockClock(autojump_threshold=0))
    assert len(packets) == 1
    assert packets[0].endswith(b"hello")


def test_its_working_part_is_no_longer_than_twenty_lines() -> None:
    body = PAGE.read_text().partition("async def main")[2].partition("```")[0]
    assert len([line for line in body.splitlines() if line.strip()]) <= 20
