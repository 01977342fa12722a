"""Groups of verbs: those that load a verb only when it is called, and that know what a misspelt one meant.

Not responsible for what the verbs do.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click
from click.shell_completion import CompletionItem

from holloway.cli.failures import UnknownVerbError


class SuggestingGroup(click.Group):
    """A group whose complaint about an unknown verb names the nearest one, and about none at all lists them."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(no_args_is_help=False, **attributes)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        verb = args[0]
        verbs = self.list_commands(ctx)
        if verb in verbs or verb.startswith("-") or ctx.resilient_parsing:
            return super().resolve_command(ctx, args)
        import difflib

        close = difflib.get_close_matches(verb.lower(), verbs, n=1)
        raise UnknownVerbError(verb, verbs, close[0] if close else None, ctx)


class LazyGroup(SuggestingGroup):
    """A group over a table of verbs and their one-line helps. The verb `name` is the attribute `command` of the module
    `holloway.cli.<name>`, which is imported when the verb is called or completed, and not for the group's own help."""

    def __init__(self, *, verbs: Mapping[str, str], **attributes: Any) -> None:
        super().__init__(**attributes)
        self._verbs = verbs

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._verbs)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] in self._verbs:  # without asking for any other
            return click.Group.resolve_command(self, ctx, args)
        return super().resolve_command(ctx, args)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._verbs:
            return None
        command = import_module(f"holloway.cli.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl(list(self._verbs.items()))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        items = [CompletionItem(name, help=text) for name, text in self._verbs.items() if name.startswith(incomplete)]
        return items + click.Command.shell_complete(self, ctx, incomplete)
