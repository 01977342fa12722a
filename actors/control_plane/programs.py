"""From a step of a job to the program that does it: as whom, where, with which environment.

Responsible for the part of an agent's policy that only the machine can judge: its users and folders. Not responsible for which
programs are allowed (`holloway.protocols.control_plane.agent`), nor for running them (`processes`).
"""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass
from pathlib import Path

from holloway.actors.control_plane.processes import Account, Program
from holloway.protocols.control_plane.effects import Start
from holloway.protocols.errors import LocalError

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_OPTIONS = {"user", "folder"}


@dataclass(frozen=True, slots=True)
class ProgramPolicy:
    """`node`: our name. `users`: whom a program may run as, besides ourselves. `folder`: where it runs unless it is told; None: at home."""

    node: str
    users: tuple[str, ...] = ()
    folder: Path | None = None

    def program(self, start: Start) -> Program:
        """The program of an `exec` step. Raises LocalError for what this machine does not allow or does not have."""
        options = start.step.options
        unknown = sorted(options.keys() - _OPTIONS)
        if unknown:
            raise LocalError(f"exec has no option {unknown[0]}", "this node is older than who asks")
        account = self._account(options.get("user", ""))
        folder = options.get("folder", "")
        if not isinstance(folder, str) or (folder and not folder.startswith("/")):
            raise LocalError("the folder is not an absolute path", "a program runs where it is told, or at home")
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
        where = Path(folder) if folder else self.folder or Path(own.home)
        return Program(start.step.arguments, where, environ, account, start.body)

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


def _own_account() -> Account:
    uid = os.geteuid()
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:  # in a container, say
        return Account(str(uid), uid, os.getegid(), (), "/")
    return Account(entry.pw_name, uid, entry.pw_gid, (), entry.pw_dir if Path(entry.pw_dir).is_dir() else "/")
