"""`holloway client`: whom the broker lets in. On the broker's machine by its files (`--root`), elsewhere through it, as an admin.

A key pair is made where the command runs, and only its public half goes to the broker. Not responsible for what a role may do.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from holloway.cli.client_enrol import enrol
from holloway.cli.control_options import COMMAND_PORT, FOLDER, ControlCommand, broker_options, broker_place, find_broker
from holloway.cli.failures import CommandFailedError
from holloway.cli.groups import SuggestingGroup
from holloway.cli.plain_text import one_line
from holloway.cli.printing import json_option, print_json, print_table, say

if TYPE_CHECKING:
    from holloway.actors.control_plane.key_text import KeyFile
    from holloway.actors.control_plane.link import Broker

SCHEMA = "holloway.client/1"
ROLES = ("node", "operator", "admin")
Decorated = TypeVar("Decorated", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Where:
    """Whose list of keys: `root` of the broker on this machine, or None, and the broker itself is asked."""

    root: Path | None
    host: str | None
    curve_key_file: str | None

    def call(self, command: str, *arguments: str, **options: str) -> list[dict[str, Any]]:
        """The rows that the command answers."""
        if self.root is None:
            from holloway.cli.operator_session import administer

            return administer(find_broker(self.host, self.curve_key_file), command, arguments, _options(options))
        return _on_disk(self.root, command, arguments, _options(options))


def where_options(function: Decorated) -> Decorated:
    """Adds `--root`, `--host` and `--curve-key-file`."""
    root = click.option(
        "--root", type=click.Path(path_type=Path), metavar="DIR", help="Change the files of the broker on this machine."
    )
    return root(broker_options(function))


@click.group(cls=SuggestingGroup)
def command() -> None:
    """Let clients in, list them, take them out."""


@command.command(cls=ControlCommand)
@click.option("--name", required=True, metavar="NAME", help="What it is called: the name of a node in targets.")
@click.option("--role", type=click.Choice(ROLES), required=True, help="What its key may do.")
@click.option("--export", is_flag=True, help="Print the key file, private key included, instead of writing it.")
@click.option("--public-key", metavar="KEY", help="Let this key in, which was made elsewhere.")
@where_options
def create(
    name: str,
    role: str,
    export: bool,
    public_key: str | None,
    root: Path | None,
    host: str | None,
    curve_key_file: str | None,
) -> None:
    """Make a key and have the broker let it in.

    The key file is written to .holloway/NAME.yml, or printed with --export. With --public-key nothing is made: a machine that was started
    without a key of its own has said which it has.
    """
    if export and public_key is not None:
        raise click.UsageError("--export and --public-key exclude each other", click.get_current_context(silent=True))
    if public_key is not None:
        Where(root, host, curve_key_file).call("client-create", name, role=role, public_key=public_key)
        say(f"{name} is let in as {role}")
        return
    _with_new_pair(Where(root, host, curve_key_file), "client-create", name, export=export, role=role)


@command.command("list", cls=ControlCommand)
@where_options
@json_option
def list_(root: Path | None, host: str | None, curve_key_file: str | None, as_json: bool) -> None:
    """List the keys that the broker knows, revoked ones included."""
    rows = Where(root, host, curve_key_file).call("client-list")
    if as_json:
        print_json({"schema": SCHEMA, "clients": rows})
        return
    if not rows:
        print("no clients")
        return
    cells = [
        (
            one_line(row["name"]),
            one_line(row["role"]),
            "revoked" if row["revoked"] else "ok",
            one_line(row["created"]),
            one_line(row["public_key"]),
        )
        for row in rows
    ]
    print_table(("NAME", "ROLE", "STATE", "CREATED", "PUBLIC KEY"), cells, styles=["" for _ in cells], color=False)


@command.command(cls=ControlCommand)
@click.argument("name")
@where_options
def revoke(name: str, root: Path | None, host: str | None, curve_key_file: str | None) -> None:
    """Take a client out, for good: on its open connection, too. A node of that name is not let in by its network, either."""
    row = Where(root, host, curve_key_file).call("client-revoke", name)[0]
    say(f"{name} is revoked; a node of that name is not let in by a network, either")
    if node_key := row.get("node_kept_out"):
        say(
            f"node {name} is kept out, whose key is {one_line(node_key)}; to let it in: "
            f"holloway client create --role node --name {name} --public-key KEY"
        )


@command.command(cls=ControlCommand)
@click.argument("name")
@click.option("--export", is_flag=True, help="Print the key file, private key included, instead of writing it.")
@where_options
def rotate(name: str, export: bool, root: Path | None, host: str | None, curve_key_file: str | None) -> None:
    """Give a client another key; the one before counts no more.

    The new key is in .holloway/NAME.yml.new before the broker hears of it, and stays there when the answer is lost. One's own key replaces
    the file that is in use.
    """
    _with_new_pair(Where(root, host, curve_key_file), "client-rotate", name, export=export)


@command.command(cls=ControlCommand)
@click.argument("name")
@click.argument("new_role", metavar="ROLE", type=click.Choice(ROLES))
@where_options
def role(name: str, new_role: str, root: Path | None, host: str | None, curve_key_file: str | None) -> None:
    """Give a client another role."""
    Where(root, host, curve_key_file).call("client-role", name, role=new_role)
    say(f"{name} is {new_role} now")


command.add_command(enrol)


def _with_new_pair(where: Where, name_of_command: str, name: str, *, export: bool, **options: str) -> None:
    from holloway.actors.control_plane.curve import new_pair
    from holloway.actors.control_plane.key_files import write_keys
    from holloway.actors.control_plane.key_text import KeyFile, format_key_file
    from holloway.protocols.errors import ConfigError, LocalError

    path = FOLDER / f"{name}.yml"
    if not export and name_of_command == "client-create" and path.exists():
        raise CommandFailedError(f"{path} is there already", "it may hold a key", "move it away, or use --export")
    pair, server_key = new_pair(), ""
    if where.root is None:
        broker = find_broker(where.host, where.curve_key_file)
        server_key = broker.public
        if name_of_command == "client-rotate" and not export and _is_own(where, broker, name):
            path = Path(broker.keys)
    draft = path.with_name(f"{path.name}.new")
    if draft.exists():
        what, why = f"{draft} is there already", "it may hold the key that counts: nobody knows how that attempt ended"
        raise CommandFailedError(what, why, f"try it: holloway client list --curve-key-file {draft}; then move it away")
    write_keys(draft, KeyFile(pair.secret, pair.public, server_key))
    try:
        row = where.call(name_of_command, name, public_key=pair.public, **options)[0]
    except (CommandFailedError, ConfigError, LocalError):  # nothing has changed
        draft.unlink()
        raise
    except BaseException:
        say(f"whether {name} has the new key is not known: it is kept in {draft}")
        raise
    keys = KeyFile(pair.secret, pair.public, str(row["server_public_key"]))
    write_keys(draft, keys)
    if export:
        print(format_key_file(keys), end="", flush=True)
        draft.unlink()
        return
    draft.replace(path)
    say(f"{name} is let in as {row['role']}; its key file is {path}")
    if row["role"] == "node":
        host = _place(where)
        say(f"take it to its machine:  holloway agent --host {host} --name {name} --curve-key-file {name}.yml")


def _is_own(where: Where, broker: Broker, name: str) -> bool:
    """Whether the key that we use is that client's."""
    public = broker.pair.public if broker.pair is not None else ""
    return any(row["name"] == name and row["public_key"] == public for row in where.call("client-list"))


def _place(where: Where) -> str:
    """`HOST[:PORT]`, as it is given to `--host`."""
    if where.root is not None:
        return "HOST"
    host, port = broker_place(where.host, os.environ)
    if port == COMMAND_PORT:
        return host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _options(options: dict[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in options.items()}


def _on_disk(root: Path, command: str, arguments: tuple[str, ...], options: dict[str, str]) -> list[dict[str, Any]]:
    """The same on the files of a broker, whether it runs or not: it looks at them every second."""
    from datetime import UTC, datetime

    from holloway.actors.control_plane.client_admin import client_change, client_rows
    from holloway.actors.control_plane.key_files import ServerKeys
    from holloway.protocols.control_plane.messages import Admin

    request = Admin("", command, arguments, options)
    now = datetime.fromtimestamp(time.time_ns() // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    server = ServerKeys(root)
    if server.stamp() is None:
        what, why = f"there is no broker in {root}", f"{server.path} does not exist"
        raise CommandFailedError(what, why, f"start it once: holloway broker --root {root}")
    change = client_change(request, now)
    keys: KeyFile = server.read() if command == "client-list" else server.change(change)
    return [dict(row) for row in client_rows(request, keys)]
