"""Packages with plugins as an installer leaves them: the sample, one that works, and those that do not. Not responsible for who loads them."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path

SAMPLE = Path(__file__).parents[1] / "examples" / "holloway-cookbook"
CHEF = """#!/bin/sh
echo "chef-solo $1 $3"
grep -o 'recipe\\[[a-z]*\\]' "$4"
cat "$HOLLOWAY_FILES/cookbooks/nginx/recipe"
"""
BROKEN = "raise RuntimeError('it is broken')\n"
ODD = "from holloway.actors.control_plane.installed_plugins import *\n"
GOOD = """
from holloway.actors.control_plane.plugins import BrokerCommand, NodeCommand, Plugin

def argv(arguments, options):
    return ["/bin/echo", "run by", "a plugin"]

def rows(call):
    return [{"caller": call.caller}]

plugin = Plugin("Good.", "good_verbs:command", (NodeCommand("run", argv),),
    (BrokerCommand("rows", rows),))
"""
VERBS = """
import click
from holloway.cli.control_options import ControlCommand, broker_options, find_broker
from holloway.cli.job_options import JobOptions, job_options, perform
from holloway.protocols.control_plane.messages import Step

@click.group()
def command(): pass

@command.command(cls=ControlCommand)
@click.argument("words", nargs=-1)
@job_options
def run(words, **options):
    return perform(JobOptions(**options), [Step("good.run", words)])

@command.command(cls=ControlCommand)
@click.argument("name")
@broker_options
def ask(name, host, curve_key_file):
    from holloway.cli.operator_session import administer
    print(administer(find_broker(host, curve_key_file), f"good.{name}"))
"""
MALFORMED = {
    "comma": (
        "on_nodes=NodeCommand('run', argv)",
        "on_nodes is no tuple: behind a single command there is a comma, too",
    ),
    "number": ("on_nodes=(NodeCommand(5, argv),)", "a command cannot be called '5': text of small letters"),
    "text": ("on_broker=('run',)", "number 1 of on_broker is a str and no BrokerCommand"),
    "place": ("on_broker=(NodeCommand('run', argv),)", "number 1 of on_broker is a NodeCommand and no BrokerCommand"),
    "nobody": ("on_nodes=(NodeCommand('run', argv, None),)", "the callers of the command run are no frozenset of Role"),
    "words": (
        "on_nodes=(NodeCommand('run', argv, {'admin'}),)",
        "the callers of the command run are no frozenset of Role",
    ),
    "nodes": ("on_nodes=(NodeCommand('run', argv, {Role.NODE}),)", "it lets nodes call the command run"),
    "uncallable": ("on_nodes=(NodeCommand('run', 'argv'),)", "what the command run is to call is no function"),
    "noverbs": ("verbs=None", "its verbs are not written as package.module:attribute"),
    "oneword": ("verbs='module'", "its verbs are not written as package.module:attribute"),
    "pair": ("on_nodes=(NodeCommand('run', argv),), on_broker=[BrokerCommand('run', argv)]", "it has two commands run"),
    "many": ("on_nodes=[NodeCommand(f'c{n}', argv) for n in range(33)]", "it has 33 commands, and 32 are the most"),
}
"""Plugins that are not what they say: how each is made, and what is told of it."""
UNSET = "from holloway.actors.control_plane.plugins import *\nplugin = object.__new__(Plugin)\n"
TOLD = (
    *(f"the plugin {name} is not what it says: {name} 1.0: {why}" for name, (_, why) in MALFORMED.items()),
    "the plugin unset is not what it says: unset 1.0: AttributeError: ",
    "the plugin leaves cannot be loaded: leaves 1.0: GeneratorExit: ",
    "the entry points of damaged 1.0 cannot be read: entry_points.txt is damaged: ",
    "the entry points of binary 1.0 cannot be read: entry_points.txt is damaged: UnicodeDecodeError: ",
    "the plugin broken cannot be loaded: broken 1.0: RuntimeError: it is broken",
    "the plugin exits cannot be loaded: exits 1.0: SystemExit: 9",
    "the plugin odd is none",
    "a plugin cannot be called exec",
    "two plugins are called twice: one 1.0, two 1.0: neither is taken",
)
"""What is said of those that `install_odd_ones` leaves and that are not `good`."""


def install(
    packages: Path, name: str, entry_points: dict[str, str], package: Path | None = None, **modules: str
) -> None:
    """The package or modules, and the metadata that names its entry points."""
    info = packages / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = [f"{key} = {value}" for key, value in entry_points.items()]
    (info / "entry_points.txt").write_text("\n".join(["[holloway.commands]", *lines, ""]))
    if package is not None:
        shutil.copytree(package, packages / package.name)
    for module, text in modules.items():
        (packages / f"{module}.py").write_text(text)


def made(how: str) -> str:
    """A module with a plugin that is made so."""
    return f"""
from holloway.actors.control_plane.plugins import BrokerCommand, NodeCommand, Plugin
from holloway.protocols.control_plane.messages import Role

def argv(*given):
    return ["true"]

plugin = Plugin("It is odd.", {how})
"""


def install_sample(packages: Path) -> Path:
    """The sample; the program that stands in for chef-solo, which `HOLLOWAY_COOKBOOK_PROGRAM` is to name."""
    project = tomllib.loads((SAMPLE / "pyproject.toml").read_text())["project"]
    install(packages, project["name"], project["entry-points"]["holloway.commands"], SAMPLE / "holloway_cookbook")
    program = packages / "chef-solo"
    program.write_text(CHEF)
    program.chmod(0o755)
    return program


def install_odd_ones(packages: Path) -> None:
    """One that is good, and those that cannot be loaded, are none, or are called like somebody else."""
    install(packages, "broken", {"broken": "broken_module:plugin"}, broken_module=BROKEN)
    install(packages, "exits", {"exits": "exits_module:plugin"}, exits_module="raise SystemExit(9)\n")
    install(packages, "leaves", {"leaves": "leaves_module:plugin"}, leaves_module="raise GeneratorExit\n")
    install(packages, "unset", {"unset": "unset_module:plugin"}, unset_module=UNSET)
    for name, (how, _) in MALFORMED.items():
        install(packages, name, {name: f"{name}_module:plugin"}, **{f"{name}_module": made(how)})
    for name, text in (
        ("damaged", b"[holloway.commands]\nfoo\n"),
        ("binary", b"[\xff]\n"),
        ("others", b"[pytest11]\nfoo\n"),
    ):
        install(packages, name, {})
        (packages / f"{name}-1.0.dist-info" / "entry_points.txt").write_bytes(text)
    install(packages, "odd", {"odd": "odd_module:GROUP"}, odd_module=ODD)
    install(packages, "taker", {"exec": "good_module:plugin"})
    install(packages, "one", {"twice": "good_module:plugin"})
    install(packages, "two", {"twice": "good_module:plugin"})
    install(packages, "good", {"good": "good_module:plugin"}, good_module=GOOD, good_verbs=VERBS)
