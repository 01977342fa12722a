"""The `holloway` command: its verbs, and what happens when one fails.

Results go to stdout and everything else to stderr. Every failure is three lines and an exit code; a traceback only with
`--debug`. Not responsible for what a verb does: each is a module of this room, imported when it is called.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from io import TextIOWrapper
from typing import NoReturn

import click

from holloway.cli.control_options import CONTROL_VERBS
from holloway.cli.exit_codes import ExitCode
from holloway.cli.failures import explain
from holloway.cli.plugin_verbs import RootGroup
from holloway.cli.verbs import VERBS


@dataclass(slots=True)
class GlobalOptions:
    """The options before the verb."""

    debug: bool = False
    host: str | None = None
    curve_key_file: str | None = None


def _say_version(context: click.Context, parameter: click.Parameter, is_asked: bool) -> None:
    if is_asked:
        from importlib.metadata import version

        click.echo(f"holloway {version('holloway')}")
        context.exit()


@click.group(cls=RootGroup, verbs=VERBS, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show the traceback of a failure.")
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_say_version, help="Print the version."
)
@click.option("--host", metavar="HOST[:PORT]", help="Where the broker is, for the verbs that ask one.")
@click.option("--curve-key-file", metavar="FILE", help="Our keys and the broker's, for the same verbs.")
@click.pass_context
def root(context: click.Context, debug: bool, host: str | None, curve_key_file: str | None) -> None:
    """Join machines that are far apart into one private network."""
    verb = context.invoked_subcommand
    if (host is not None or curve_key_file is not None) and verb in VERBS and verb not in CONTROL_VERBS:
        raise click.UsageError(f"{verb} asks no broker, so --host and --curve-key-file mean nothing to it", context)
    if isinstance(context.obj, GlobalOptions):
        context.obj.debug, context.obj.host, context.obj.curve_key_file = debug, host, curve_key_file


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """The console script: runs the verb and exits with its code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name that the locale cannot print is no reason to fail
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Runs a verb and returns the exit code; failures have been told on stderr."""
    options = GlobalOptions()
    try:
        code = root.main(list(arguments), prog_name="holloway", standalone_mode=False, obj=options)
        sys.stdout.flush()
    except SystemExit as asked:
        return asked.code if isinstance(asked.code, int) else ExitCode.FAILED
    except BrokenPipeError:
        _silence_stdout()
        return ExitCode.FAILED
    except BaseException as error:  # noqa: BLE001 - the last line of defence: whatever it is, three lines and a code
        return _tell(error, debug=options.debug)
    return code if isinstance(code, int) else ExitCode.OK


def _tell(error: BaseException, *, debug: bool) -> int:
    if debug:
        import traceback

        traceback.print_exception(error)
    explanation = explain(error)
    try:
        for line in explanation.lines:
            print(line, file=sys.stderr)
    except BrokenPipeError:
        return explanation.code
    return explanation.code


def _silence_stdout() -> None:
    """Whoever read our output has gone; without this the interpreter would complain once more while it exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
