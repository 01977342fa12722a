"""From a step of a job to the program that does it: as whom, where, with which environment.

Responsible for the part of an agent's policy that only the machine can judge: its users and folders; and for not waiting for a plugin, or for the
machine's list of users, longer than the job does. Not responsible for which
programs are allowed (`holloway.protocols.control_plane.agent`), nor for running them (`processes`).
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import trio

from holloway.actors.control_plane.plugin_threads import PluginThreads, ThreadLimits
from holloway.actors.control_plane.plugins import MAX_PLUGINS, NodeCommand, told, words_of
from holloway.actors.control_plane.processes import Account, Program, Reins
from holloway.protocols.control_plane.effects import Start
from holloway.protocols.errors import LocalError

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_OPTIONS = {"user", "folder"}
_EACH = 8
_ALL = _EACH * (MAX_PLUGINS + 1)
"""`exec`, which asks the system for its users, counts as one more plugin. Nobody is kept waiting by another one."""
MAKING = ThreadLimits(at_once=_ALL, each_plugin=_EACH, each_person=_ALL, wait_s=30.0, run_s=30.0)
"""For saying what is to run; what takes long belongs into the program."""


@dataclass(frozen=True, slots=True)
class ProgramPolicy:
    """`node`: our name. `users`: whom a program may run as, besides ourselves. `folder`: where it runs unless it is told; None: at home.
    `files`: where folders are synced, None when nothing is. `commands`: what plugins bring, by whole names.
    """

    node: str
    users: tuple[str, ...] = ()
    folder: Path | None = None
    files: Path | None = None
    commands: Mapping[str, NodeCommand] = field(default_factory=dict)

    def program(self, start: Start) -> Program:
        """The program of an `exec` step, or of a plugin's. Raises LocalError for what this machine does not allow or does not have."""
        if start.step.command in self.commands:
            argv = _argv(self.commands[start.step.command], start)
            return self._program(start, argv, None, "")
        options = start.step.options
        unknown = sorted(options.keys() - _OPTIONS)
        if unknown:
            raise LocalError(f"exec has no option {unknown[0]}", "this node is older than who asks")
        account = self._account(options.get("user", ""))
        folder = options.get("folder", "")
        if not isinstance(folder, str) or (folder and not folder.startswith("/")):
            raise LocalError("the folder is not an absolute path", "a program runs where it is told, or at home")
        return self._program(start, start.step.arguments, account, folder)

    def _program(self, start: Start, argv: tuple[str, ...], account: Account | None, folder: str) -> Program:
        own = account or _own_account()
        environ = {
            "PATH": os.environ.get("PATH") or _PATH,
            "LANG": os.environ.get("LANG") or "C.UTF-8",
            "HOME": own.home,
            "USER": own.name,
            "LOGNAME": own.name,
            "HOLLOWAY_NODE": self.node,
            "HOLLOWAY_JOB": start.job,
            "HOLLOWAY_CALLER": start.caller,
        }
        if self.files is not None:
            environ["HOLLOWAY_FILES"] = str(self.files)
        where = Path(folder) if folder else self.folder or Path(own.home)
        return Program(argv, where, environ, account, start.body)

    def _account(self, user: object) -> Account | None:
        if user == "":
            return None
        if not isinstance(user, str) or user not in self.users:
            raise LocalError(
                f"nothing runs as {str(user)[:63]} here", "the policy of this node names whom it may run as"
            )
        try:
            entry = pwd.getpwnam(user)
        except KeyError:
            raise LocalError(
                f"there is no user {user} here", "the policy names it, the system does not know it"
            ) from None
        if os.geteuid() not in (0, entry.pw_uid):
            raise LocalError(f"nothing can run as {user} here", "the agent is not root")
        groups = tuple(os.getgrouplist(user, entry.pw_gid))
        return Account(user, entry.pw_uid, entry.pw_gid, groups, entry.pw_dir)


class ProgramMaker:
    """Makes the programs of one agent, each in a thread."""

    def __init__(self, policy: ProgramPolicy) -> None:
        self._policy = policy
        self._threads = PluginThreads(MAKING)

    async def make(self, start: Start, reins: Reins) -> Program:
        """The program of a step. Raises LocalError as the policy does, and when `reins` say stop before there is one."""
        name = start.step.command
        made: Program | LocalError = LocalError(f"{name} was stopped", "it had not come to what is to run")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_when_told, reins, nursery.cancel_scope)
            try:
                made = await self._threads.run(partial(self._policy.program, start), name, start.caller)
            except LocalError as error:
                made = error
            nursery.cancel_scope.cancel()
        if isinstance(made, LocalError):
            raise made
        return made


async def _cancel_when_told(reins: Reins, scope: trio.CancelScope) -> None:
    await reins.wait_stopping()
    scope.cancel()


def _argv(command: NodeCommand, start: Start) -> tuple[str, ...]:
    """What a plugin makes of a step. It is not our code: whatever it raises ends the step, and nothing else."""
    name = start.step.command
    try:
        argv = tuple(str(word) for word in command.argv(start.step.arguments, start.step.options))
    except ValueError as error:
        raise LocalError(f"{name} refuses", words_of(error) or "it does not say why") from error
    except BaseException as error:  # not our code: in a thread even KeyboardInterrupt is its own
        raise LocalError(f"the plugin behind {name} failed", told(error)) from error
    if not argv or any("\0" in word for word in argv):
        raise LocalError(f"the plugin behind {name} failed", "what it wants to run is no program")
    return argv


def _own_account() -> Account:
    uid = os.geteuid()
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:  # in a container, say
        return Account(str(uid), uid, os.getegid(), (), "/")
    return Account(entry.pw_name, uid, entry.pw_gid, (), entry.pw_dir if Path(entry.pw_dir).is_dir() else "/")
