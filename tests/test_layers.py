"""The rooms and the arrows between them: who may import whom, and that nobody imports in a circle."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("protocols", "supervisor", "actors", "simulations", "cli")
MAY_IMPORT = {
    "protocols": {"protocols"},
    "supervisor": {"supervisor"},
    "actors": {"protocols", "supervisor", "actors"},
    "simulations": {"protocols", "supervisor", "actors", "simulations"},
    "cli": {"protocols", "supervisor", "actors", "simulations", "cli"},
}
OUTSIDE = {"protocols": {"cryptography"}, "supervisor": {"trio"}}
"""What a room may import besides the standard library; the others may import any declared dependency."""
IMPURE = {
    "asyncio",
    "io",
    "os",
    "pathlib",
    "random",
    "secrets",
    "select",
    "selectors",
    "socket",
    "subprocess",
    "threading",
    "time",
}


def modules() -> dict[str, Path]:
    """Every module of the product by its import name."""
    found = {}
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            parts = ["holloway", *path.relative_to(ROOT).with_suffix("").parts]
            if parts[-1] == "__init__":
                parts.pop()
            found[".".join(parts)] = path
    return found


MODULES = modules()


def imports(path: Path, *, everywhere: bool) -> set[str]:
    """The modules that a file imports: at its top level, or anywhere in it. Type-checking blocks do not run."""
    names: set[str] = set()

    def visit(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            match child:
                case ast.Import(names=aliases):
                    names.update(alias.name for alias in aliases)
                case ast.ImportFrom(module=module, names=aliases, level=level):
                    assert level == 0, f"{path}: relative import"
                    for alias in aliases:
                        whole = f"{module}.{alias.name}"
                        names.add(whole if whole in MODULES else str(module))
                case ast.If(test=ast.Name(id="TYPE_CHECKING"), orelse=orelse) if not everywhere:
                    for statement in orelse:
                        visit(statement)
                case ast.FunctionDef() | ast.AsyncFunctionDef() if not everywhere:
                    pass
                case _:
                    visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return names


def room_of(name: str) -> str | None:
    parts = name.split(".")
    return parts[1] if parts[0] == "holloway" and len(parts) > 1 else None


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_only_rooms_below_its_own(name: str) -> None:
    allowed = MAY_IMPORT[name.split(".")[1]]
    for imported in imports(MODULES[name], everywhere=True):
        assert imported.partition(".")[0] not in ROOMS, f"{name} imports the bare folder {imported}"
        room = room_of(imported)
        assert room is None or room in allowed, f"{name} imports {imported}"


@pytest.mark.parametrize("name", [name for name in MODULES if name.split(".")[1] in OUTSIDE])
def test_a_pure_room_imports_nothing_but_its_few_libraries(name: str) -> None:
    allowed = OUTSIDE[name.split(".")[1]]
    for imported in imports(MODULES[name], everywhere=True):
        top = imported.partition(".")[0]
        assert top == "holloway" or top in allowed or top in sys.stdlib_module_names, f"{name} imports {imported}"


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("holloway.protocols")])
def test_a_protocol_imports_no_clock_no_randomness_no_io(name: str) -> None:
    assert not {imported.partition(".")[0] for imported in imports(MODULES[name], everywhere=True)} & IMPURE


def test_no_module_imports_itself_in_a_circle() -> None:
    graph = {
        name: sorted(found for found in imports(path, everywhere=False) if found in MODULES)
        for name, path in MODULES.items()
    }
    done: set[str] = set()

    def walk(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail[trail.index(name) :], name))
        if name not in done:
            for found in graph[name]:
                walk(found, (*trail, name))
            done.add(name)

    for name in graph:
        walk(name, ())
    assert done == set(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_a_module_says_what_it_is_for_and_stays_readable(name: str) -> None:
    text = MODULES[name].read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(text)), f"{name} has no docstring"
    assert text.count("\n") <= 600, f"{name} asks to be two modules"
    assert not any(word in text for word in ("TODO", "FIXME", "XXX")), name


def test_no_folder_is_imported_by_its_bare_name() -> None:
    for room in ROOMS:
        assert room not in sys.modules or not str(getattr(sys.modules[room], "__file__", "")).startswith(str(ROOT))
