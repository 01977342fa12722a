"""`holloway ping`: the round trip to a peer through the tunnel, with the path taken. The daemon pings; this shows it."""

from __future__ import annotations

import os

import click
from click.shell_completion import CompletionItem

from holloway.cli.answers import PingEvent, PingResult, read_ping, read_ping_event, read_status
from holloway.cli.control_client import Daemon, Patience, ask
from holloway.cli.exit_codes import ExitCode
from holloway.cli.failures import CommandFailedError
from holloway.cli.find_daemon import daemon_options, find_daemon
from holloway.cli.option_types import seconds_between
from holloway.cli.plain_text import Json, one_line
from holloway.cli.printing import json_option, milliseconds, print_json

MAX_COUNT = 100_000
MAX_INTERVAL_S = 3600.0
MAX_WAIT_S = 60.0
_COMPLETION_S = 0.2  # a shell waits for this while a finger is on the tab key


def _complete_peer(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The names of the daemon's peers, if it tells them quickly."""
    try:
        daemon = find_daemon(context.params.get("config"), context.params.get("socket"), os.environ)
        peers = read_status(ask(daemon, {"op": "status"}, Patience(_COMPLETION_S))).peers
    except Exception:  # noqa: BLE001 - completion has no place to complain
        return []
    names = [one_line(peer.name) for peer in peers]
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


@click.command()
@click.argument("peer", shell_complete=_complete_peer)
@click.option(
    "-n", "--count", type=click.IntRange(1, MAX_COUNT), default=4, show_default=True, help="How many to send."
)
@click.option(
    "-i",
    "--interval",
    "interval_s",
    type=seconds_between(0.01, MAX_INTERVAL_S),
    default=1.0,
    show_default=True,
    metavar="TIME",
    help="Time between them.",
)
@click.option(
    "-W",
    "--wait",
    "wait_s",
    type=seconds_between(0, MAX_WAIT_S),
    default=2.0,
    show_default=True,
    metavar="TIME",
    help="How long to wait for each reply.",
)
@daemon_options
@json_option
def command(
    peer: str,
    count: int,
    interval_s: float,
    wait_s: float,
    config: str | None,
    socket: str | None,
    timeout_s: float,
    as_json: bool,
) -> None:
    """Measure the way to a peer.

    PEER is its name or its address. Exits with 0 if any reply came. The daemon is that of -c FILE or --socket PATH, or the only one with a socket in the
    default folders; --timeout is what it may take beyond the time that the pings need.
    """
    daemon = find_daemon(config, socket, os.environ)
    request: dict[str, Json] = {
        "op": "ping",
        "peer": peer,
        "count": count,
        "interval_s": interval_s,
        "timeout_s": wait_s,
    }
    patience = Patience(count * (interval_s + wait_s) + timeout_s, interval_s + wait_s + timeout_s)

    def show(event: dict[str, Json]) -> None:
        read = read_ping_event(event)
        if as_json:
            print_json({"schema": "holloway.ping/1", "event": event})
        else:
            print(_event_line(read, one_line(peer)), flush=True)

    answer = ask(daemon, request, patience, show)
    result = read_ping(answer)
    if as_json:
        print_json(answer)
    else:
        print(_summary(result), flush=True)
    if not result.received:
        raise _unanswered(result, daemon)


def _event_line(event: PingEvent, peer: str) -> str:
    if event.error is not None:
        return f"no reply from {peer}: sequence {event.sequence} {event.error}"
    return (
        f"reply from {peer}: sequence {event.sequence} time {milliseconds(event.rtt_ms)} "
        f"path {event.path} epoch {event.epoch}"
    )


def _summary(result: PingResult) -> str:
    lost = 100 * max(result.sent - result.received, 0) / result.sent if result.sent else 0.0
    text = f"{result.peer} ({result.address}): {result.sent} sent, {result.received} received, {lost:.0f}% lost"
    if result.rtt_ms is None:
        return text
    low, mean, high = (milliseconds(each) for each in result.rtt_ms)
    return f"{text}, min/avg/max {low}/{mean}/{high}"


def _unanswered(result: PingResult, daemon: Daemon) -> CommandFailedError:
    why = f"{result.sent} pings sent, none came back"
    return CommandFailedError(f"{result.peer} does not answer", why, daemon.command("peers"), ExitCode.FAILED)
