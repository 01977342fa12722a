"""The bounds of the registry, and the refusals that every back end makes the same way.

Responsible for: the named constants, checking what the caller asks before a store sees it, and the texts of those
errors. NOT responsible for: judging what others wrote into a store; a back end hands that over as it is, but for the end of a
value that is longer than any of ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from holloway.actors.registry.port import Compare, LeaseId, LeaseLostError, ValueIs
from holloway.protocols.errors import RegistryError

KEY_BYTES_MAX = 512
VALUE_BYTES_MAX = 65_536
TRANSACTION_OPERATIONS_MAX = 128  # etcd's --max-txn-ops: compares, and puts with deletes, each
TRANSACTION_BYTES_MAX = 1_048_576  # etcd's --max-request-bytes is 1.5 MiB, framing included
REVISION_MAX = 2**63 - 1  # etcd's and SQLite's integers
LEASE_TTL_MIN_S = 0.1
LEASE_TTL_MAX_S = 31_536_000.0
LEASES_MAX = 16_384
BATCH_CHANGES = 256  # a watch hands over at most this many changes at once, and the rest of the last revision
ENTRY_OVERHEAD_BYTES = (
    256  # what an entry or a change costs besides key and value: a store of empty values is bounded too
)


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a local store holds. Sizes count keys, values and ENTRY_OVERHEAD_BYTES for each entry or change.

    History above either bound is compacted, oldest first and by whole revisions; the newest revision always stays.
    """

    history_changes: int = 4_096
    history_bytes: int = 16 * 1_048_576
    store_bytes: int = 64 * 1_048_576


DEFAULT_LIMITS = Limits()


def size_of(key: bytes, value: bytes) -> int:
    """Return what an entry counts against `Limits`, in bytes."""
    return len(key) + len(value) + ENTRY_OVERHEAD_BYTES


def check_prefix(prefix: bytes) -> None:
    """Raise RegistryError("denied") for a prefix no key can have."""
    if not _fits(prefix, KEY_BYTES_MAX):
        raise _denied(
            "The prefix cannot be used", f"a prefix is bytes, at most {KEY_BYTES_MAX}", "use a shorter prefix"
        )


def check_revision(revision: int) -> None:
    """Raise RegistryError("denied") for a number that is no revision."""
    if not 0 <= revision <= REVISION_MAX:
        raise _denied(
            f"The revision {revision} cannot be used",
            f"a revision is a whole number from 0 to {REVISION_MAX}",
            "use the revision of a snapshot or of a change",
        )


def check_ttl(ttl_s: float) -> None:
    """Raise RegistryError("denied") for a lease too short or too long."""
    if not LEASE_TTL_MIN_S <= ttl_s <= LEASE_TTL_MAX_S:  # not a number is neither
        raise _denied(
            f"A lease of {ttl_s} seconds cannot be granted",
            f"a lease lasts from {LEASE_TTL_MIN_S} to {LEASE_TTL_MAX_S} seconds",
            "ask for a time between the two",
        )


def check_lease(lease: LeaseId) -> None:
    """Raise LeaseLostError for a number that no store gives to a lease."""
    if not 0 < lease <= REVISION_MAX:
        raise LeaseLostError(lease)


def check_transaction(compares: Sequence[Compare], puts: Mapping[bytes, bytes], deletes: Sequence[bytes]) -> None:
    """Raise RegistryError("denied") for a transaction that a store must not see: too big, or a key twice."""
    if max(len(compares), len(puts) + len(deletes)) > TRANSACTION_OPERATIONS_MAX:
        raise _denied(
            "The transaction has too many operations",
            f"{len(compares)} compares, {len(puts)} puts and {len(deletes)} deletes;"
            f" at most {TRANSACTION_OPERATIONS_MAX} compares and as many puts and deletes fit",
            "make several transactions of it",
        )
    total = 0
    for compare in compares:
        total += _checked(compare.key, compare.value if isinstance(compare, ValueIs) else b"")
    for key, value in puts.items():
        total += _checked(key, value)
    for key in deletes:
        total += _checked(key, b"")
    if total > TRANSACTION_BYTES_MAX:
        raise _denied(
            "The transaction is too big",
            f"its keys and values are {total} bytes; at most {TRANSACTION_BYTES_MAX} fit",
            "make several transactions of it",
        )
    if len({*puts, *deletes}) < len(puts) + len(deletes):
        raise _denied(
            "The transaction changes a key twice",
            "its changes happen at one revision, so a key can change once",
            "keep the last change of each key",
        )


def compacted(after_revision: int, oldest: int) -> RegistryError:
    """Return the error of a watch whose next change the store has forgotten. `oldest`: the last revision forgotten."""
    return RegistryError(
        f"The changes after revision {after_revision} are gone",
        f"the store keeps a bounded history and has forgotten everything up to revision {oldest}:"
        " the watch started too late or was read too slowly",
        "take a new snapshot and watch from its revision",
        kind="compacted",
    )


def never_reached(after_revision: int, newest: int) -> RegistryError:
    """Return the error of a watch that starts in the future of the store: its revision came from another store."""
    return RegistryError(
        f"The store has never had revision {after_revision}",
        f"its newest is {newest}: it was made anew or restored since",
        "take a new snapshot and watch from its revision",
        kind="compacted",
    )


def store_full(limit: int) -> RegistryError:
    """Return the error of a put for which there is no room."""
    return RegistryError(
        "The registry is full", f"it holds at most {limit} bytes", "delete keys that nobody needs, or revoke old leases"
    )


def too_many_leases() -> RegistryError:
    """Return the error of a grant above LEASES_MAX."""
    return RegistryError(
        "The registry has no room for another lease",
        f"it holds at most {LEASES_MAX}, and so many are alive",
        "revoke leases that nobody needs, or wait until some expire",
    )


def closed() -> RegistryError:
    """Return the error of a handle that was closed."""
    return RegistryError(
        "The registry is closed", "this handle was closed before or while it was used", "open it again"
    )


def _checked(key: bytes, value: bytes) -> int:
    if not _fits(key, KEY_BYTES_MAX) or not key:
        raise _denied(
            "The key cannot be used", f"a key is 1 to {KEY_BYTES_MAX} bytes", "use a shorter key, and not an empty one"
        )
    if not _fits(value, VALUE_BYTES_MAX):
        raise _denied(
            f"The value of {key!r} cannot be used",
            f"a value is bytes, at most {VALUE_BYTES_MAX}",
            "put less into it, or spread it over several keys",
        )
    return len(key) + len(value)


def _fits(value: object, limit: int) -> bool:
    """Text in place of bytes is found here, and not as a damaged file later."""
    return isinstance(value, bytes) and len(value) <= limit


def _denied(what: str, why: str, fix: str) -> RegistryError:
    return RegistryError(what, why, fix, kind="denied")
