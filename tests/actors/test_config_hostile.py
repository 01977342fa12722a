"""No file, however wrong, makes reading it fail otherwise than with problems, each on one printable line."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from holloway.actors.config import ConfigProblems, Problem, examine_config
from holloway.actors.config.documents import EXTENSIONS
from holloway.actors.config.schema import SECTIONS

leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([10**400, -(10**400), 2**63]),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(
        ["10.0.0.1/8", "fd00::1/64", "1.2.3.4:5", "[::1]:5", "a:1:2", "0/0", "::/0", "a" * 300, "\0", "\ud800"]
    ),
)
values = st.recursive(
    leaves,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=2)),
)
section_names = st.one_of(st.sampled_from([each.name for each in SECTIONS]), st.text(max_size=4))
keys = st.one_of(st.sampled_from([field.key for each in SECTIONS for field in each.fields]), st.text(max_size=4))
tables = st.dictionaries(keys, values, max_size=5)
trees = st.dictionaries(section_names, st.one_of(tables, st.lists(tables, max_size=3), values), max_size=6)

TAGS = [
    "!!int",
    "!!bool",
    "!!float",
    "!!timestamp",
    "!!binary",
    "!!null",
    "!!set",
    "!!omap",
    "!!merge",
    "!x",
    "!!value",
]
FRAGMENTS = [
    *"[]{}:,-#'\"\n =.&*|>?%@`~!<",
    "  ",
    "node",
    "[peer]",
    "[[peer]]",
    "name",
    '"""',
    "'''",
    "1",
    "\\u0000",
    "\t",
]


def problems_of(name: str, text: str) -> tuple[Problem, ...]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_text(text, encoding="utf-8", errors="replace")
        try:
            return examine_config(path, environ={"XDG_RUNTIME_DIR": "/run/user/1"}).problems
        except ConfigProblems as error:
            return error.problems


def assert_tellable(problems: tuple[Problem, ...]) -> None:
    for problem in problems:
        assert problem.what
        assert problem.fix
        assert str(problem).isprintable()
        assert problem.line is None or problem.line >= 1


@given(trees)
@example({"peer": [{"public_key": {}, "allowed": [[], None, {"a": 1}], "endpoint": []}]})
def test_any_tree_gives_problems_only(tree: dict[str, Any]) -> None:
    problems = problems_of("n.json", json.dumps(tree))
    assert_tellable(problems)
    assert problems  # nothing generated here is a whole configuration


@given(st.sampled_from(EXTENSIONS), st.lists(st.sampled_from([*FRAGMENTS, *TAGS]), max_size=12).map("".join))
def test_any_text_gives_problems_only(extension: str, text: str) -> None:
    assert_tellable(problems_of(f"n{extension}", text))


@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize("value", ["", "x", "''", "[1]", "{a: 1}"])
def test_odd_yaml_tags_give_problems_only(tag: str, value: str) -> None:
    problems = problems_of("n.yaml", f"node:\n  name: {tag} {value}\n")
    assert_tellable(problems)
    assert problems
