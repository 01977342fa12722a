"""Verbs that other packages bring: `holloway NAME …` is what the plugin NAME says it is.

For the list of verbs nothing of a plugin is run: it shows which package each is of. Not responsible for finding them
(`holloway.actors.control_plane.installed_plugins`).
"""

from __future__ import annotations

from importlib import import_module

import click
from click.shell_completion import CompletionItem

from holloway.cli.failures import CommandFailedError
from holloway.cli.groups import LazyGroup
from holloway.cli.plain_text import one_line


class RootGroup(LazyGroup):
    """The verbs of Holloway, and behind them those of plugins."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*super().list_commands(ctx), *self._of_plugins()]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in self._verbs or cmd_name not in self._of_plugins():
            return super().get_command(ctx, cmd_name)
        return plugin_command(cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_commands(ctx, formatter)
        from holloway.actors.control_plane.installed_plugins import installed

        rows = list(self._of_plugins().items())
        rows += [("(damaged)", one_line(each)) for each in installed().problems]
        if rows:
            with formatter.section("Plugins"):
                formatter.write_dl(rows)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        items = [
            CompletionItem(name, help=text) for name, text in self._of_plugins().items() if name.startswith(incomplete)
        ]
        return [*super().shell_complete(ctx, incomplete), *items]

    def _of_plugins(self) -> dict[str, str]:
        """The names of plugins, with what help shows of each."""
        from holloway.actors.control_plane.installed_plugins import installed, package_of

        found = {}
        for name, points in installed().points.items():
            packages = ", ".join(package_of(point) for point in points)
            if name in self._verbs:
                found[one_line(f"({name})")] = one_line(
                    f"of {packages}: cannot be called so, there is a verb of that name"
                )
            elif len(points) > 1:
                found[one_line(name)] = one_line(f"of {packages}: two of one name, neither is taken")
            else:
                found[one_line(name)] = one_line(f"of {packages}")
        return found


def plugin_command(name: str) -> click.Command:
    """The command of that plugin. Raises CommandFailedError when it has none, or that cannot be loaded."""
    from holloway.actors.control_plane.installed_plugins import installed, load_plugin, package_of
    from holloway.actors.control_plane.plugins import told
    from holloway.cli.verbs import VERBS

    points = installed().points.get(name, ())
    if not points:
        raise CommandFailedError(f"there is no plugin {name}", "its name is not what is shown of it", "holloway --help")
    plugin = load_plugin(name, points, VERBS)
    module, _, attribute = plugin.verbs.partition(":")
    fix = f"tell the author of {package_of(points[0])}"
    if not plugin.verbs:
        raise CommandFailedError(f"the plugin {name} has no verbs", "it only has commands for others", fix)
    try:
        command = getattr(import_module(module), attribute)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise CommandFailedError(f"the verbs of the plugin {name} cannot be loaded", told(error), fix) from error
    if not isinstance(command, click.Command):
        raise CommandFailedError(f"the verbs of the plugin {name} are none", f"{plugin.verbs} is no click command", fix)
    return command
