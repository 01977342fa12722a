"""`holloway client enrol`: have this machine's node name the key of its agent in its signed record, which lets it in at brokers.

For an agent that runs as a user of its own, and so cannot tell the node's daemon itself. Not responsible for who is believed.
"""

from __future__ import annotations

import os

import click

from holloway.cli.control_client import Patience, ask
from holloway.cli.find_daemon import daemon_options, find_daemon
from holloway.cli.printing import say


@click.command()
@click.argument("key", metavar="[PUBLIC-KEY]", required=False)
@click.option("--forget", is_flag=True, help="There is no agent on this machine any more.")
@daemon_options
def enrol(key: str | None, forget: bool, config: str | None, socket: str | None, timeout_s: float) -> None:
    """Let the agent of this machine in by its network.

    An agent that may talk to the node's daemon does this by itself. Where it runs as another user, it says which key it has made, and
    that is given here; what is printed then belongs into its key file.
    """
    from holloway.protocols.control_plane.network_view import read_view

    if (key is None) is not forget:
        raise click.UsageError("either a key, or --forget", click.get_current_context(silent=True))
    daemon, patience = find_daemon(config, socket, os.environ), Patience(timeout_s)
    ask(daemon, {"op": "enrol", "curve_key": key}, patience)
    view = read_view(ask(daemon, {"op": "brokers"}, patience))
    if forget:
        say(f"no agent of node {view.node} is let in by network {view.network} any more")
        return
    say(f"brokers of network {view.network} let that key in, as node {view.node}")
    for broker in view.brokers:
        print(f'server_public_key: "{broker.place.curve_key}"')
        say(f"that is the broker on node {broker.node}:  holloway agent --name {view.node} --host {broker.place.where}")
    if not view.brokers:
        say("there is no broker yet; once there is one, this prints its key")
