"""The options of every verb that runs something on nodes, and what is done with them. Not responsible for what is run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from holloway.cli.control_options import broker_options, find_broker
from holloway.cli.exit_codes import ExitCode
from holloway.cli.failures import CommandFailedError
from holloway.cli.option_types import DURATION
from holloway.cli.printing import print_json, say

if TYPE_CHECKING:
    from holloway.actors.control_plane.link import Broker
    from holloway.cli.job_views import JobView
    from holloway.protocols.control_plane.messages import Ask, Attach, Step

MAX_TARGET_FILE_BYTES = 1 << 20
Decorated = TypeVar("Decorated", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOptions:
    """What those options said."""

    host: str | None
    curve_key_file: str | None
    target: tuple[str, ...]
    application: str
    environment: str
    roles: tuple[str, ...]
    timeout: int
    dry_run: bool
    stream: bool
    as_json: bool
    as_lines: bool


def job_options(function: Decorated) -> Decorated:
    """Adds them; they arrive as keywords that `JobOptions` takes."""
    options = [
        click.option(
            "-t",
            "--target",
            metavar="TARGET",
            multiple=True,
            help="Which nodes: names, globs, app= env= role=, !not, commas for `or`, @FILE; may be repeated.  [default: all]",
        ),
        click.option("-a", "--application", metavar="APP", default="", help="Only nodes of this application."),
        click.option("-e", "--environment", metavar="ENV", default="", help="Only nodes of this environment."),
        click.option(
            "-r", "--role", "roles", metavar="ROLE", multiple=True, help="Only nodes with this role; may be repeated."
        ),
        click.option(
            "--timeout",
            type=DURATION,
            default="60",
            show_default="60s",
            metavar="TIME",
            help="For each node: 30s, 5m, 1h.",
        ),
        click.option("--dry-run", is_flag=True, help="Say which nodes are meant, and do nothing."),
        click.option("--stream", is_flag=True, help="Show every line as it comes, behind the name of its node."),
        click.option("--json", "as_json", is_flag=True, help="Print JSON; its schema is in docs/schemas."),
        click.option("--jsonl", "as_lines", is_flag=True, help="Print a line of JSON for everything, as it comes."),
    ]
    for option in reversed(options):
        function = option(function)
    return broker_options(function)


def perform(options: JobOptions, steps: Sequence[Step]) -> int:
    """Run the steps on the nodes that are meant; the exit code."""
    from holloway.cli.operator_session import new_token
    from holloway.protocols.control_plane.messages import Ask

    target = read_target_options(options)
    broker = find_broker(options.host, options.curve_key_file)
    request = Ask(new_token(), tuple(steps), target, float(options.timeout), is_dry_run=options.dry_run)
    return watch(
        broker,
        request,
        float(options.timeout),
        as_json=options.as_json,
        as_lines=options.as_lines,
        stream=options.stream,
    )


def watch(
    broker: Broker, request: Ask | Attach, deadline_s: float, *, as_json: bool, as_lines: bool, stream: bool
) -> int:
    """Show a job to its end; the exit code."""
    from holloway.cli.operator_session import run_job

    view = _view(as_json=as_json, as_lines=as_lines, stream=stream)
    if not run_job(broker, request, view, deadline_s):
        return ExitCode.INTERRUPTED
    if not view.outcome.job:
        _print_nodes(view, as_json=as_json)
        return ExitCode.OK
    return view.outcome.exit_code()


def _view(*, as_json: bool, as_lines: bool, stream: bool) -> JobView:
    from holloway.cli.job_views import JsonLinesView, JsonView, PeopleView

    if as_json and as_lines:
        raise click.UsageError("--json and --jsonl exclude each other", click.get_current_context(silent=True))
    if as_lines:
        return JsonLinesView()
    return JsonView() if as_json else PeopleView(is_streamed=stream, is_raw=not sys.stdout.isatty())


def _print_nodes(view: JobView, *, as_json: bool) -> None:
    from holloway.cli.job_views import SCHEMA

    nodes = view.outcome.nodes
    if as_json:
        print_json({"schema": SCHEMA, "job": "", "expected": len(nodes), "nodes": list(nodes), "results": []})
        return
    for node in nodes:
        print(node)
    say(f"{len(nodes)} nodes are meant; nothing was done")


def read_target_options(options: JobOptions) -> str:
    """The target that the options mean. Raises LocalError, CommandFailedError."""
    from holloway.protocols.control_plane.targets import EVERYBODY, narrowed, of_names, read_target

    parts = [of_names(_names_in(Path(each[1:]))) if each.startswith("@") else each for each in options.target]
    roles = [role for each in options.roles for role in each.split(",") if role]
    target = narrowed(",".join(parts) or EVERYBODY, options.application, options.environment, roles)
    read_target(target)  # a mistake is told here, without a broker
    return target


def _names_in(path: Path) -> list[str]:
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(MAX_TARGET_FILE_BYTES + 1)
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise CommandFailedError(
            f"cannot read {path}", why or str(error), "name a file with a name on each line"
        ) from error
    if len(text) > MAX_TARGET_FILE_BYTES:
        raise CommandFailedError(f"cannot read {path}", "it is larger than 1 MiB", "name a role instead")
    return [name for line in text.splitlines() if (name := line.partition("#")[0].strip())]
