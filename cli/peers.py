"""`holloway peers`: every peer with its settings and counters. Not responsible for finding or asking the daemon."""

from __future__ import annotations

import os

import click

from holloway.cli.answers import PeerDetail, read_peers
from holloway.cli.control_client import Patience, ask
from holloway.cli.find_daemon import daemon_options, find_daemon
from holloway.cli.printing import (
    STATE_STYLES,
    color_option,
    counters,
    json_option,
    print_json,
    print_table,
    size,
    wants_color,
)

_HEADINGS = (
    "NODE",
    "STATE",
    "PUBLIC KEY",
    "PATH",
    "ALLOWED",
    "SUITE",
    "KEEPALIVE",
    "HANDSHAKES",
    "RX / TX PACKETS",
    "COMPRESSED",
    "DROPPED",
)


@click.command()
@daemon_options
@json_option
@color_option
def command(config: str | None, socket: str | None, timeout_s: float, as_json: bool, color: str) -> None:
    """Show each peer in detail.

    The daemon is that of -c FILE or --socket PATH, or the only one with a socket in the default folders.
    """
    answer = ask(find_daemon(config, socket, os.environ), {"op": "peers"}, Patience(timeout_s))
    peers = read_peers(answer)
    if as_json:
        print_json(answer)
    elif peers:
        rows = [_row(peer) for peer in peers]
        styles = [STATE_STYLES[peer.status.state] for peer in peers]
        print_table(_HEADINGS, rows, styles=styles, color=wants_color(color, os.environ))
    else:
        print("no peers")


def _row(peer: PeerDetail) -> tuple[str, ...]:
    status = peer.status
    return (
        status.name,
        status.state,
        peer.public_key,
        status.endpoint or "-",
        " ".join(peer.allowed) or "-",
        status.protection,
        f"{peer.keepalive_s:g}s" if peer.keepalive_s else "off",
        str(peer.handshakes),
        f"{status.received.packets} / {status.sent.packets}",
        _compressed(peer),
        counters(peer.drops),
    )


def _compressed(peer: PeerDetail) -> str:
    """Bytes before and after compression, both directions together."""
    found = peer.compressed
    if found is None or not found.received_plain + found.sent_plain:
        return "-"
    return f"{size(found.received_plain + found.sent_plain)} to {size(found.received_packed + found.sent_packed)}"
