"""A broker with files and two agents that run in a thread beside a test of the command line. Not responsible for what is asked."""

from __future__ import annotations

import threading
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import trio
from control_world import ControlWorld, control_world

from holloway.actors.control_plane.key_files import write_keys
from holloway.actors.control_plane.key_text import KeyFile
from holloway.protocols.control_plane.messages import Role

AGENTS: dict[str, dict[str, Any]] = {
    "web1": {"application": "shop", "environment": "live", "roles": ("web",)},
    "web2": {"application": "shop", "environment": "test", "roles": ("web", "db")},
}


class Plane:
    """What runs in the thread."""

    def __init__(self, folder: Path, **more: Any) -> None:
        self._folder, self._more = folder, more
        self._is_up = threading.Event()
        self._thread = threading.Thread(target=trio.run, args=(self._run,))
        self.world: ControlWorld
        self._clients = 0

    def start(self) -> None:
        self._thread.start()
        assert self._is_up.wait(20)

    def stop(self) -> None:
        trio.from_thread.run_sync(self._stop.cancel, trio_token=self._token)
        self._thread.join(20)
        assert not self._thread.is_alive()

    async def _run(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        with trio.CancelScope() as self._stop:
            async with control_world(self._folder, **self._more) as self.world, AsyncExitStack() as stack:
                await stack.enter_async_context(self.world.broker())
                await stack.enter_async_context(self.world.files())
                for name, record in AGENTS.items():
                    await stack.enter_async_context(self.world.agent(name, **record))
                self._is_up.set()
                await trio.sleep_forever()

    def key_file(self, name: str, role: Role) -> Path:
        """`.holloway/NAME.yml` with a key of that role."""
        self._clients += 1
        pair = self.world.admit(f"client-{self._clients}", role)
        path = Path(".holloway") / f"{name}.yml"
        write_keys(path, KeyFile(pair.secret, pair.public, self.world.server.public))
        return path

    def settle(self) -> None:
        """`.holloway` of the working folder says where this is, and has an admin's key."""
        self.key_file("me", Role.ADMIN)
        (Path(".holloway") / "config").write_text(
            f"# who we are\n--host 127.0.0.1:{self.world.port}\n--curve-key-file=me.yml\n"
            f"--file-port {self.world.file_port}\n"
        )
