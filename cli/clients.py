"""`holloway clients`: the nodes that the broker knows. Not responsible for their keys (`client`)."""

from __future__ import annotations

import os

import click

from holloway.cli.control_options import ControlCommand, broker_options, find_broker
from holloway.cli.plain_text import one_line
from holloway.cli.printing import ago, color_option, json_option, print_json, print_table, wants_color

SCHEMA = "holloway.clients/1"
_STYLES = {"live": "green", "expected": "yellow", "stale": "red"}


@click.command(cls=ControlCommand)
@click.option("-t", "--target", metavar="TARGET", default="all", help="Only these; see holloway exec --help.")
@broker_options
@json_option
@color_option
def command(target: str, host: str | None, curve_key_file: str | None, as_json: bool, color: str) -> None:
    """Show the nodes that the broker knows.

    A node is `live`; `stale` when it has not been heard three times in a row; `expected` when the broker has just begun and it has not come back yet.
    """
    from holloway.cli.operator_session import query
    from holloway.protocols.control_plane.collapse import natural

    rows = query(find_broker(host, curve_key_file), "clients", {"target": target})
    rows.sort(key=lambda row: natural(str(row.get("node", ""))))
    if as_json:
        print_json({"schema": SCHEMA, "clients": rows})
        return
    if not rows:
        print("no nodes")
        return
    print_table(
        ("NODE", "STATE", "APP", "ENV", "ROLES", "HEARD", "VERSION"),
        [
            (
                one_line(row["node"]),
                one_line(row["is"]),
                one_line(row["application"]) or "-",
                one_line(row["environment"]) or "-",
                one_line(" ".join(map(str, row["roles"]))) or "-",
                ago(float(row["age_s"])),
                one_line(row["version"]),
            )
            for row in rows
        ],
        styles=[_STYLES.get(str(row["is"]), "") for row in rows],
        color=wants_color(color, os.environ),
    )
