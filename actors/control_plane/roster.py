"""Who a key belongs to, as the broker's key file says at this moment, and the network that the broker is in. In memory: asked for every
message.

What the file says of a key or a name counts, whatever the network says of it: a key that was revoked there is revoked, and a name that has or had a
key there is nobody else's: who was revoked by name does not come back as the node of that name.

Not responsible for reading the file (`key_files`).
"""

from __future__ import annotations

from collections.abc import Mapping

from holloway.actors.control_plane.key_text import KeyFile
from holloway.protocols.control_plane.effects import Principal
from holloway.protocols.control_plane.messages import Role
from holloway.protocols.z85 import decode_z85

_RANK = {Role.NODE: 0, Role.OPERATOR: 1, Role.ADMIN: 2}


class Roster:
    """The keys that count, each with its name and role."""

    def __init__(self, keys: KeyFile) -> None:
        self._principals: dict[str, Principal] = {}
        self._enrolled: Mapping[str, str] = {}
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
        self.keys = keys
        return self._settle()

    def take_enrolled(self, names: Mapping[str, str]) -> list[str]:
        """The network lets in these keys, each as the node of that name. Returns as `take` does."""
        self._enrolled = names
        return self._settle()

    def enrolled(self) -> list[Principal]:
        """Who is let in by the network."""
        known = {each.public_key for each in self.keys.client_keys}
        return [each for key, each in self._principals.items() if key not in known]

    def kept_out(self) -> dict[str, str]:
        """By key, whom the network would let in as the node of that name, and the key file does not."""
        let_in = {each.name for each in self.enrolled()}
        return {key: name for key, name in self._enrolled.items() if name not in let_in}

    def _settle(self) -> list[str]:
        before = {principal.name: (key, principal.role) for key, principal in self._principals.items()}
        in_file = {each.public_key for each in self.keys.client_keys}
        taken = {each.name for each in self.keys.client_keys}
        self._principals = {
            key: Principal(name, Role.NODE, decode_z85(key))
            for key, name in self._enrolled.items()
            if key not in in_file and name not in taken
        } | {
            each.public_key: Principal(each.name, each.role, decode_z85(each.public_key))
            for each in self.keys.client_keys
            if not each.revoked
        }
        after = {principal.name: (key, principal.role) for key, principal in self._principals.items()}
        return [name for name, was in before.items() if _may_less(was, after.get(name))]


def _may_less(was: tuple[str, Role], now: tuple[str, Role] | None) -> bool:
    if now is None or was[0] != now[0]:
        return True
    # A node is something else than an operator, not less: what it was is over.
    return _RANK[now[1]] < _RANK[was[1]] or (was[1] is Role.NODE) != (now[1] is Role.NODE)
