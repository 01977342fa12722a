"""`holloway exec`: run a program on nodes. Not responsible for what nodes allow: each has a policy of its own."""

from __future__ import annotations

from typing import Any

import click

from holloway.cli.control_options import ControlCommand
from holloway.cli.job_options import JobOptions, job_options, perform


@click.command(cls=ControlCommand, context_settings={"ignore_unknown_options": False, "allow_interspersed_args": False})
@click.argument("words", metavar="CMD [ARGS]...", nargs=-1, type=click.UNPROCESSED)
@click.option("--shell", is_flag=True, help="Have CMD, one word, read by the node's shell.")
@click.option("--user", metavar="NAME", default="", help="Run it as this user, where the node allows that.")
@click.option("--folder", metavar="DIR", default="", help="Run it in this folder of the node.  [default: home]")
@job_options
def command(words: tuple[str, ...], shell: bool, user: str, folder: str, **options: Any) -> int:
    """Run a program on nodes.

    No shell reads CMD and ARGS unless --shell is given. On exactly one node, its exit code is passed on; otherwise the code is 0 only if
    all were ok, and 5 if some nodes could not be reached.

    \b
    holloway exec -t 'role=web' -- uptime
    holloway exec --shell 'df -h | tail -1'
    """
    from holloway.protocols.control_plane.messages import Step

    context = click.get_current_context(silent=True)
    if not words:
        if not options["retry_failed"]:
            raise click.UsageError("missing argument 'CMD'", context)
        return perform(JobOptions(**options), [])
    if shell and len(words) != 1:
        raise click.UsageError("--shell takes one word: quote the whole line", context)
    arguments = ("/bin/sh", "-c", words[0]) if shell else words
    more = {name: value for name, value in (("user", user), ("folder", folder)) if value}
    return perform(JobOptions(**options), [Step("exec", arguments, more)])
