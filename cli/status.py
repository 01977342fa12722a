"""`holloway status`: the node and its peers, at one glance. Not responsible for finding or asking the daemon."""

from __future__ import annotations

import os
import sys

import click

from holloway.cli.answers import FloatingStatus, GatewayStatus, NodeStatus, PeerStatus, QueueStatus, Status, read_status
from holloway.cli.control_client import Daemon, Patience, ask
from holloway.cli.find_daemon import daemon_options, find_daemon
from holloway.cli.gateway_warning import warn_of_gateway
from holloway.cli.plain_text import one_line
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


_BELIEVED = ": whoever can write to the registry is believed"
_MAX_REFUSED = 20
_MAX_FLOATING = 20
_SOON_S = 30 * 86_400  # certificates are renewed after half of their 90 days


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
    if not status.node.is_verifying:
        print("warning: certificates are not verified: anybody can pretend to be any node", file=sys.stderr)
    _warn_of_membership(status)
    warn_of_gateway(status.node.gateway)
    for peer in status.peers:
        _warn(peer, daemon)


def _print(status: Status, *, color: bool) -> None:
    node = status.node
    print(
        f"{node.name}  {' '.join(node.addresses)}  {node.interface} mtu {node.mtu}  up {duration(node.uptime_s)}"
        f"  network {node.network}  backend {node.backend}{_requires(node)}  offloads {' '.join(node.offloads) or 'none'}"
        f"{'  sparse first ' * bool(node.sparse_first)}{' '.join(node.sparse_first)}"
    )
    print(
        f"listening on {' '.join(node.listen) or 'nothing'}  key {node.public_key}  pid {node.pid}"
        f"  memory {size(node.memory.held)} of {size(node.memory.cap)}, peak {size(node.memory.peak)}"
    )
    if node.queues:
        words = ", ".join(map(_queue_words, node.queues))
        print(f"{len(node.queues)} queues, datagrams from the network / packets from here: {words}")
    if node.registry is not None:
        print(f"registry {'in touch' if node.registry.is_in_touch else 'away'}, trust {node.registry.trust}", end="")
        print(_BELIEVED if node.registry.trust == "store" else "", end="")
        print(
            "" if node.certificate is None else f", certificate for {duration(max(0, node.certificate.expires_in_s))}"
        )
    if node.gateway is not None:
        print(f"gateway {_gateway_words(node.gateway)}")
    if node.floating:
        print(f"floating {', '.join(map(_floating_words, node.floating[:_MAX_FLOATING]))}")
    if status.peers:
        rows = [_row(peer) for peer in status.peers]
        print_table(_HEADINGS, rows, styles=[STATE_STYLES[peer.state] for peer in status.peers], color=color)
    else:
        print("no peers")
    if any(node.refused_runs.values()):
        print(f"sent one by one, as the kernel refused runs: {counters(node.refused_runs)}")
    if any(status.drops.values()):
        print(f"dropped: {counters(status.drops)}")


def _queue_words(queue: QueueStatus) -> str:
    lost = f" {queue.drops} lost" if queue.drops else ""
    return f"{queue.datagrams} / {queue.packets}{lost}"


def _requires(node: NodeStatus) -> str:
    return "" if node.security is None else f"  requires {node.security.require}"


def _floating_words(floating: FloatingStatus) -> str:
    if floating.is_ours:
        return f"{floating.address} here"
    return f"{floating.address} at {one_line(floating.holder)}" if floating.holder else f"{floating.address} at nobody"


def _gateway_words(gateway: GatewayStatus) -> str:
    through = None if gateway.through is None else f"through {one_line(gateway.through)}, {gateway.state}"
    return ", ".join(filter(None, (through, "masquerading for others" if gateway.masquerades else None)))


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
        peer.protection,
    )


def _warn_of_membership(status: Status) -> None:
    registry, certificate = status.node.registry, status.node.certificate
    if registry is not None:
        for name, why in sorted(registry.refused.items())[:_MAX_REFUSED]:
            print(f"warning: what the registry says of {one_line(name)} is refused: {one_line(why)}", file=sys.stderr)
    if status.node.address_problem is not None:
        print(f"warning: this node is not in the network: {one_line(status.node.address_problem)}", file=sys.stderr)
    if status.node.waiting:
        print(
            f"warning: changed in the network, and obeyed from the next start on: {one_line(', '.join(status.node.waiting))}",
            file=sys.stderr,
        )
    if certificate is not None and certificate.problem is not None:
        print(f"warning: the others do not believe this node: {one_line(certificate.problem)}", file=sys.stderr)
    elif certificate is not None and certificate.expires_in_s < _SOON_S:
        print("warning: this node's certificate runs out soon; is the authority's node up?", file=sys.stderr)
    if certificate is not None and certificate.list_problem is not None:
        print(
            f"warning: there is no new list of who is revoked: {one_line(certificate.list_problem)}; the authority's node is away, or the registry withholds it",
            file=sys.stderr,
        )


def _warn(peer: PeerStatus, daemon: Daemon) -> None:
    """A peer that does not answer is told on stderr, with what to try."""
    if peer.security == "none":
        print(
            f"warning: {peer.name}: NOT ENCRYPTED: both sides ask for plain text, so whoever is on the way can read it",
            file=sys.stderr,
        )
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
