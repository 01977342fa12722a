"""Commands that other packages bring: what a plugin is.

A package names a `Plugin` in its entry points, in the group `holloway.commands`; the name there is the plugin's, and every command
of it is called NAME.COMMAND, so that no plugin takes over what another one or Holloway itself has.

Not responsible for finding them (`installed_plugins`), nor for running anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

from holloway.protocols.control_plane.access import DEFAULT_ACCESS, AccessTable, Place, Rule
from holloway.protocols.control_plane.messages import Role

MAX_PLUGINS = 32
MAX_PLUGIN_COMMANDS = 32
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


def words_of(error: BaseException) -> str:
    """What an exception of somebody else's says, cut to what is told; it may not even be able to say it."""
    try:
        return str(error)[:500].encode("utf-8", "replace").decode()
    except BaseException:  # noqa: BLE001 - its own `__str__`, which is not our code either
        return "it does not say why"


def told(error: BaseException) -> str:
    """The same, with what kind of exception it is."""
    return f"{type(error).__name__}: {words_of(error)[:200]}"
