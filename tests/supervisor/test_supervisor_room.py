"""The room itself: its public names, what it imports, where it catches, and how long its files are."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

import holloway.supervisor

ROOM = Path(holloway.supervisor.__file__).parent
MODULES = sorted(ROOM.glob("*.py"))
LIMIT_LINES = 350


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


def runtime_imports(path):
    tree = ast.parse(path.read_text())
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom) and id(node) not in typing_only:
            yield from [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]


def test_the_public_names_are_there_and_no_others():
    public = set(holloway.supervisor.__all__)
    assert all(getattr(holloway.supervisor, name) is not None for name in public)
    assert len(public) == len(holloway.supervisor.__all__)
    assert public == {
        *{"Actor", "AutoShutdown", "Backoff", "Child", "Intensity", "LINGER_S", "Restart", "Strategy"},
        *{"Pool", "Supervisor", "Tree", "dynamic", "open_tree"},
        *{"Context", "Ref", "Registry", "Stash"},
        *{"ChildExited", "ChildInfo", "ChildOverranGrace", "ChildRestarting", "ChildStartFailed", "ChildStarted"},
        *{"Event", "Exit", "State", "SupervisorGaveUp", "TreeStopped"},
        *{"ActorDown", "ChildStartError", "GraceOverrun", "IntensityExceeded", "PoolFull", "SpecError"},
        "SupervisorError",
    }


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_a_module_imports_the_standard_library_trio_and_its_own_room(path):
    for name in imports(path):
        top = name.partition(".")[0]
        assert top in sys.stdlib_module_names or top == "trio" or name.startswith("holloway.supervisor."), name


@pytest.mark.parametrize("name", ["policy.py", "roster.py", "spec.py", "events.py", "errors.py"])
def test_decisions_and_data_know_nothing_of_trio_clocks_or_randomness(name):
    assert not {"trio", "time", "random", "holloway.supervisor.context"} & set(runtime_imports(ROOM / name))


def test_crashes_are_caught_in_the_watcher_alone():
    catching = {
        path.name
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or ast.unparse(node.type) in {"Exception", "BaseException"})
    }
    assert catching == {"watcher.py"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_a_module_says_what_it_is_responsible_for_and_can_be_read_in_a_sitting(path):
    text = path.read_text()
    assert len(text.splitlines()) < LIMIT_LINES
    assert ast.get_docstring(ast.parse(text))
