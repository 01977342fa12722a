"""A sample plugin of Holloway: bundles of configuration are uploaded, listed, synced to nodes and run there."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from holloway.actors.control_plane.plugins import BrokerCall, BrokerCommand, NodeCommand, Options, Plugin

FOLDER = "cookbooks"
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}\Z")


def run_bundle(arguments: Sequence[str], options: Options) -> Sequence[str]:
    """On a node: the program that runs a bundle, which the step before has synced."""
    if len(arguments) != 1 or not NAME.match(arguments[0]):
        raise ValueError("cookbook.run takes the name of one bundle")
    program = os.environ.get("HOLLOWAY_COOKBOOK_PROGRAM", "chef-solo")
    words = [sys.executable, str(Path(__file__).with_name("run.py")), program, arguments[0]]
    return [*words, "--why-run"] if options.get("why-run") is True else words


def list_bundles(call: BrokerCall) -> list[dict[str, object]]:
    """On the broker: which bundles there are."""
    folder = call.files / FOLDER
    if not folder.is_dir():
        return []
    return [
        {"name": each.name, "files": sum(path.is_file() for path in each.rglob("*"))}
        for each in sorted(folder.iterdir())
        if each.is_dir() and NAME.match(each.name)
    ]


plugin = Plugin(
    summary="Run bundles of configuration on nodes.",
    verbs="holloway_cookbook.verbs:command",
    on_nodes=(NodeCommand("run", run_bundle),),
    on_broker=(BrokerCommand("list", list_bundles),),
)
