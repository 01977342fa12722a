"""`holloway completion`: the script that teaches a shell to complete verbs, options and peers. click writes it."""

from __future__ import annotations

import click


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the completion script of a shell.

    \b
    bash:  source <(holloway completion bash)
    zsh:   source <(holloway completion zsh)
    fish:  holloway completion fish > ~/.config/fish/completions/holloway.fish
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None, "click knows the three shells"
    root = click.get_current_context().find_root().command
    print(kind(root, {}, "holloway", "_HOLLOWAY_COMPLETE").source())
