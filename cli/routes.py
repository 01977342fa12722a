"""`holloway routes`: where packets go, and whether this host's kernel knows. Not responsible for finding or asking the daemon."""

from __future__ import annotations

import os
import sys

import click

from holloway.cli.answers import read_routes
from holloway.cli.control_client import Patience, ask
from holloway.cli.find_daemon import daemon_options, find_daemon
from holloway.cli.gateway_warning import warn_of_gateway
from holloway.cli.plain_text import one_line
from holloway.cli.printing import color_option, json_option, print_json, print_table, wants_color

_HEADINGS = ("PREFIX", "VIA", "KIND", "STATE", "WHY")
_STYLES = {"refused": "red", "unreachable": "yellow", "unused": "dim"}


@click.command()
@daemon_options
@json_option
@color_option
def command(config: str | None, socket: str | None, timeout_s: float, as_json: bool, color: str) -> None:
    """Show where packets go, and whether the kernel sends them there.

    The daemon is that of -c FILE or --socket PATH, or the only one with a socket in the default folders.
    """
    answer = ask(find_daemon(config, socket, os.environ), {"op": "routes"}, Patience(timeout_s))
    gateway, routes = read_routes(answer)
    if as_json:
        print_json(answer)
        return
    rows = [(each.prefix, each.via or "this node", each.kind, each.kernel, one_line(each.why or "")) for each in routes]
    styles = [_STYLES.get(each.kernel, "") for each in routes]
    print_table(_HEADINGS, rows, styles=styles, color=wants_color(color, os.environ))
    sys.stdout.flush()
    warn_of_gateway(gateway)
