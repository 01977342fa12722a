"""Who a key belongs to, as the broker's key file says at this moment. In memory: asked for every message.

Not responsible for reading the file (`key_files`).
"""

from __future__ import annotations

from holloway.actors.control_plane.key_text import KeyFile
from holloway.protocols.control_plane.effects import Principal
from holloway.protocols.control_plane.messages import Role
from holloway.protocols.z85 import decode_z85

_RANK = {Role.NODE: 0, Role.OPERATOR: 1, Role.ADMIN: 2}


class Roster:
    """The keys that count, each with its name and role."""

    def __init__(self, keys: KeyFile) -> None:
        self._principals: dict[str, Principal] = {}
        self.keys = keys
        self.take(keys)

    def __repr__(self) -> str:
        return f"<Roster of {len(self._principals)}>"

    def principal(self, key: str | None) -> Principal | None:
        """Whose key in Z85 that is; None for one that is unknown or revoked."""
        return None if key is None else self._principals.get(key)

    def has(self, principal: Principal) -> bool:
        """Whether somebody still is who he was: his key, his name and his role."""
        return principal in self._principals.values()

    def owners(self) -> dict[str, Role]:
        """Who may have jobs, and as what."""
        return {each.name: each.role for each in self._principals.values() if each.role is not Role.NODE}

    def take(self, keys: KeyFile) -> list[str]:
        """The key file has changed. Returns the names whose key counts no more, or may do less than before."""
        before = {principal.name: (key, principal.role) for key, principal in self._principals.items()}
        self.keys = keys
        self._principals = {
            each.public_key: Principal(each.name, each.role, decode_z85(each.public_key))
            for each in keys.client_keys
            if not each.revoked
        }
        after = {principal.name: (key, principal.role) for key, principal in self._principals.items()}
        return [name for name, was in before.items() if _may_less(was, after.get(name))]


def _may_less(was: tuple[str, Role], now: tuple[str, Role] | None) -> bool:
    if now is None or was[0] != now[0]:
        return True
    # A node is something else than an operator, not less: what it was is over.
    return _RANK[now[1]] < _RANK[was[1]] or (was[1] is Role.NODE) != (now[1] is Role.NODE)
