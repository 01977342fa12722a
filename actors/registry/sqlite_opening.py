"""Opening a registry file safely, and saying what is wrong with one.

Responsible for: refusing a file that other users of the machine could have written, making a new one with mode 0600,
the schema and its version, and turning SQLite's errors into three lines. NOT responsible for: what the tables mean.

Everything here is synchronous and runs in a worker thread.
"""

from __future__ import annotations

import os
import shlex
import sqlite3
import stat
from contextlib import suppress
from pathlib import Path
from typing import Literal

from holloway.protocols.errors import RegistryError

APPLICATION_ID = 0x484F4C57  # "HOLW", in the header of the file
SCHEMA_VERSION = 1
LOCK_WAIT_S = 0.02  # SQLite may sit on its thread this long for a lock; longer waiting is done in Trio, cancellable
WAL_BYTES_KEPT = 4 * 1_048_576  # the log is cut back to this after a checkpoint

# The counters of `state` always agree with the tables: each transaction moves both.
# Every check is verified when the file is opened, so that a row read later has the types it should have.
_SCHEMA = (
    """CREATE TABLE state (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        revision INTEGER NOT NULL CHECK (typeof(revision) = 'integer'),
        compacted INTEGER NOT NULL CHECK (typeof(compacted) = 'integer' AND compacted < revision),
        history_changes INTEGER NOT NULL CHECK (typeof(history_changes) = 'integer'),
        history_bytes INTEGER NOT NULL CHECK (typeof(history_bytes) = 'integer'),
        store_bytes INTEGER NOT NULL CHECK (typeof(store_bytes) = 'integer'))""",
    """CREATE TABLE entries (
        key BLOB NOT NULL PRIMARY KEY CHECK (typeof(key) = 'blob'),
        value BLOB NOT NULL CHECK (typeof(value) = 'blob'),
        create_revision INTEGER NOT NULL CHECK (typeof(create_revision) = 'integer'),
        mod_revision INTEGER NOT NULL CHECK (typeof(mod_revision) = 'integer'),
        version INTEGER NOT NULL CHECK (typeof(version) = 'integer'),
        lease INTEGER CHECK (typeof(lease) IN ('integer', 'null')))""",
    "CREATE INDEX entries_by_lease ON entries (lease) WHERE lease IS NOT NULL",
    # A row without a value is a deletion.
    """CREATE TABLE history (
        revision INTEGER NOT NULL CHECK (typeof(revision) = 'integer'),
        position INTEGER NOT NULL CHECK (typeof(position) = 'integer'),
        key BLOB NOT NULL CHECK (typeof(key) = 'blob'),
        value BLOB CHECK (typeof(value) IN ('blob', 'null')),
        create_revision INTEGER NOT NULL CHECK (typeof(create_revision) = 'integer'),
        version INTEGER NOT NULL CHECK (typeof(version) = 'integer'),
        lease INTEGER CHECK (typeof(lease) IN ('integer', 'null')),
        PRIMARY KEY (revision, position))""",
    # AUTOINCREMENT: the number of a dead lease never comes back.
    """CREATE TABLE leases (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        ttl_ns INTEGER NOT NULL CHECK (typeof(ttl_ns) = 'integer'),
        deadline_ns INTEGER NOT NULL CHECK (typeof(deadline_ns) = 'integer'))""",
    "CREATE INDEX leases_by_deadline ON leases (deadline_ns)",
    # As a new etcd: 0 is no revision of any store.
    "INSERT INTO state VALUES (1, 1, 0, 0, 0, 0)",
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)


def open_connection(path: Path) -> sqlite3.Connection:
    """Open the registry file at `path`, or make it.

    Raises RegistryError: "denied" for a file that must not be believed or is not a registry this version knows,
    "unavailable" when it cannot be read and written or is damaged. Raises sqlite3.OperationalError with SQLITE_BUSY
    while another process holds the file; try again.
    """
    try:
        _refuse_what_others_can_write(path)
    except OSError as error:
        raise RegistryError(
            f"The registry file {path} cannot be opened",
            error.strerror or str(error),
            f"make its folder and let this user write there: mkdir -p -m 700 {_quoted(path.parent)}",
        ) from error
    try:
        connection = sqlite3.connect(path, timeout=LOCK_WAIT_S, isolation_level=None, check_same_thread=False)
    except sqlite3.Error as error:
        raise explain(path, error) from error
    try:
        _prepare(connection, path)
    except sqlite3.Error as error:
        connection.close()
        if is_busy(error):
            raise
        raise explain(path, error) from error
    except BaseException:
        connection.close()
        raise
    return connection


def is_busy(error: sqlite3.Error) -> bool:
    """Tell whether another process holds a lock, so that trying again may help."""
    return _code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def explain(path: Path, error: sqlite3.Error) -> RegistryError:
    """Return what SQLite says as three lines. Never raises."""
    code = _code(error)
    if is_busy(error):
        return RegistryError(
            f"The registry file {path} is locked",
            "another program has held it for too long, and not to write one transaction",
            f"find and stop it: fuser -v {_quoted(path)}",
        )
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CONSTRAINT):
        return damaged(path, str(error))
    if code == sqlite3.SQLITE_FULL:
        return RegistryError(
            f"The registry file {path} cannot grow",
            f"the disk is full ({error})",
            f"make room: df -h {_quoted(path.parent)}",
        )
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH):
        return RegistryError(
            f"The registry file {path} cannot be written",
            f"this user may not, or the file system is mounted read-only ({error})",
            f"let this user write the file and its folder: ls -la {_quoted(path.parent)}",
        )
    return RegistryError(
        f"The registry file {path} cannot be used",
        f"{error}",
        f"look at the disk and the kernel's log: df -h {_quoted(path)}; dmesg",
    )


def damaged(path: Path, why: str) -> RegistryError:
    """Return the error of a file that is not what SQLite or we wrote."""
    return RegistryError(
        f"The registry file {path} is damaged",
        why,
        "stop the nodes that use it, move it away and start them again, they register anew:"
        f" mv {_quoted(path)} {_quoted(f'{path}.damaged')} && rm -f {_quoted(f'{path}-wal')} {_quoted(f'{path}-shm')}",
    )


def _quoted(path: Path | str) -> str:
    return shlex.quote(str(path))


def _code(error: sqlite3.Error) -> int:
    """Return the primary result code (https://www.sqlite.org/rescode.html); 0 for errors of the binding itself."""
    code: int = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF


def _refuse_what_others_can_write(path: Path) -> None:
    """Check the file and every folder above it. Make the file if it is absent.

    Whoever can write the folder can replace the file, or lay a journal beside it that SQLite would play back. So the
    folder must be ours alone, sticky or not; a folder further up can only be used to swap what is below, which the
    sticky bit forbids.
    """
    folder = path.parent.resolve(strict=True)
    _refuse_writers(folder, "folder", folder.stat(), allowed=0)
    for above in folder.parents:
        _refuse_writers(above, "folder", above.stat(), allowed=stat.S_ISVTX, owned=False)
    with suppress(FileExistsError):
        # No descriptor is opened: closing one would drop the locks that another handle of this process has on the file.
        os.mknod(path, stat.S_IFREG | 0o600)
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode):
        raise _denied(
            f"{path} is not a regular file",
            "a registry is one file, and neither a folder, a link, nor a device",
            "give the path of the file itself",
        )
    _refuse_writers(path, "file", status, allowed=0)


def _refuse_writers(
    path: Path, kind: Literal["file", "folder"], status: os.stat_result, *, allowed: int, owned: bool = True
) -> None:
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not status.st_mode & allowed:
        raise _denied(
            f"The registry {kind} {path} is not safe",
            f"its mode {stat.S_IMODE(status.st_mode):04o} lets others write it, and so pose as any node",
            f"chmod go-w {_quoted(path)}, or put the registry into a folder of its own: mkdir -m 700 FOLDER",
        )
    if owned and status.st_uid not in (0, os.geteuid()):
        raise _denied(
            f"The registry {kind} {path} is not safe",
            f"it belongs to user {status.st_uid}, who could pose as any node",
            f"chown {os.geteuid()} {_quoted(path)}, or run as the user who owns it",
        )


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA cell_size_check = ON")
    # Looked at before anything is written: the file of another program stays as it is. In one transaction: another
    # process may be making the schema just now.
    connection.execute("BEGIN")
    try:
        _is_new(connection, path)
    finally:
        connection.execute("ROLLBACK")
    if connection.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
        raise RegistryError(
            f"The registry file {path} cannot be shared",
            "its file system has no shared memory between processes, as over a network",
            "put the file on a local disk, or use etcd for nodes on several machines",
        )
    # A crash of this program loses nothing; a power cut may lose the newest transactions, never by half. All nodes are
    # on this machine: who knew those revisions went down too, and a watch above the newest revision is refused.
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute(f"PRAGMA journal_size_limit = {WAL_BYTES_KEPT}")
    connection.execute("BEGIN IMMEDIATE")
    try:
        if _is_new(connection, path):
            for statement in _SCHEMA:
                connection.execute(statement)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if verdict != "ok":
        raise damaged(path, f"its check says: {verdict}")
    if connection.execute("SELECT count(*) FROM state").fetchone()[0] != 1:
        raise damaged(path, "it has lost its revision")


def _is_new(connection: sqlite3.Connection, path: Path) -> bool:
    """Tell whether the file is still empty. Raises RegistryError when it is neither that nor a registry of ours."""
    identity = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if not (identity or version or tables):
        return True
    if identity != APPLICATION_ID:
        raise _denied(
            f"{path} is not a registry", "it is the SQLite database of another program", "give the path of another file"
        )
    if version != SCHEMA_VERSION:
        raise _denied(
            f"The registry file {path} has schema {version}",
            f"this version of Holloway knows schema {SCHEMA_VERSION}",
            "run one version of Holloway on all nodes that share the file, or give them another file",
        )
    return False


def _denied(what: str, why: str, fix: str) -> RegistryError:
    return RegistryError(what, why, fix, kind="denied")
