"""The store that the nodes of a network share: one port, several back ends.

`port` says what a registry promises, `open` turns a URL into a handle, `memory` and `sqlite` are back ends. NOT here:
what the nodes write into it.
"""

from __future__ import annotations

from holloway.actors.registry.limits import KEY_BYTES_MAX, VALUE_BYTES_MAX, Limits
from holloway.actors.registry.memory import MemoryRegistry
from holloway.actors.registry.open import HandleSource, open_registry
from holloway.actors.registry.port import (
    Absent,
    Change,
    Changes,
    Compare,
    Delete,
    Entry,
    Lease,
    LeaseId,
    LeaseLostError,
    ModRevisionIs,
    Put,
    RegistryPort,
    Snapshot,
    Transaction,
    ValueIs,
    Watch,
)

__all__ = [
    "KEY_BYTES_MAX",
    "VALUE_BYTES_MAX",
    "Absent",
    "Change",
    "Changes",
    "Compare",
    "Delete",
    "Entry",
    "HandleSource",
    "Lease",
    "LeaseId",
    "LeaseLostError",
    "Limits",
    "MemoryRegistry",
    "ModRevisionIs",
    "Put",
    "RegistryPort",
    "Snapshot",
    "Transaction",
    "ValueIs",
    "Watch",
    "open_registry",
]
