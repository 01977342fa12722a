"""The line of every key, for TOML and JSON, against the parsers of the standard library."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holloway.actors.config.lines_json import json_lines
from holloway.actors.config.lines_toml import toml_lines

Path = tuple[str | int, ...]

SCALARS = [
    "1",
    "-1_000",
    "0xff",
    "3.5e2",
    "nan",
    "true",
    "1979-05-27 07:32:00",
    "07:32:00.5",
    '"a # [ ] { } = , \\" \\\\"',
    "'c:\\dir # = '",
    '""',
    "''",
    '"""\nline # [x]\n"quoted" ""two"" \\""" more\n"""',
    '"""ends in two quotes"""""',
    '""""begins with one"""',
    '"""folded \\\n   \n  on"""',
    "'''\nkey = 1\n[table]\n'''",
]
FILLINGS = ["", " ", "\t", "\n", "\n\n", " # c = [ ] } ' \" \n", "\r\n", "# \n  # two\n "]
BARE = re.compile(r"[A-Za-z0-9_-]+")
keys = st.one_of(
    st.text("abzZ09_-", min_size=1, max_size=3),
    st.text("ab .#=[]{}'\"\\\u00e9\U0001f333,", max_size=4),
)


class Writer:
    """Writes TOML and notes the line on which each key path begins."""

    def __init__(self, draw: Any) -> None:
        self.draw = draw
        self.text = ""
        self.expected: dict[Path, int] = {}

    @property
    def line(self) -> int:
        return self.text.count("\n") + 1

    def filling(self) -> None:
        self.text += self.draw(st.sampled_from(FILLINGS))

    def key(self, key: str) -> str:
        forms = [json.dumps(key, ensure_ascii=False)]
        if BARE.fullmatch(key):
            forms.append(key)
        if "'" not in key:
            forms.append(f"'{key}'")
        return str(self.draw(st.sampled_from(forms)))

    def dotted(self, parts: list[str]) -> str:
        return self.draw(st.sampled_from([".", " . ", "\t."])).join(self.key(part) for part in parts)

    def pair(self, path: Path, key: str, depth: int) -> None:
        parts = [key, *self.draw(st.lists(keys, max_size=1 if depth else 0))]
        line = self.line
        self.text += f"{self.dotted(parts)} = "
        for part in parts:
            path = (*path, part)
            self.expected.setdefault(path, line)
        self.value(path, depth)

    def value(self, path: Path, depth: int) -> None:
        shape = self.draw(st.sampled_from(["scalar", "array", "inline"] if depth else ["scalar"]))
        if shape == "scalar":
            self.text += self.draw(st.sampled_from(SCALARS))
        elif shape == "array":
            self.text += "["
            self.filling()
            for position in range(self.draw(st.integers(0, 3))):
                self.expected[(*path, position)] = self.line
                self.value((*path, position), depth - 1)
                self.filling()
                self.text += ","
                self.filling()
            self.text += "]"
        else:
            names = self.draw(st.lists(keys, max_size=2, unique=True))
            self.text += "{ "
            for position, name in enumerate(names):
                self.text += " , " if position else ""
                self.pair(path, name, depth - 1)
            self.text += " }"

    def end_line(self) -> None:
        self.text += self.draw(st.sampled_from(["\n", "  # note\n", "\n\n", "\r\n", "\n  # [x]\n  "]))

    def table(self, path: Path, names: list[str], depth: int) -> None:
        taken = self.draw(st.lists(keys, max_size=4, unique=True))
        pairs = self.draw(st.integers(0, len(taken)))
        for key in taken[:pairs]:
            self.pair(path, key, 2)
            self.end_line()
        for key in taken[pairs:] if depth else []:
            repeats = self.draw(st.integers(0, 3))
            for position in range(repeats) if repeats else [None]:
                line = self.line
                header = self.dotted([*names, key])
                self.text += f"[[{header}]]" if position is not None else f"[ {header} ]"
                self.expected.setdefault((*path, key), line)
                inner: Path = (*path, key) if position is None else (*path, key, position)
                self.expected[inner] = line
                self.end_line()
                self.table(inner, [*names, key], depth - 1)


@st.composite
def documents(draw: Any) -> Writer:
    writer = Writer(draw)
    writer.table((), [], 2)
    return writer


def paths(value: object, path: Path = ()) -> Iterator[Path]:
    """Every key path of a parsed document."""
    inner: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inner:
        yield (*path, key)
        yield from paths(each, (*path, key))


@given(documents())
def test_toml_lines_are_those_the_keys_were_written_on(document: Writer) -> None:
    parsed = tomllib.loads(document.text)
    assert set(paths(parsed)) == set(document.expected)  # the writer writes what it says
    assert toml_lines(document.text) == document.expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("# only a comment", {}),
        ("a = 1", {("a",): 1}),
        ("\n\na.b.c = 1\n", {("a",): 3, ("a", "b"): 3, ("a", "b", "c"): 3}),
        ("[a.b]\nx=1\n[a]\ny=2", {("a",): 3, ("a", "b"): 1, ("a", "b", "x"): 2, ("a", "y"): 4}),
        (
            "[[f]]\n[[f.v]]\nn=1\n[[f.v]]\n[f.w]\nk=2\n[[f]]\n[[f.v]]",
            {
                ("f",): 1,
                ("f", 0): 1,
                ("f", 0, "v"): 2,
                ("f", 0, "v", 0): 2,
                ("f", 0, "v", 0, "n"): 3,
                ("f", 0, "v", 1): 4,
                ("f", 0, "w"): 5,
                ("f", 0, "w", "k"): 6,
                ("f", 1): 7,
                ("f", 1, "v"): 8,
                ("f", 1, "v", 0): 8,
            },
        ),
        ("\"\\u0061 b\".'c.d' = [ # x\n 1,\n [2,\n3] ]", None),
        ('k = """a\n\\"""b\n""""" # x\nz = 1', None),
        ("k = '''''two quotes'''''\nz = 1", None),
        ("\ta = { b = [1, {c = 2}], d.e = 3 } # }\nf = 1979-05-27T07:32:00Z # ,\n", None),
    ],
)
def test_toml_lines_of_awkward_documents(text: str, expected: dict[Path, int] | None) -> None:
    lines = toml_lines(text)
    assert set(lines) == set(paths(tomllib.loads(text)))
    if expected is not None:
        assert lines == expected
    if ("z",) in lines:
        assert text.splitlines()[lines[("z",)] - 1].startswith("z")


def test_a_long_string_costs_one_step_and_no_stack() -> None:
    text = f'a = """{"x" * 500_000}\n{"y" * 400_000}"""\nb = 1'
    assert toml_lines(text)[("b",)] == 3


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)),
    max_leaves=12,
)


@given(json_values, st.sampled_from([None, 0, 2, "\t"]), st.booleans())
def test_json_lines_name_the_line_of_every_key(value: object, indent: int | str | None, escape: bool) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=escape)
    lines, repeated = json_lines(text)
    assert set(lines) == set(paths(json.loads(text)))
    assert repeated == []
    rows = text.split("\n")
    for path, line in lines.items():
        if isinstance(path[-1], str):
            assert json.dumps(path[-1], ensure_ascii=escape) in rows[line - 1]
    if indent is not None and len(rows) > 1:
        # Every line but those that only close a bracket begins a key or an item, each of which has its own.
        beginnings = [number for number, row in enumerate(rows[1:], 2) if row.strip() not in ("}", "]", "},", "],")]
        assert sorted(lines.values()) == beginnings


def test_json_keys_written_twice_are_told_with_both_lines() -> None:
    lines, repeated = json_lines('{"a": 1,\n "b": {"c": 1,\n "c": 2},\n "a": 3}')
    assert repeated == [(("b", "c"), 3), (("a",), 4)]
    assert (lines[("a",)], lines[("b", "c")]) == (1, 2)
