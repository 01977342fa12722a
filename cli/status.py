"""`holloway status`: the node and its peers, at one glance. Not responsible for finding or asking the daemon."""

from __future__ import annotations

import os
import sys

import click

from holloway.cli.answers import PeerStatus, Status, read_status
from holloway.cli.control_client import Daemon, Patience, ask
from holloway.cli.find_daemon import daemon_options, find_daemon
from holloway.cli.printing import (
    STATE_STYLES,
    ago,
    color_option,
    counters,
    duration,
    json_option,
    milliseconds,
    print_json,
    print_table,
    size,
    wants_color,
)

_HEADINGS = ("NODE", "ADDRESS", "STATE", "PATH", "RTT", "HANDSHAKE", "RX / TX", "EPOCH", "SUITE")


@click.command()
@daemon_options
@json_option
@color_option
def command(config: str | None, socket: str | None, timeout_s: float, as_json: bool, color: str) -> None:
    """Show the node and its peers.

    The daemon is that of -c FILE or --socket PATH, or the only one with a socket in the default folders.
    """
    daemon = find_daemon(config, socket, os.environ)
    answer = ask(daemon, {"op": "status"}, Patience(timeout_s))
    status = read_status(answer)
    if as_json:
        print_json(answer)
        return
    _print(status, color=wants_color(color, os.environ))
    sys.stdout.flush()
    for peer in status.peers:
        _warn(peer, daemon)


def _print(status: Status, *, color: bool) -> None:
    node = status.node
    print(
        f"{node.name}  {' '.join(node.addresses)}  {node.interface} mtu {node.mtu}  up {duration(node.uptime_s)}"
        f"  network {node.network}  backend {node.backend}  offloads {' '.join(node.offloads) or 'none'}"
    )
    print(
        f"listening on {' '.join(node.listen) or 'nothing'}  key {node.public_key}  pid {node.pid}"
        f"  memory {size(node.memory.held)} of {size(node.memory.cap)}, peak {size(node.memory.peak)}"
    )
    if status.peers:
        rows = [_row(peer) for peer in status.peers]
        print_table(_HEADINGS, rows, styles=[STATE_STYLES[peer.state] for peer in status.peers], color=color)
    else:
        print("no peers")
    if any(node.refused_runs.values()):
        print(f"sent one by one, as the kernel refused runs: {counters(node.refused_runs)}")
    if any(status.drops.values()):
        print(f"dropped: {counters(status.drops)}")


def _row(peer: PeerStatus) -> tuple[str, ...]:
    return (
        peer.name,
        " ".join(peer.addresses) or "-",
        peer.state,
        peer.endpoint or "-",
        milliseconds(peer.rtt_ms),
        ago(peer.last_handshake_s),
        f"{size(peer.received.size)} / {size(peer.sent.size)}",
        str(peer.epoch),
        peer.suite,
    )


def _warn(peer: PeerStatus, daemon: Daemon) -> None:
    """A peer that does not answer is told on stderr, with what to try."""
    if peer.problem is not None:
        print(f"warning: {peer.name}: {peer.problem}", file=sys.stderr)
    if peer.state == "stale":
        text = f"{peer.name} has not been heard lately"
    elif peer.state == "down":
        text = f"{peer.name} is down"
    else:
        return
    seen = "no handshake so far" if peer.last_handshake_s is None else f"last handshake {ago(peer.last_handshake_s)}"
    print(f"warning: {text}, {seen}", file=sys.stderr)
    print(f"  try: {daemon.command('ping', peer.name)}", file=sys.stderr)
