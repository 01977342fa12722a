"""Who may call what, and where it runs: a table, and what is not in it nobody may.

A command runs on nodes or on the broker; a rule names the roles whose keys may call it. No rule can name the role of
nodes, so no node commands anybody. Not responsible for which key has which role, nor for what a node itself allows (`agent`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType

from holloway.protocols.control_plane.messages import Role
from holloway.protocols.errors import LocalError


class Place(Enum):
    """Where a command runs."""

    NODES = "nodes"
    BROKER = "broker"


class AccessProblem(Enum):
    """Why somebody may not; the value is the name under which it is counted."""

    NO_COMMAND = "access_no_such_command"
    WRONG_ROLE = "access_role"
    WRONG_PLACE = "access_place"


@dataclass(frozen=True, slots=True)
class Rule:
    """`callers`: the roles that may; never `Role.NODE`."""

    callers: frozenset[Role]
    place: Place

    def __post_init__(self) -> None:
        if Role.NODE in self.callers:
            raise LocalError("a rule lets nodes call a command", "a node commands nobody", "remove the role node")


class AccessTable:
    """Rules by the name of the command. Never changed; `with_rules` makes another one."""

    def __init__(self, rules: Mapping[str, Rule]) -> None:
        self._rules = MappingProxyType(dict(rules))

    def problem(self, role: Role, command: str, place: Place) -> AccessProblem | None:
        """None when somebody of that role may run the command there."""
        rule = self._rules.get(command)
        if rule is None:
            return AccessProblem.NO_COMMAND
        if role not in rule.callers:
            return AccessProblem.WRONG_ROLE
        return None if rule.place is place else AccessProblem.WRONG_PLACE

    def with_rules(self, rules: Mapping[str, Rule]) -> AccessTable:
        """This table and these rules. Raises LocalError when a command has a rule already: nobody takes one over."""
        twice = next((name for name in rules if name in self._rules), None)
        if twice is not None:
            raise LocalError(f"the command {twice} has two rules", "it is there already", "call it something else")
        return AccessTable(self._rules | rules)


_OPERATORS = frozenset({Role.OPERATOR, Role.ADMIN})
_ADMINS = frozenset({Role.ADMIN})

DEFAULT_ACCESS = AccessTable(
    {
        "echo": Rule(_OPERATORS, Place.NODES),
        "exec": Rule(_OPERATORS, Place.NODES),
        "sync": Rule(_OPERATORS, Place.NODES),
        "clients": Rule(_OPERATORS, Place.BROKER),
        "jobs": Rule(_OPERATORS, Place.BROKER),
        "job": Rule(_OPERATORS, Place.BROKER),
        "select": Rule(_OPERATORS, Place.BROKER),
        "file-put": Rule(_OPERATORS, Place.BROKER),
        "file-get": Rule(_OPERATORS, Place.BROKER),
        "upload": Rule(_OPERATORS, Place.BROKER),
        "download": Rule(_OPERATORS, Place.BROKER),
        "edit": Rule(_OPERATORS, Place.BROKER),
        "client-create": Rule(_ADMINS, Place.BROKER),
        "client-list": Rule(_ADMINS, Place.BROKER),
        "client-revoke": Rule(_ADMINS, Place.BROKER),
        "client-rotate": Rule(_ADMINS, Place.BROKER),
        "client-role": Rule(_ADMINS, Place.BROKER),
    }
)
"""What there is without plugins."""
