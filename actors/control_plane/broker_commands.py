"""Commands that run on the broker itself: its list of keys, configurations of applications, files that are to go, and plugins.

    request ─► answer: what is sent back, and a line for the trail

Not responsible for who may call what (`access`), nor for sending.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trio

from holloway.actors.control_plane.applications import read_configuration, write_configuration
from holloway.actors.control_plane.client_admin import CLIENT_COMMANDS, client_change, client_rows, refuse_enrolled
from holloway.actors.control_plane.file_trees import remove_files
from holloway.actors.control_plane.key_watch import KeyWatch
from holloway.actors.control_plane.plugin_threads import PluginThreads, ThreadLimits
from holloway.actors.control_plane.plugins import BrokerCall, BrokerCommand, Plugins, told, words_of
from holloway.actors.control_plane.world import World
from holloway.actors.control_plane.yaml_check import require_yaml
from holloway.protocols.control_plane.broker_queries import answer_parts
from holloway.protocols.control_plane.effects import Audit, Principal, Serve
from holloway.protocols.control_plane.file_names import NameProblem, confined
from holloway.protocols.control_plane.messages import Admin, Answer, Denied
from holloway.protocols.control_plane.null_security import Security
from holloway.protocols.control_plane.wire import encode
from holloway.protocols.errors import HollowayError, LocalError

PLUGIN_THREADS = ThreadLimits(at_once=4, each_plugin=3, each_person=2, wait_s=4.0, run_s=10.0)
"""For commands of plugins. Together the times are less than an operator waits for an answer."""
WAITING = 16
WAITING_EACH = 4
"""Commands that take a while: so many run or wait, and so many of one person."""
REVISION = "revision"
_ON_DISK = ("edit", "upload")


@dataclass(frozen=True, slots=True)
class Served:
    """What came of a command: messages for who asked, encoded, and a line for the trail."""

    messages: tuple[list[bytes], ...]
    entry: Audit


class BrokerCommands:
    """The commands of one broker. `files`: the folder of the files that were put."""

    def __init__(self, files: Path, world: World, keys: KeyWatch, security: Security, plugins: Plugins) -> None:
        self._files, self._world, self._keys, self._security = files, world, keys, security
        self._plugins = plugins.on_broker
        self._threads = PluginThreads(PLUGIN_THREADS)
        self._disk = trio.CapacityLimiter(1)
        """So that of two who replace one text one comes first."""
        self._running: Counter[str] = Counter()

    def is_slow(self, request: Admin) -> bool:
        """Whether it may take a while: a plugin's, whole folders, and texts that somebody has made hard to read."""
        return request.command in self._plugins or request.command in _ON_DISK

    async def serve(self, serve: Serve) -> Served:
        """Do it."""
        request, who = serve.request, serve.principal
        what = " ".join(request.arguments)[:4096]
        if request.command == "edit" and REVISION in request.options:
            what += f" in place of revision {str(request.options[REVISION])[:64]}"
        try:
            answers = await self._in_turn(request, who)
            messages = tuple(encode(each) for each in answers)
        except HollowayError as error:
            refused = Denied(request.request, str(error)[:2000], error.fix[:2000])
            return Served((encode(refused),), Audit(request.command, who.name, what, f"refused: {error}"))
        return Served(messages, Audit(request.command, who.name, what, "ok"))

    async def _in_turn(self, request: Admin, who: Principal) -> Sequence[Answer]:
        if not self.is_slow(request):
            return await self._answers(request, who)
        if self._running.total() >= WAITING or self._running[who.name] >= WAITING_EACH:
            raise LocalError("too many commands are running on the broker", "they take turns", "try again soon")
        self._running[who.name] += 1
        try:
            return await self._answers(request, who)
        finally:
            self._running -= Counter((who.name,))

    async def _answers(self, request: Admin, who: Principal) -> Sequence[Answer]:
        if request.command in self._plugins:
            return await self._of_plugin(self._plugins[request.command], request, who)
        match request.command:
            case "edit":
                return [await trio.to_thread.run_sync(self._edit, request, limiter=self._disk)]
            case "upload":
                return await trio.to_thread.run_sync(self._remove, request, limiter=self._disk)
            case _:
                return await self._clients(request)

    async def _clients(self, request: Admin) -> Sequence[Answer]:
        keys, enrolled = self._keys.roster.keys, self._keys.roster.enrolled()
        refuse_enrolled(request, (each.name for each in enrolled))
        change = client_change(request, self._world.stamp())
        if request.command != "client-list":
            if self._security is Security.NULL and request.command in CLIENT_COMMANDS:
                raise LocalError(
                    "the list of keys is not changed over a connection without keys",
                    "who does that could let himself in for later",
                    "on the broker's machine: holloway client … --root DIR",
                )
            keys = await self._keys.change(partial(self._keys.server_keys.change, change))
        return answer_parts(request.request, client_rows(request, keys, enrolled, self._keys.roster.kept_out()))

    def _edit(self, request: Admin) -> Answer:
        """The configuration of an application; or, with a revision, another one in its place."""
        if len(request.arguments) != 1:
            raise LocalError("edit takes one application", f"it was given {len(request.arguments)}")
        [application] = request.arguments
        if REVISION not in request.options:
            require_yaml(b"")  # what could not be looked at when it is edited is not handed out to be edited
            text, revision = read_configuration(self._files, application)
            return Answer(request.request, 1, True, {REVISION: revision}, text)
        revision = write_configuration(self._files, application, request.body, str(request.options[REVISION]))
        return Answer(request.request, 1, True, {REVISION: revision})

    def _remove(self, request: Admin) -> Sequence[Answer]:
        """Remove files that an uploaded folder does not have any more: names below it, as a list in JSON."""
        if len(request.arguments) != 1:
            raise LocalError("upload takes one folder", f"it was given {len(request.arguments)}")
        try:
            names = json.loads(request.body)
        except (ValueError, RecursionError):
            names = None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise LocalError("there is no list of names", "an upload says which files are to go")
        paths = [confined(f"{request.arguments[0]}/{name}") for name in names]
        good = [parts for parts in paths if not isinstance(parts, NameProblem)]
        if len(good) < len(paths) or isinstance(confined(request.arguments[0]), NameProblem):
            raise LocalError("a name does not lead to a file below the root", "no .., no / at the front, no backslash")
        kept = request.arguments[0].count("/") + 1
        try:
            removed = remove_files(self._files, good, keep=kept)
        except OSError as error:
            why = error.strerror or str(error)
            raise LocalError("files could not be removed", why, "see the folder files of the broker") from error
        return answer_parts(request.request, [{"removed": removed}])

    async def _of_plugin(self, command: BrokerCommand, request: Admin, who: Principal) -> Sequence[Answer]:
        """What a plugin says; that it fails, or hangs, concerns nobody else."""
        call = BrokerCall(self._files, who.name, who.role, request.arguments, request.options, request.body)

        def work() -> Sequence[Answer]:
            try:
                rows = [dict(row) for row in command.run(call)]
            except ValueError as error:
                raise LocalError(f"{request.command} refuses", words_of(error) or "it does not say why") from error
            except BaseException as error:  # not our code: in a thread even KeyboardInterrupt is its own
                raise LocalError(
                    f"the plugin behind {request.command} failed", told(error), "tell its author"
                ) from error
            try:
                answers = answer_parts(request.request, rows)
                for answer in answers:
                    encode(answer)
            except (LocalError, TypeError, ValueError, RecursionError) as error:
                raise LocalError(f"what {request.command} answers cannot be sent", words_of(error)) from error
            return answers

        return await self._threads.run(work, request.command, who.name)
