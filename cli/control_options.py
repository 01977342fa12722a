"""What the verbs of the control plane share: where the broker is, with which key file, and default options from `.holloway/config`.

A default option stands on a line of its own, as it would on the command line, and holds for every one of these verbs that has it;
what is given on the command line, before the verb or behind it, wins, and so does the environment. Not responsible for talking to the broker (`operator_session`).
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from holloway.cli.exit_codes import ExitCode
from holloway.cli.failures import CommandFailedError
from holloway.cli.network_broker import network_option

if TYPE_CHECKING:
    from holloway.actors.control_plane.link import Broker
    from holloway.actors.control_plane.world import World

FOLDER: Final = Path(".holloway")
CONFIG: Final = FOLDER / "config"
MAX_CONFIG_BYTES: Final = 64 * 1024
DEFAULT_HOST: Final = "127.0.0.1"
DEFAULT_KEYS: Final = "keys.yml"
COMMAND_PORT: Final = 23002
FILE_PORT: Final = 23003
CONTROL_VERBS: Final = (
    "agent",
    "client",
    "clients",
    "download",
    "echo",
    "edit",
    "exec",
    "file",
    "jobs",
    "sync",
    "upload",
)
"""The verbs that `--host` and `--curve-key-file` before the verb are for."""
_PLACE = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.%]+)\]|(?P<host>[^\s:\[\]/]+))(?::(?P<port>\d{1,5}))?\Z")
_SECURITY: Final = "holloway.security"
_FORCE_NULL: Final = "holloway.force-null"
_BARE_IPV6 = re.compile(r"[0-9A-Fa-f]*:[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*\Z")
_ALL_OPTIONS = frozenset(
    {
        "--host",
        "--curve-key-file",
        "--security",
        "--state",
        "-t",
        "--target",
        "-a",
        "-e",
        "-r",
        "--timeout",
        "--color",
        "--file-port",
    }
)
"""What may stand in the configuration, whichever verb has it."""
_TARGET_NAMES: Final = ("target", "application", "environment", "roles")
"""What says which nodes are meant, as does `--retry-failed`."""

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


class ControlCommand(click.Command):
    """A verb that heeds `.holloway/config`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own = {option: parameter.name for parameter in self.params for option in parameter.opts}
        given, _, _ = self.make_parser(ctx).parse_args([*args])
        taken = {*given, *(_TARGET_NAMES if "retry_failed" in given else ()), *_given_before(ctx)}
        defaults = [each for each in read_config(CONFIG) if each[0] in own and own[each[0]] not in taken]
        return super().parse_args(ctx, [*(word for each in defaults for word in each), *args])


def _given_before(context: click.Context) -> list[str]:
    """What was said before the verb, or is in the environment."""
    options = context.find_root().obj
    return [
        name
        for name in ("host", "curve_key_file", "security")
        if getattr(options, name, None) or os.environ.get(f"HOLLOWAY_{name.upper()}")
    ]


def read_config(path: Path) -> list[tuple[str, str]]:
    """The default options in a file; none when there is no file. Raises CommandFailedError that names the line."""
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(MAX_CONFIG_BYTES + 1)
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise CommandFailedError(
            f"{path} cannot be read", str(error), "mend it, or move it away", ExitCode.CONFIG
        ) from error
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            words = shlex.split(line, comments=True)
        except ValueError as error:
            raise _config_problem(path, number, str(error)) from error
        if len(words) == 1 and "=" in words[0]:
            words = [*words[0].partition("=")[::2]]
        if not words:
            continue
        if len(words) != 2 or words[0] not in _ALL_OPTIONS:
            raise _config_problem(
                path, number, f"a line is one option and its value; there are {', '.join(sorted(_ALL_OPTIONS))}"
            )
        found.append((words[0], words[1]))
    return found


def _config_problem(path: Path, number: int, why: str) -> CommandFailedError:
    return CommandFailedError(
        f"{path} cannot be used", f"line {number}: {why}", "mend it, or move it away", ExitCode.CONFIG
    )


def broker_options(function: Decorated) -> Decorated:
    """Adds `--host` and `--curve-key-file`, which arrive as `host` and `curve_key_file`, None when they were not given; and `--security`,
    `--force-null` and `--state`, which `find_broker` finds by itself.
    """
    options = [
        force_null_option,
        security_option,
        network_option,
        click.option(
            "--host",
            metavar="HOST[:PORT]",
            help=f"Where the broker is, also by the name of its node.  [default: the network's only one, or {DEFAULT_HOST}]",
        ),
        click.option(
            "--curve-key-file",
            metavar="FILE",
            help=f"Our keys and the broker's; under {FOLDER}/ of this folder, or a path.  [default: {DEFAULT_KEYS}]",
        ),
    ]
    for option in options:
        function = option(function)
    return function


def _keep_security(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    context.meta[_SECURITY] = value


def _keep_force(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    context.meta[_FORCE_NULL] = value


security_option = click.option(
    "--security",
    type=click.Choice(("curve", "null")),
    expose_value=False,
    callback=_keep_security,
    help="null: no keys and no encryption, for a broker that is run so.  [default: curve]",
)
force_null_option = click.option(
    "--force-null",
    is_flag=True,
    expose_value=False,
    callback=_keep_force,
    help="Take --security null on an address that other machines reach.",
)


def chosen_security() -> str:
    """What `--security` of the verb says, or `HOLLOWAY_SECURITY`, or curve."""
    context = click.get_current_context(silent=True)
    said = context.meta.get(_SECURITY) if context is not None else None
    chosen = str(said or os.environ.get("HOLLOWAY_SECURITY") or "curve")
    if chosen not in ("curve", "null"):
        raise click.UsageError(f"HOLLOWAY_SECURITY is {chosen!r}: it is curve or null", context)
    return chosen


def require_loopback(host: str, option: str) -> None:
    """Raises CommandFailedError for control without keys where other machines are, unless `--force-null` of the verb takes that."""
    from holloway.protocols.control_plane.null_security import is_loopback

    context = click.get_current_context(silent=True)
    is_forced = context is not None and context.meta.get(_FORCE_NULL, False)
    if not is_forced and not is_loopback(host):
        raise CommandFailedError(
            f"--security null is not for {option} {host}",
            "without keys whoever reaches that address commands every node, and reads everything",
            f"--security curve, or {option} 127.0.0.1; --force-null if another thing keeps others away",
            ExitCode.CONFIG,
        )


def key_file(given: str | None, environ: Mapping[str, str]) -> Path:
    """The file that `--curve-key-file` means: under `.holloway/` of the working directory when it is there, then as a path."""
    said = _given("curve_key_file", given, environ, DEFAULT_KEYS)
    inside = FOLDER / said
    return inside if inside.exists() or (not Path(said).exists() and said == DEFAULT_KEYS) else Path(said)


def given_host(host: str | None, environ: Mapping[str, str]) -> str | None:
    """What `--host` says, wherever it was said; None when nowhere."""
    return _given("host", host, environ, "") or None


def says_port(host: str | None) -> bool:
    """Whether `--host` names a port, too."""
    found = None if host is None or _BARE_IPV6.match(host) else _PLACE.match(host)
    return found is not None and found["port"] is not None


def is_key_file_given(curve_key_file: str | None, environ: Mapping[str, str]) -> bool:
    """Whether somebody chose a key file."""
    return bool(_given("curve_key_file", curve_key_file, environ, ""))


def broker_place(host: str | None, environ: Mapping[str, str]) -> tuple[str, int]:
    """Host and port of the broker. Raises click.UsageError for what is none."""
    said = _given("host", host, environ, DEFAULT_HOST)
    if _BARE_IPV6.match(said):
        return said, COMMAND_PORT
    found = _PLACE.match(said)
    port = int(found["port"] or COMMAND_PORT) if found is not None else 0
    if found is None or not 0 < port < 65536:
        raise click.UsageError(
            f"{said!r} is no host: write HOST, HOST:PORT or [IPV6]:PORT", click.get_current_context(silent=True)
        )
    return found["six"] or found["host"], port


def find_broker(host: str | None, curve_key_file: str | None, *, node: str = "") -> Broker:
    """The broker, and who we are to it: the node of that name, or an operator. A key file that only knows the broker's key gets an operator's
    pair, which is on disk before anybody hears of it: so whoever is interrupted comes back with the same key.

    Raises click.UsageError, CommandFailedError, ConfigError, PortError.
    """
    from holloway.actors.control_plane.curve import CurvePair, new_pair
    from holloway.actors.control_plane.key_files import read_keys, write_keys
    from holloway.actors.control_plane.key_text import KeyFile
    from holloway.actors.control_plane.link import Broker
    from holloway.actors.control_plane.met import met_before
    from holloway.cli.network_broker import Place, network_place

    place, port = broker_place(host, os.environ)
    given = given_host(host, os.environ)
    if chosen_security() == "null":
        if curve_key_file is not None:
            why = "--security null uses no keys, so --curve-key-file means nothing"
            raise click.UsageError(why, click.get_current_context(silent=True))
        require_loopback(place, "--host")
        return Broker(place, port, None, "", "", _said_name(node))
    path = key_file(curve_key_file, os.environ)
    keys = read_keys(path)
    known = "" if keys is None else keys.server_public_key
    found = network_place(None if given is None else place, port if says_port(given) else None, known)
    if keys is None and (found is None or not found.public or node):
        raise CommandFailedError(
            f"there is no key file {path}",
            "it holds our keys, and the key of the broker",
            'ask an admin for one, or write into it: server_public_key: "the key that the broker prints"',
            ExitCode.CONFIG,
        )
    keys = keys or KeyFile()
    found = found or Place(place, port)
    public = keys.server_public_key or found.public
    if not public:
        what, why = f"{path} does not name the broker", "it has no server_public_key"
        raise CommandFailedError(what, why, "add the key that the broker prints when it starts", ExitCode.CONFIG)
    if not keys.private_key and not node:
        pair = new_pair()
        keys = replace(keys, private_key=pair.secret, public_key=pair.public)
        write_keys(path, keys)
    pair = CurvePair(keys.public_key, keys.private_key)
    broker = Broker(found.host, found.port or port, pair, public, str(path), file_port=found.file_port or FILE_PORT)
    return replace(broker, met=met_before(path, broker.place, broker.public))


def with_file_port(broker: Broker, port: int | None) -> Broker:
    """With that port for files, if one was asked for."""
    return broker if port is None else replace(broker, file_port=port)


def note_met(broker: Broker) -> None:
    """The broker has let us in."""
    from holloway.actors.control_plane.met import note_meeting

    if broker.pair is not None:
        note_meeting(Path(broker.keys), broker.place, broker.public, real_world().wall())


def real_world() -> World:
    """The clock and the randomness of this machine."""
    import time

    from holloway.actors.control_plane.world import World

    return World(lambda: time.time_ns() / 1e9, os.urandom)  # noqa: TID251 - a verb is where randomness comes in


def _said_name(node: str) -> bytes:
    """What we call ourselves where there are no keys. Whoever is no node is warned: an agent's log does that for it."""
    import getpass

    from holloway.cli.printing import say
    from holloway.protocols.control_plane.fields import NAME
    from holloway.protocols.control_plane.null_security import TOKEN_BYTES, WARNING, said_name

    name = node
    if not node:
        say(f"warning: {WARNING}")
        try:
            name = getpass.getuser()
        except (KeyError, OSError):
            name = ""
    if not NAME.match(name):
        name = "somebody"
    return said_name(name, is_node=bool(node), token=os.urandom(TOKEN_BYTES))  # noqa: TID251 - a verb is where randomness comes in


def _given(name: str, value: str | None, environ: Mapping[str, str], default: str) -> str:
    """An option of the verb, before the verb, in the environment, or its default."""
    if value is not None:
        return value
    context = click.get_current_context(silent=True)
    options = context.find_root().obj if context is not None else None
    before = getattr(options, name, None)
    return str(before or environ.get(f"HOLLOWAY_{name.upper()}") or default)
