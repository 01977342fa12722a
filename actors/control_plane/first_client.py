"""The first client of a broker: while it has never known any, the first key that comes is let in as an admin, once.

Who comes so far has the broker's public key, which nobody has who was not told. The window opens when the broker is first started,
and closes for good when it is over or somebody came through; that an empty list of keys never opens it again is kept on disk.

Not responsible for who comes in when there are clients.
"""

from __future__ import annotations

import math

from holloway.actors.control_plane.key_files import ServerKeys, with_client
from holloway.actors.control_plane.key_text import KeyFile
from holloway.protocols.control_plane.messages import Role

FIRST_NAME = "admin"
WINDOW_S = 600.0
_FILE = "first_client"
_CLOSED = "closed"


class FirstClient:
    """The window of the broker whose keys those are. `window_s`: 0 never opens it. Blocks for as long as the disk does."""

    def __init__(self, keys: ServerKeys, window_s: float) -> None:
        self._keys = keys
        self._until = -math.inf
        self._window_s = window_s

    def begin(self, keys: KeyFile, wall: float) -> float:
        """The broker starts. Returns for how many seconds the window is open; 0 when it is not. Raises PortError."""
        folder = self._keys.folder
        said = folder.read(_FILE)
        if said is None:
            said = _CLOSED.encode() if keys.client_keys else repr(wall).encode()
            folder.write(_FILE, said)
        opened = _number(said)
        # A clock that was set back does not make the window longer than it was.
        if not keys.client_keys and opened is not None and 0 <= wall - opened < self._window_s:
            self._until = opened + self._window_s
        return max(0.0, self._until - wall)

    def may_admit(self, keys: KeyFile, wall: float) -> bool:
        """Whether an unknown key would be let in now."""
        return not keys.client_keys and wall < self._until

    def admit(self, public_key: str, wall: float, now: str) -> KeyFile | None:
        """Let that key in for good; what the key file says then, or None when somebody else came first. Raises PortError."""
        came_first = False

        def change(keys: KeyFile) -> KeyFile:
            nonlocal came_first
            came_first = self.may_admit(keys, wall)
            return with_client(keys, FIRST_NAME, Role.ADMIN, public_key, now) if came_first else keys

        keys = self._keys.change(change)
        self._until = -math.inf
        self._keys.folder.write(_FILE, _CLOSED)
        return keys if came_first else None


def _number(said: bytes) -> float | None:
    try:
        number = float(said)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
