"""`holloway jobs`: what runs and what ran. Not responsible for starting jobs (`exec`, `echo`)."""

from __future__ import annotations

from typing import Any

import click

from holloway.cli.control_options import ControlCommand, broker_options, find_broker
from holloway.cli.groups import SuggestingGroup
from holloway.cli.option_types import DURATION
from holloway.cli.plain_text import one_line
from holloway.cli.printing import ago, duration, json_option, print_json, print_table, say

SCHEMA = "holloway.jobs/1"


@click.group(cls=SuggestingGroup)
def command() -> None:
    """List, show, wait for and cancel jobs."""


@command.command("list", cls=ControlCommand)
@broker_options
@json_option
def list_(host: str | None, curve_key_file: str | None, as_json: bool) -> None:
    """List the last hundred jobs: one's own, and for an admin everybody's."""
    from holloway.cli.operator_session import query

    rows = query(find_broker(host, curve_key_file), "jobs")
    if as_json:
        print_json({"schema": SCHEMA, "jobs": rows})
    elif rows:
        cells = [
            (
                one_line(row["job"]),
                one_line(row["is"]),
                ago(float(row["age_s"])),
                one_line(row["owner"]),
                one_line(row["target"], 40),
                _counts(row),
                one_line(row["command"], 60),
            )
            for row in rows
        ]
        headings = ("JOB", "STATE", "ASKED", "OWNER", "TARGET", "NODES", "COMMAND")
        print_table(headings, cells, styles=["" for _ in cells], color=False)
    else:
        print("no jobs")


@command.command(cls=ControlCommand)
@click.argument("job")
@broker_options
@json_option
def show(job: str, host: str | None, curve_key_file: str | None, as_json: bool) -> None:
    """Show how a job stands on each node."""
    from holloway.cli.operator_session import query
    from holloway.protocols.control_plane.collapse import natural

    head, *rows = query(find_broker(host, curve_key_file), "job", {"job": job})
    rows.sort(key=lambda row: natural(str(row.get("node", ""))))
    if as_json:
        print_json({"schema": SCHEMA, "jobs": [head], "nodes": rows})
        return
    print(
        f"job {one_line(head['job'])}  {one_line(head['is'])}  asked {ago(float(head['age_s']))} by {one_line(head['owner'])}"
    )
    print(f"{one_line(head['command'])}  on {one_line(head['target'])}: {_counts(head)}")
    cells = [
        (
            one_line(row["node"]),
            one_line(row.get("state", row["is"])),
            "-" if row.get("rc") is None else str(row["rc"]),
            duration(float(row["duration_s"])) if "duration_s" in row else "-",
            one_line(row.get("error") or row.get("late") or ""),
        )
        for row in rows
    ]
    print_table(("NODE", "STATE", "CODE", "TOOK", "WHY"), cells, styles=["" for _ in cells], color=False)


@command.command(cls=ControlCommand)
@click.argument("job")
@click.option("--timeout", type=DURATION, default="1h", show_default=True, metavar="TIME", help="How long to wait.")
@click.option("--stream", is_flag=True, help="Show every line as it comes, behind the name of its node.")
@click.option("--jsonl", "as_lines", is_flag=True, help="Print a line of JSON for everything, as it comes.")
@broker_options
@json_option
def wait(
    job: str, timeout: int, stream: bool, as_lines: bool, host: str | None, curve_key_file: str | None, as_json: bool
) -> int:
    """Show a job to its end, from the beginning, as if it had been asked for here."""
    from holloway.cli.job_options import watch
    from holloway.cli.operator_session import new_token
    from holloway.protocols.control_plane.messages import Attach

    request = Attach(new_token(), job)
    broker = find_broker(host, curve_key_file)
    return watch(broker, request, float(timeout), as_json=as_json, as_lines=as_lines, stream=stream)


@command.command(cls=ControlCommand)
@click.argument("job")
@broker_options
def cancel(job: str, host: str | None, curve_key_file: str | None) -> None:
    """Cancel a job on every node."""
    from holloway.cli.operator_session import cancel as cancel_job

    say(f"job {job} is {cancel_job(find_broker(host, curve_key_file), job)}")


def _counts(row: dict[str, Any]) -> str:
    counts = row.get("counts") or {}
    said = ", ".join(f"{count} {one_line(state)}" for state, count in counts.items())
    return f"{row['nodes']}" + (f" ({said})" if said else "")
