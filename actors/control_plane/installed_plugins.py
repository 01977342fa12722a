"""Finding and loading the plugins that are installed.

None of it is our code, so nothing is taken for granted: the metadata of each package is read by itself, and what an entry point leads to is looked
at whole before anybody uses it. Whatever is wrong with one is told in words, and nothing else suffers from it. Not responsible for what a plugin
is (`plugins`), for verbs of the command line (`holloway.cli.plugin_verbs`), nor for running anything.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from importlib.metadata import Distribution, EntryPoint, distributions
from types import MappingProxyType

from holloway.actors.control_plane.plugins import (
    MAX_PLUGIN_COMMANDS,
    MAX_PLUGINS,
    BrokerCommand,
    NodeCommand,
    Plugin,
    Plugins,
    told,
)
from holloway.protocols.control_plane.messages import Role
from holloway.protocols.errors import LocalError

GROUP = "holloway.commands"
_METADATA = "entry_points.txt"
_PLUGIN_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}\Z")
_COMMAND_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}\Z")
_VERBS = re.compile(r"\w+(\.\w+)*:\w+\Z")


@dataclass(frozen=True, slots=True)
class Installed:
    """The entry points of plugins, by name; and, in words, the packages of which they cannot be read."""

    points: Mapping[str, Sequence[EntryPoint]]
    problems: tuple[str, ...] = ()


def installed() -> Installed:
    """What is installed. Runs nothing of it."""
    found: dict[str, list[EntryPoint]] = {}
    problems: list[str] = []
    for package in _packages(problems):
        try:
            points = [each for each in package.entry_points if each.group == GROUP]
        except Exception as error:  # noqa: BLE001 - a damaged file, of which the reader raises what comes to it
            problems.append(
                f"the entry points of {_described(package)} cannot be read: {_METADATA} is damaged: {told(error)}"
            )
            continue
        for each in points:
            found.setdefault(each.name, []).append(each)
    for same in found.values():
        same.sort(key=package_of)
    return Installed(dict(sorted(found.items())), tuple(problems))


def _packages(problems: list[str]) -> list[Distribution]:
    """Those whose metadata speaks of plugins. Of two that are called the same the one that Python imports counts, which comes first."""
    every = list(_distributions(problems))
    ours = {index for index, package in enumerate(every) if _speaks_of_plugins(package)}
    if not ours:
        return []  # as on most machines: so nobody's name has to be read
    names = [_normal_name(package) for package in every[: max(ours) + 1]]
    return [every[index] for index in sorted(ours) if not names[index] or names.index(names[index]) == index]


def _distributions(problems: list[str]) -> Iterator[Distribution]:
    try:
        yield from distributions()
    except Exception as error:  # noqa: BLE001 - anybody may have hooked himself into how packages are found
        problems.append(f"not all packages can be looked at: {told(error)}")


def _speaks_of_plugins(package: Distribution) -> bool:
    try:
        return GROUP in (package.read_text(_METADATA) or "")
    except Exception:  # noqa: BLE001 - not even text; whose it is will be told
        return True


def _normal_name(package: Distribution) -> str:
    """Empty for a package whose name cannot be read."""
    try:
        return re.sub(r"[-_.]+", "-", package.metadata["Name"]).lower()
    except Exception:  # noqa: BLE001 - damaged metadata, as above
        return ""


def package_of(point: EntryPoint) -> str:
    """The package that an entry point is of, and its version."""
    return _described(point.dist) if point.dist is not None else "an unknown package"


def _described(package: Distribution) -> str:
    try:
        return f"{package.metadata['Name'] or 'a damaged package'} {package.version}"
    except Exception:  # noqa: BLE001 - damaged metadata, as above
        return "a damaged package"


def load_plugin(name: str, points: Sequence[EntryPoint], taken: Collection[str]) -> Plugin:
    """The plugin of that name. `taken`: names that are somebody's. Raises LocalError for one that cannot be used."""
    packages = ", ".join(package_of(point) for point in points)
    fix = f"remove or mend it: pip uninstall {package_of(points[0]).rpartition(' ')[0]}"
    if not _PLUGIN_NAME.match(name):
        raise LocalError(f"a plugin cannot be called {name[:40]!r}", f"{packages}: small letters, digits, hyphens", fix)
    if name in taken:
        raise LocalError(f"a plugin cannot be called {name}", f"{packages}: Holloway has a verb of that name", fix)
    if len(points) > 1:
        raise LocalError(f"two plugins are called {name}", f"{packages}: neither is taken", fix)
    try:
        plugin = points[0].load()
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise LocalError(f"the plugin {name} cannot be loaded", f"{packages}: {told(error)}", fix) from error
    if not isinstance(plugin, Plugin):
        raise LocalError(f"the plugin {name} is none", f"{packages}: {points[0].value} is no Plugin", fix)
    try:
        problem = _problem_of(plugin)
    except Exception as error:  # noqa: BLE001 - attributes that were never set, or that are code themselves
        problem = told(error)
    if problem:
        raise LocalError(f"the plugin {name} is not what it says", f"{packages}: {problem}", fix)
    return Plugin(plugin.summary, plugin.verbs, tuple(plugin.on_nodes), tuple(plugin.on_broker))


def load_plugins(taken: Collection[str]) -> Plugins:
    """All that are installed and can be used."""
    found: dict[str, Plugin] = {}
    every = installed()
    problems = list(every.problems)
    for name, points in every.points.items():
        try:
            plugin = load_plugin(name, points, taken)
            if len(found) == MAX_PLUGINS:
                raise LocalError(f"the plugin {name} is one too many", f"{MAX_PLUGINS} are the most")
            found[name] = plugin
        except LocalError as error:
            problems.append(str(error))
    return Plugins(MappingProxyType(found), tuple(problems))


# What a plugin has to be. Types say so already, and nobody has to have heeded them.


def _problem_of(plugin: Plugin) -> str:
    """Why it is not what its type says, in words; empty when it is."""
    summary: object = plugin.summary
    verbs: object = plugin.verbs
    if not isinstance(summary, str):
        return "its summary is no text"
    if not isinstance(verbs, str) or (verbs and not _VERBS.match(verbs)):
        return "its verbs are not written as package.module:attribute"
    for field, kind in (("on_nodes", NodeCommand), ("on_broker", BrokerCommand)):
        commands = getattr(plugin, field)
        if not isinstance(commands, tuple | list):
            return f"{field} is no tuple: behind a single command there is a comma, too"
        for position, each in enumerate(commands, 1):
            if not isinstance(each, kind):
                return f"number {position} of {field} is a {type(each).__name__} and no {kind.__name__}"
    brought: list[NodeCommand | BrokerCommand] = [*plugin.on_nodes, *plugin.on_broker]
    if len(brought) > MAX_PLUGIN_COMMANDS:
        return f"it has {len(brought)} commands, and {MAX_PLUGIN_COMMANDS} are the most"
    names: set[str] = set()
    for command in brought:
        problem = _problem_of_command(command)
        if problem:
            return problem
        if command.name in names:
            return f"it has two commands {command.name}"
        names.add(command.name)
    return ""


def _problem_of_command(command: NodeCommand | BrokerCommand) -> str:
    name: object = command.name
    if not isinstance(name, str) or not _COMMAND_NAME.match(name):
        return f"a command cannot be called {str(name)[:40]!r}: text of small letters, digits, hyphens"
    if not callable(command.argv if isinstance(command, NodeCommand) else command.run):
        return f"what the command {name} is to call is no function"
    callers: object = command.callers
    if not isinstance(callers, AbstractSet) or not all(isinstance(each, Role) for each in callers):
        return f"the callers of the command {name} are no frozenset of Role"
    if Role.NODE in callers:
        return f"it lets nodes call the command {name}: a node commands nobody"
    return ""
