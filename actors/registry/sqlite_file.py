"""The registry in one SQLite file: the transactions, as synchronous calls on one connection.

Responsible for: `RegistryPort`'s promises in SQL, for any number of processes on one machine. NOT responsible for:
Trio, waiting for locks, and the clock: each call gets a `Moment`, and fails with sqlite3.OperationalError when
another process holds the file. One thread at a time may call.

Leases end by the wall clock, the only one that processes of different age share; a wall clock can be set. Three rules
keep a jump from killing live leases:

* A process that sees the wall clock jump against its monotonic clock (`Moment.steps`) first gives every lease its whole
  time again, counted from now. That is idempotent, so it does not matter how many processes see the jump. (etcd
  does the same when a new leader takes over.) A dead lease lives once more that long.
* A process does not end leases in its first second (`Moment.may_expire`): it cannot have seen a jump that came just
  before it, and those that did need a moment to put it right.
* A lease ends LEASE_SLACK_S after its deadline, which makes up for a jump too small to notice.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from holloway.actors.registry.limits import (
    BATCH_CHANGES,
    KEY_BYTES_MAX,
    LEASES_MAX,
    Limits,
    compacted,
    never_reached,
    size_of,
    store_full,
    too_many_leases,
)
from holloway.actors.registry.port import (
    Change,
    Changes,
    Compare,
    Delete,
    Entry,
    Lease,
    LeaseId,
    LeaseLostError,
    Put,
    Snapshot,
    Transaction,
    holds,
)
from holloway.actors.registry.sqlite_opening import damaged, open_connection
from holloway.protocols.errors import RegistryError

LEASE_SLACK_S = 0.25
GLANCES_MAX = 5  # after so many looks from outside, one inside
NS = 1_000_000_000

_SLACK_NS = int(LEASE_SLACK_S * NS)
_AFTER_EVERY_KEY = b"\xff" * (KEY_BYTES_MAX + 1)
_Appearance: TypeAlias = tuple[tuple[int, int] | None, tuple[int, int] | None]
_ENTRY = "value, create_revision, mod_revision, version, lease"


@dataclass(frozen=True, slots=True)
class Moment:
    """When a call was made.

    `wall_ns`: since 1970. `steps`: jumps of the wall clock seen so far. `may_expire`: see above.
    """

    wall_ns: int
    steps: int
    may_expire: bool


class RegistryFile:
    """One connection to the file at `path`. Raises RegistryError as `RegistryPort` does, and sqlite3.Error."""

    def __init__(self, path: Path, limits: Limits, moment: Moment) -> None:
        self._path = path
        self._log = f"{path}-wal"
        self._limits = limits
        self._steps = moment.steps
        self._data_version: int | None = None
        self._head = 0
        self._next_due_ns = 0
        self._seen: _Appearance = None, None
        self._is_confirmed = False
        self._glances = 0
        self._db = open_connection(path)
        try:
            self._identity = _identity(path)
            self._bring_back_from_the_future(moment)
        except BaseException:
            self._db.close()
            raise

    def close(self) -> None:
        """Close the connection; the last one in any process folds the log into the file."""
        self._db.close()

    def is_quiet(self, moment: Moment) -> bool:
        """Tell, at the price of two calls of stat, that `poll` would find nothing. Any thread may ask.

        Every commit writes to the log beside the file. Its time of change is coarse, so it is believed only after a
        second poll, which comes later than the clock's tick; and never for long, as some file systems keep it in
        whole seconds.
        """
        self._glances += 1
        return (
            self._is_confirmed
            and self._glances < GLANCES_MAX
            and moment.wall_ns < self._next_due_ns
            and moment.steps == self._steps
            and self._appearance() == self._seen
        )

    def poll(self, moment: Moment) -> int:
        """Return the newest revision; cheap while nothing happened. Ends the leases that are due.

        At least POLL_MIN_S, a tick of the kernel's clock and more, must lie between two polls.
        """
        self._refuse_if_replaced()
        # Both are taken first: what happens after these lines changes them again, and the next poll sees that.
        seen = self._appearance()
        data_version: int = self._db.execute("PRAGMA data_version").fetchone()[0]
        self._is_confirmed, self._seen, self._glances = seen == self._seen, seen, 0
        if data_version != self._data_version or moment.wall_ns >= self._next_due_ns or moment.steps > self._steps:
            self._settle_if_possible(moment)
            (self._head,) = self._state("revision")
            (deadline,) = self._db.execute("SELECT min(deadline_ns) FROM leases").fetchone()
            self._next_due_ns = 2**63 if deadline is None else deadline + _SLACK_NS
            self._data_version = data_version
        return self._head

    def snapshot(self, moment: Moment, prefix: bytes) -> Snapshot:
        """See `RegistryPort.snapshot`."""
        self._settle_if_possible(moment)
        with self._reading():
            (revision,) = self._state("revision")
            rows = self._db.execute(
                f"SELECT key, {_ENTRY} FROM entries WHERE key >= ? AND key < ? ORDER BY key",  # noqa: S608
                (prefix, prefix + _AFTER_EVERY_KEY),
            )
            return Snapshot(revision, {key: Entry(*row) for key, *row in rows})

    def changes(self, moment: Moment, prefix: bytes, after: int) -> tuple[Changes, int]:
        """Return changes above `after`, and the last revision looked at. Raises RegistryError("compacted")."""
        self._settle_if_possible(moment)
        with self._reading():
            newest, oldest = self._state("revision, compacted")
            if after < oldest:
                raise compacted(after, oldest)
            if after > newest:
                raise never_reached(after, newest)
            span = (after, prefix, prefix + _AFTER_EVERY_KEY)
            full = self._db.execute(
                "SELECT revision FROM history WHERE revision > ? AND key >= ? AND key < ?"
                " ORDER BY revision LIMIT 1 OFFSET ?",
                (*span, BATCH_CHANGES - 1),
            ).fetchone()
            last = full[0] if full else newest
            rows = self._db.execute(
                "SELECT revision, key, value, create_revision, version, lease FROM history"
                " WHERE revision > ? AND key >= ? AND key < ? AND revision <= ? ORDER BY revision, position",
                (*span, last),
            )
            return tuple(_change(*row) for row in rows), last

    def transact(
        self,
        moment: Moment,
        compares: Sequence[Compare],
        puts: Mapping[bytes, bytes],
        deletes: Sequence[bytes],
        lease: LeaseId | None,
    ) -> Transaction:
        """See `RegistryPort.transact`."""
        self._settle(moment)
        with self._writing():
            seen = {compare.key: self._entry(compare.key) for compare in compares}
            if not all(holds(compare, seen[compare.key]) for compare in compares):
                (revision,) = self._state("revision")
                return Transaction(False, revision, {key: entry for key, entry in seen.items() if entry is not None})
            if puts and lease is not None and not self._exists(lease):
                raise LeaseLostError(lease)
            return Transaction(True, self._apply(puts, deletes, lease))

    def grant(self, moment: Moment, ttl_s: float) -> Lease:
        """See `RegistryPort.grant`."""
        self._settle(moment)
        with self._writing():
            if self._db.execute("SELECT count(*) FROM leases").fetchone()[0] >= LEASES_MAX:
                raise too_many_leases()
            ttl_ns = int(ttl_s * NS)
            row = self._db.execute(
                "INSERT INTO leases (ttl_ns, deadline_ns) VALUES (?, ?)", (ttl_ns, moment.wall_ns + ttl_ns)
            )
            return Lease(LeaseId(row.lastrowid or 0), ttl_s)

    def keep_alive(self, moment: Moment, lease: LeaseId) -> None:
        """See `RegistryPort.keep_alive`."""
        self._settle(moment)
        with self._writing():
            # Two tasks may keep one lease; the call that was made first does not take back what the second one gave.
            row = self._db.execute(
                "UPDATE leases SET deadline_ns = max(deadline_ns, ? + ttl_ns) WHERE id = ?", (moment.wall_ns, lease)
            )
            if not row.rowcount:
                raise LeaseLostError(lease)

    def revoke(self, moment: Moment, lease: LeaseId) -> None:
        """See `RegistryPort.revoke`."""
        self._settle(moment)
        with self._writing():
            self._drop(lease)

    def _bring_back_from_the_future(self, moment: Moment) -> None:
        """A deadline further off than the lease's time was given before the clock was set back, with nobody looking."""
        future = "deadline_ns > ttl_ns + ?"
        bound = moment.wall_ns + _SLACK_NS
        if self._db.execute(f"SELECT 1 FROM leases WHERE {future} LIMIT 1", (bound,)).fetchone():  # noqa: S608
            with self._writing():
                self._db.execute(
                    f"UPDATE leases SET deadline_ns = ttl_ns + ? WHERE {future}",  # noqa: S608
                    (moment.wall_ns, bound),
                )

    def _settle(self, moment: Moment) -> None:
        """End the leases that are due, in transactions of their own, before whatever else is done."""
        self._refuse_if_replaced()
        if moment.steps > self._steps:
            with self._writing():
                self._db.execute("UPDATE leases SET deadline_ns = ttl_ns + ?", (moment.wall_ns,))
            self._steps = moment.steps
        due = (moment.wall_ns - _SLACK_NS,)
        query = "SELECT id FROM leases WHERE deadline_ns <= ? ORDER BY deadline_ns, id"
        if moment.may_expire and self._db.execute(query, due).fetchone():
            with self._writing():
                for (lease,) in self._db.execute(query, due).fetchall():
                    self._drop(lease)

    def _settle_if_possible(self, moment: Moment) -> None:
        """For those who only read: a file that cannot be written now can be read, and leases end a little later."""
        with suppress(sqlite3.OperationalError):
            self._settle(moment)

    def _drop(self, lease: LeaseId) -> None:
        keys = [key for (key,) in self._db.execute("SELECT key FROM entries WHERE lease = ? ORDER BY key", (lease,))]
        self._apply({}, keys, None)
        self._db.execute("DELETE FROM leases WHERE id = ?", (lease,))

    def _exists(self, lease: LeaseId) -> bool:
        return self._db.execute("SELECT 1 FROM leases WHERE id = ?", (lease,)).fetchone() is not None

    def _state(self, columns: str) -> tuple[int, ...]:
        """Columns of the one row of the store's own state. Raises RegistryError when somebody has taken it away."""
        row: tuple[int, ...] | None = self._db.execute(f"SELECT {columns} FROM state").fetchone()  # noqa: S608
        if row is None or not all(isinstance(value, int) for value in row):
            raise damaged(self._path, "it has lost its state")
        return row

    def _entry(self, key: bytes) -> Entry | None:
        row = self._db.execute(f"SELECT {_ENTRY} FROM entries WHERE key = ?", (key,)).fetchone()  # noqa: S608
        return Entry(*row) if row else None

    def _apply(self, puts: Mapping[bytes, bytes], deletes: Sequence[bytes], lease: LeaseId | None) -> int:
        """Change the entries, all at one new revision, inside the caller's transaction."""
        newest, store_bytes = self._state("revision, store_bytes")
        revision = newest + 1
        history: list[tuple[bytes, bytes | None, int, int, LeaseId | None]] = []
        growth = size = 0
        for key, value in puts.items():
            old = self._entry(key)
            created, version = (old.create_revision, old.version + 1) if old else (revision, 1)
            self._db.execute(
                "INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?, ?, ?)",
                (key, value, created, revision, version, lease),
            )
            history.append((key, value, created, version, lease))
            growth += size_of(key, value) - (size_of(key, old.value) if old else 0)
            size += size_of(key, value)
        for key in deletes:
            if (old := self._entry(key)) is not None:
                self._db.execute("DELETE FROM entries WHERE key = ?", (key,))
                history.append((key, None, old.create_revision, old.version, None))
                growth -= size_of(key, old.value)
                size += size_of(key, b"")
        if not history:
            return newest
        if growth > 0 and store_bytes + growth > self._limits.store_bytes:
            raise store_full(self._limits.store_bytes)
        self._db.executemany(
            "INSERT INTO history VALUES (?, ?, ?, ?, ?, ?, ?)",
            [(revision, position, *row) for position, row in enumerate(history)],
        )
        self._db.execute(
            "UPDATE state SET revision = ?, store_bytes = store_bytes + ?,"
            " history_changes = history_changes + ?, history_bytes = history_bytes + ?",
            (revision, growth, len(history), size),
        )
        self._forget()
        return revision

    def _forget(self) -> None:
        """Compact the history to its bounds, by whole revisions; the newest one stays whatever its size."""
        newest, oldest, changes, size = self._state("revision, compacted, history_changes, history_bytes")
        while oldest + 1 < newest and (changes > self._limits.history_changes or size > self._limits.history_bytes):
            oldest += 1
            rows = self._db.execute("SELECT key, value FROM history WHERE revision = ?", (oldest,)).fetchall()
            changes -= len(rows)
            size -= sum(size_of(key, value or b"") for key, value in rows)
            self._db.execute("DELETE FROM history WHERE revision = ?", (oldest,))
        self._db.execute(
            "UPDATE state SET compacted = ?, history_changes = ?, history_bytes = ?", (oldest, changes, size)
        )

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """One write transaction. IMMEDIATE takes the lock at once, so that it cannot fail half-way for want of it."""
        self._db.execute("BEGIN IMMEDIATE")
        # SQLite's data_version does not move for what this connection writes.
        self._data_version = None
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:  # SQLite has rolled back by itself after some errors, such as a full disk
                self._db.execute("ROLLBACK")
            raise

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Several reads of one state of the file."""
        self._db.execute("BEGIN")
        try:
            yield
        finally:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")

    def _appearance(self) -> _Appearance:
        """What can be seen from outside: which file it is, and when its log was written and how long it is."""
        try:
            log = os.stat(self._log)
        except OSError:
            return _identity(self._path), None
        return _identity(self._path), (log.st_mtime_ns, log.st_size)

    def _refuse_if_replaced(self) -> None:
        """What is written to a file that has no name any more is lost, and nobody else sees it."""
        if _identity(self._path) != self._identity:
            raise RegistryError(
                f"The registry file {self._path} was moved, deleted or replaced",
                "this program still has the old file open, and the others do not",
                "open the registry again (restart the node)",
            )


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _change(
    revision: int, key: bytes, value: bytes | None, created: int, version: int, lease: LeaseId | None
) -> Change:
    if value is None:
        return Delete(key, revision)
    return Put(key, Entry(value, created, revision, version, lease))
