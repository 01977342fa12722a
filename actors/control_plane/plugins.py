"""Commands that other packages bring: what a plugin is, and how those that are installed are found.

A package names a `Plugin` in its entry points, in the group `holloway.commands`; the name there is the plugin's, and every command
of it is called NAME.COMMAND, so that no plugin takes over what another one or Holloway itself has. One that cannot be loaded, or has
a name that somebody has already, is left out and told; nothing else suffers from it.

Not responsible for verbs of the command line (`holloway.cli.plugin_verbs`), nor for running anything.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

from holloway.protocols.control_plane.access import DEFAULT_ACCESS, AccessTable, Place, Rule
from holloway.protocols.control_plane.messages import Role
from holloway.protocols.errors import LocalError

GROUP = "holloway.commands"
MAX_PLUGINS = 32
MAX_PLUGIN_COMMANDS = 32
_PLUGIN_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}\Z")
_COMMAND_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}\Z")
OPERATORS = frozenset({Role.OPERATOR, Role.ADMIN})

Options: TypeAlias = Mapping[str, str | int | float | bool]
Argv: TypeAlias = Callable[[Sequence[str], Options], Sequence[str]]


@dataclass(frozen=True, slots=True)
class NodeCommand:
    """Something that runs on nodes: `argv` makes a program and its arguments of the arguments and options that somebody gave. It raises
    ValueError, in words for people, for those that make no sense. What it returns runs as a program of the agent does.
    """

    name: str
    argv: Argv
    callers: frozenset[Role] = OPERATORS


@dataclass(frozen=True, slots=True)
class BrokerCall:
    """What a command on the broker is given. `files`: the folder of the files that were put."""

    files: Path
    caller: str
    role: Role
    arguments: tuple[str, ...]
    options: Options
    body: bytes


@dataclass(frozen=True, slots=True)
class BrokerCommand:
    """Something that runs on the broker: `run` returns rows. It is called in a thread, may take some seconds, and raises ValueError, in words
    for people, for what makes no sense.
    """

    name: str
    run: Callable[[BrokerCall], Sequence[Mapping[str, object]]]
    callers: frozenset[Role] = OPERATORS


@dataclass(frozen=True, slots=True)
class Plugin:
    """What a package brings. `verbs`: `package.module:attribute` of the click command that is `holloway NAME`; loaded when that is called."""

    summary: str
    verbs: str = ""
    on_nodes: tuple[NodeCommand, ...] = ()
    on_broker: tuple[BrokerCommand, ...] = ()


@dataclass(frozen=True, slots=True)
class Plugins:
    """Those that could be loaded, by name; and, in words, what became of the others."""

    found: Mapping[str, Plugin] = field(default_factory=lambda: MappingProxyType({}))
    problems: tuple[str, ...] = ()

    @property
    def on_nodes(self) -> dict[str, NodeCommand]:
        """The commands for nodes, by their whole names."""
        return {f"{name}.{each.name}": each for name, plugin in self.found.items() for each in plugin.on_nodes}

    @property
    def on_broker(self) -> dict[str, BrokerCommand]:
        """The commands for the broker, by their whole names."""
        return {f"{name}.{each.name}": each for name, plugin in self.found.items() for each in plugin.on_broker}

    def access(self, table: AccessTable = DEFAULT_ACCESS) -> AccessTable:
        """The table, with those commands."""
        nodes = {name: Rule(each.callers, Place.NODES) for name, each in self.on_nodes.items()}
        broker = {name: Rule(each.callers, Place.BROKER) for name, each in self.on_broker.items()}
        return table.with_rules(nodes | broker)


NO_PLUGINS = Plugins()


def installed() -> dict[str, list[EntryPoint]]:
    """The entry points of plugins by name. Runs nothing of them."""
    found: dict[str, list[EntryPoint]] = {}
    for each in sorted(entry_points(group=GROUP), key=lambda point: (point.name, package_of(point))):
        found.setdefault(each.name, []).append(each)
    return found


def package_of(point: EntryPoint) -> str:
    """The package that an entry point is of, and its version."""
    try:
        return f"{point.dist.name} {point.dist.version}" if point.dist is not None else "an unknown package"
    except Exception:  # noqa: BLE001 - metadata that somebody has damaged, which raises what it likes
        return "a damaged package"


def load_plugin(name: str, points: Sequence[EntryPoint], taken: Collection[str]) -> Plugin:
    """The plugin of that name. `taken`: names that are somebody's. Raises LocalError for one that cannot be used."""
    packages = ", ".join(package_of(point) for point in points)
    fix = f"remove or mend it: pip uninstall {package_of(points[0]).partition(' ')[0]}"
    if not _PLUGIN_NAME.match(name):
        raise LocalError(f"a plugin cannot be called {name[:40]!r}", f"{packages}: small letters, digits, hyphens", fix)
    if name in taken:
        raise LocalError(f"a plugin cannot be called {name}", f"{packages}: Holloway has a verb of that name", fix)
    if len(points) > 1:
        raise LocalError(f"two plugins are called {name}", f"{packages}: neither is taken", fix)
    try:
        plugin = points[0].load()
    except (Exception, SystemExit) as error:
        why = f"{packages}: {type(error).__name__}: {str(error)[:200]}"
        raise LocalError(f"the plugin {name} cannot be loaded", why, fix) from error
    if not isinstance(plugin, Plugin):
        raise LocalError(f"the plugin {name} is none", f"{packages}: {points[0].value} is no Plugin", fix)
    brought: list[NodeCommand | BrokerCommand] = [*plugin.on_nodes, *plugin.on_broker]
    commands = [each.name for each in brought]
    twice = next((each for each in commands if commands.count(each) > 1), None)
    if twice is not None:
        raise LocalError(f"the plugin {name} has two commands {twice}", f"{packages}: it is not taken", fix)
    if len(commands) > MAX_PLUGIN_COMMANDS or not all(_COMMAND_NAME.match(each) for each in commands):
        why = f"{packages}: small letters, digits and hyphens; {MAX_PLUGIN_COMMANDS} at most"
        raise LocalError(f"the plugin {name} has commands that cannot be called so", why, fix)
    if any(Role.NODE in each.callers for each in brought):
        why = f"{packages}: a node commands nobody"
        raise LocalError(f"the plugin {name} lets nodes call a command", why, fix)
    return plugin


def load_plugins(taken: Collection[str]) -> Plugins:
    """All that are installed and can be used."""
    found: dict[str, Plugin] = {}
    problems: list[str] = []
    for name, points in installed().items():
        try:
            plugin = load_plugin(name, points, taken)
            if len(found) == MAX_PLUGINS:
                raise LocalError(f"the plugin {name} is one too many", f"{MAX_PLUGINS} are the most")
            found[name] = plugin
        except LocalError as error:
            problems.append(str(error))
    return Plugins(MappingProxyType(found), tuple(problems))
