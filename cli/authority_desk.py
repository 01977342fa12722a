"""The authority as the verbs find it that decide something: beside a node that reaches the registry, or alone in a folder, kept offline.

Not responsible for decisions (`holloway.actors.authority_files`), nor for who believes them.
"""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from holloway.cli.failures import CommandFailedError
from holloway.cli.paper import PaperAnswers, check_paper, write_paper
from holloway.cli.printing import say
from holloway.cli.publishing import LATER, member_config, publish
from holloway.cli.state_option import state_directory

if TYPE_CHECKING:
    from holloway.actors.authority_files import AuthorityFiles

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def out_option(function: Decorated) -> Decorated:
    """Adds `--out FILE`, which arrives as `out`."""
    return click.option(
        "--out",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Write what is to be published to FILE, for `authority publish` on a node; needs no network.",
    )(function)


@dataclass(frozen=True, slots=True)
class Desk:
    """An authority, and how its network hears of what it decides: in the registry at `url`, or by the file `out`."""

    authority: AuthorityFiles
    own: str | None
    """The name of the node that lives here, if one does."""
    url: str | None
    out: Path | None

    def publish(self, values: Mapping[bytes, bytes], done: str, fix: str = LATER) -> None:
        """Let the network hear. `done` and `fix`: see `publishing.publish`. A file also has everything else that the authority says."""
        if self.out is not None:
            now = time.time_ns() // 10**9
            write_paper(
                self.out, PaperAnswers(self.authority.network, self.authority.statements(now) | dict(values)).text()
            )
            say(f"{self.out} is for any node of the network:  holloway authority publish {shlex.quote(self.out.name)}")
        elif self.url is not None:
            publish(self.url, values, done, fix)
        else:
            raise CommandFailedError(f"{done}, and nobody has heard of it yet", *_OFFLINE)


_OFFLINE = "this authority is kept offline", "the same once more, with --out FILE"


def is_offline(state: Path | None) -> bool:
    """Whether an authority lies there, and no node."""
    from holloway.actors.authority_files import AuthorityFiles
    from holloway.actors.state_directory import CONFIG_FILE

    folder = state_directory(state)
    return AuthorityFiles.exist(folder) and not folder.has(CONFIG_FILE)


def open_desk(state: Path | None, out: Path | None = None, *, decides: bool = True) -> Desk | str:
    """The authority in a state directory, or whom the node there believes instead. `decides`: something will have to be published.

    Raises `CommandFailedError` where there is neither, `LocalError` for what is no authority.
    """
    from holloway.actors.authority_files import AuthorityFiles
    from holloway.actors.authority_keys import network_in

    folder = state_directory(state)
    entropy = os.urandom  # noqa: TID251 - a verb is where randomness comes in
    if not is_offline(state):
        config, registry = member_config(state)
        if registry.trust != "authority":
            if out is not None:
                what, why = "nothing can be published by file", f"trust is {registry.trust}: there is no authority"
                raise CommandFailedError(what, why, "leave --out out")
            return registry.trust
        if out is not None:
            check_paper(out)
        return Desk(AuthorityFiles(folder, config.node.network, entropy), config.node.name, registry.url, out)
    if out is not None:
        check_paper(out)
    elif decides:
        raise CommandFailedError(f"nobody would hear of it from {folder.path}", *_OFFLINE)
    return Desk(AuthorityFiles(folder, network_in(folder), entropy), None, None, out)
