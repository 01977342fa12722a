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
from holloway.cli.option_types import DURATION, Parsed
from holloway.cli.printing import print_json, say

if TYPE_CHECKING:
    from holloway.actors.control_plane.link import Broker
    from holloway.cli.job_views import JobView
    from holloway.protocols.control_plane.messages import Ask, Attach, Step

CONFIRM_ABOVE = 25
MAX_WAVES = 100
"""For how many batches, each with its deadline, the end of a job is waited for; `jobs wait` waits on."""
MAX_TARGET_FILE_BYTES = 1 << 20
Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def _batch(text: str) -> tuple[int, bool]:
    number = text.removesuffix("%")
    if not number.isdecimal() or len(number) > 5 or (text.endswith("%") and not 1 <= int(number) <= 100):
        raise ValueError(f"{text!r} is no number of nodes: write 10, or 10%")
    return int(number), text.endswith("%")


BATCH = Parsed("batch", _batch)


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
    batch: tuple[int, bool]
    canary: int
    max_fail: int
    retry_failed: str
    yes: bool
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
        click.option(
            "--batch",
            type=BATCH,
            default="0",
            show_default="all",
            metavar="N|P%",
            help="So many nodes at a time, or so many of a hundred.",
        ),
        click.option(
            "--canary",
            type=click.IntRange(0),
            default=0,
            metavar="N",
            help="So many nodes first; the others if all of them were ok.",
        ),
        click.option(
            "--max-fail",
            type=click.IntRange(-1),
            default=-1,
            metavar="N",
            help="Stop when more nodes than that were not ok.",
        ),
        click.option(
            "--retry-failed",
            metavar="JOB",
            default="",
            help="Only the nodes of that job that were not ok; without a command, its own.",
        ),
        click.option(
            "--yes", is_flag=True, help=f"Do not ask before {CONFIRM_ABOVE} nodes or more, as is done on a terminal."
        ),
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
    from holloway.protocols.control_plane.messages import Ask, Rollout

    if options.retry_failed and (options.target or options.application or options.environment or options.roles):
        why = "the nodes of --retry-failed are those that failed: it goes with no -t, -a, -e or -r"
        raise click.UsageError(why, click.get_current_context(silent=True))
    target = "" if options.retry_failed else read_target_options(options)
    broker = find_broker(options.host, options.curve_key_file)
    rollout = Rollout(*options.batch, options.canary, options.max_fail)
    request = Ask(
        new_token(),
        tuple(steps),
        target,
        float(options.timeout),
        rollout,
        is_dry_run=options.dry_run,
        retry=options.retry_failed,
    )
    if target and not options.dry_run and not options.yes and sys.stdin.isatty() and sys.stderr.isatty():
        _confirm(broker, target)
    waves = 1 if rollout == Rollout() else MAX_WAVES
    return watch(
        broker,
        request,
        float(options.timeout) * waves,
        as_json=options.as_json,
        as_lines=options.as_lines,
        stream=options.stream,
    )


def _confirm(broker: Broker, target: str) -> None:
    """Ask a person before many nodes do something. Raises click.Abort."""
    from holloway.cli.operator_session import query

    count = len(query(broker, "select", {"target": target}))
    if count >= CONFIRM_ABOVE:
        click.confirm(f"on {count} nodes?", abort=True, err=True)


def watch(
    broker: Broker, request: Ask | Attach, deadline_s: float, *, as_json: bool, as_lines: bool, stream: bool
) -> int:
    """Show a job to its end; the exit code."""
    from holloway.cli.operator_session import run_job

    view = _view(as_json=as_json, as_lines=as_lines, stream=stream)
    if not run_job(broker, request, view, deadline_s):
        return ExitCode.INTERRUPTED
    if not view.outcome.job:
        if not as_lines:
            _print_nodes(view, as_json=as_json)
        return ExitCode.OK
    return view.outcome.exit_code()


def _view(*, as_json: bool, as_lines: bool, stream: bool) -> JobView:
    from holloway.cli.job_views import JsonLinesView, JsonView, PeopleView

    if as_json and as_lines:
        raise click.UsageError("--json and --jsonl exclude each other", click.get_current_context(silent=True))
    if as_lines:
        return JsonLinesView()
    return JsonView() if as_json else PeopleView(is_streamed=stream)


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
