"""The registry's file: who may have written it, what is wrong with it, and what the disk may do."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
import trio
from registry_back_ends import refused

from holloway.actors.registry import Limits, RegistryPort
from holloway.actors.registry.sqlite import open_sqlite
from holloway.actors.registry.sqlite_opening import SCHEMA_VERSION
from holloway.protocols.errors import RegistryError

IS_ROOT = os.geteuid() == 0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "registry"
    folder.mkdir(mode=0o700)
    return folder / "net.db"


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[RegistryPort]:
    async with open_sqlite(path, wall_ns=time.time_ns) as registry:
        yield registry


def fill(path: Path, keys: int = 200) -> None:
    async def main() -> None:
        async with opened(path) as registry:
            for number in range(keys):
                await registry.put(b"%d" % number, bytes(1000))

    trio.run(main)


def keys_of(path: Path) -> list[bytes]:
    async def main() -> list[bytes]:
        async with opened(path) as registry:
            return list((await registry.snapshot(b"")).entries)

    return trio.run(main)


@contextmanager
def raw(path: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(path, isolation_level=None)
    yield connection
    connection.close()


def refusal(path: Path) -> RegistryError:
    with pytest.raises(RegistryError) as caught:
        keys_of(path)
    assert all((caught.value.what, caught.value.why, caught.value.fix))
    return caught.value


# Who may have written it.


async def test_new_file_and_its_companions_are_for_their_owner_alone(path: Path) -> None:
    old = os.umask(0)
    try:
        async with opened(path) as registry:
            await registry.put(b"k", b"v")
            modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in os.scandir(path.parent)}
    finally:
        os.umask(old)
    assert modes == {"net.db": 0o600, "net.db-wal": 0o600, "net.db-shm": 0o600}


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_file_that_others_can_write_is_refused_until_the_fix_is_run(path: Path, mode: int) -> None:
    fill(path, 1)
    path.chmod(mode)
    error = refusal(path)
    assert error.kind == "denied"
    assert str(path) in error.what
    subprocess.run(error.fix.partition(", or ")[0], shell=True, check=True)
    fill(path, 1)


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o1777])
def test_folder_that_others_can_write_is_refused_and_stays_empty(path: Path, mode: int) -> None:
    path.parent.chmod(mode)
    error = refusal(path)
    assert error.kind == "denied"
    assert str(path.parent) in error.what
    assert list(path.parent.iterdir()) == []
    subprocess.run(error.fix.partition(", or ")[0], shell=True, check=True)
    fill(path, 1)


@pytest.mark.parametrize(("mode", "is_safe"), [(0o777, False), (0o1777, True), (0o755, True)])
def test_folder_further_up_may_be_written_by_others_only_if_sticky(path: Path, mode: int, is_safe: bool) -> None:
    path.parent.parent.chmod(mode)
    if is_safe:
        fill(path, 1)
    else:
        assert (refusal(path)).kind == "denied"


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, lambda path: os.symlink("/elsewhere", path)])
def test_what_is_no_regular_file_is_refused(path: Path, make: Callable[[Path], None]) -> None:
    make(path)
    assert (refusal(path)).kind == "denied"


@pytest.mark.skipif(not IS_ROOT, reason="gives a file to another user, which needs root")
@pytest.mark.parametrize("of", ["file", "folder"])
def test_file_or_folder_of_another_user_is_refused(path: Path, of: str) -> None:
    fill(path, 1)
    os.chown(path if of == "file" else path.parent, 12345, -1)
    error = refusal(path)
    assert error.kind == "denied"
    assert "12345" in error.why


def test_missing_folder_is_named_with_the_command_that_makes_it(path: Path) -> None:
    error = refusal(path.parent / "it's new" / "net.db")
    assert error.kind == "unavailable"
    subprocess.run(error.fix.partition(": ")[2], shell=True, check=True)
    fill(path.parent / "it's new" / "net.db", 1)


# What is wrong with it.


@pytest.mark.parametrize("version", [0, SCHEMA_VERSION])
def test_database_of_another_program_is_refused_and_not_touched(path: Path, version: int) -> None:
    with raw(path) as connection:
        connection.execute("CREATE TABLE state (one)")
        connection.execute(f"PRAGMA user_version = {version}")
    path.chmod(0o600)
    before = path.read_bytes()
    assert (refusal(path)).kind == "denied"
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_schema_of_another_version_is_refused(path: Path) -> None:
    fill(path, 1)
    with raw(path) as connection:
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    error = refusal(path)
    assert error.kind == "denied"
    assert f"schema {SCHEMA_VERSION + 1}" in error.what


def overwrite_header(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"not SQLite at all")


def overwrite_pages(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(8192)
        file.write(os.urandom(40_000))


def cut_short(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def break_a_type(path: Path) -> None:
    with raw(path) as connection:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        connection.execute("UPDATE entries SET version = 'many' WHERE key = CAST('7' AS BLOB)")


def drop_a_table(path: Path) -> None:
    with raw(path) as connection:
        connection.execute("DROP TABLE leases")


def lose_the_state(path: Path) -> None:
    with raw(path) as connection:
        connection.execute("DELETE FROM state")


@pytest.mark.parametrize(
    "damage", [overwrite_header, overwrite_pages, cut_short, break_a_type, drop_a_table, lose_the_state]
)
def test_damaged_file_is_named_when_opened_with_commands_that_mend_it(
    path: Path, damage: Callable[[Path], None]
) -> None:
    fill(path)
    damage(path)
    error = refusal(path)
    assert error.kind == "unavailable"
    assert str(path) in error.what
    assert "damaged" in error.what
    subprocess.run(error.fix.partition(": ")[2], shell=True, check=True)
    assert keys_of(path) == []


async def test_file_damaged_while_open_is_reported_and_not_believed(path: Path) -> None:
    await trio.to_thread.run_sync(fill, path)
    async with opened(path) as registry:
        overwrite_pages(path)
        with raw(path) as other:  # a change by somebody else: SQLite reads again what it had in memory
            other.execute("UPDATE state SET history_bytes = history_bytes + 1")
        with refused("unavailable"):
            await registry.snapshot(b"")


@pytest.mark.parametrize("damage", ["DELETE FROM state", "UPDATE state SET revision = 'x', compacted = 'w'"])
async def test_a_state_that_somebody_spoilt_is_damage_and_no_crash(path: Path, damage: str) -> None:
    async with opened(path) as registry:
        revision = (await registry.put(b"k", b"v")).revision
        with raw(path) as other:
            other.execute("PRAGMA ignore_check_constraints = ON")
            other.execute(damage)
        with refused("unavailable"):
            await registry.snapshot(b"")
        with refused("unavailable"):
            await registry.put(b"k", b"w")
        with refused("unavailable"):
            async with registry.watch(b"", revision) as watch:
                await watch.receive()


@pytest.mark.parametrize("how", ["deleted", "replaced"])
async def test_handle_on_a_file_that_was_deleted_or_replaced_says_so(path: Path, how: str) -> None:
    async with opened(path) as registry:
        start = (await registry.put(b"k", b"v")).revision
        async with registry.watch(b"", start) as watch:
            shutil.copy(path, f"{path}.new")
            if how == "deleted":
                os.unlink(path)
            else:
                os.replace(f"{path}.new", path)
            with refused("unavailable"):
                await watch.receive()
            with refused("unavailable"):
                await registry.put(b"k", b"lost")


# What the disk may do.


def test_full_disk_makes_it_unavailable_and_loses_nothing_that_was_said_to_be_done(path: Path) -> None:
    writer = """
import resource, sys, time, trio
from pathlib import Path
from holloway.actors.registry.sqlite import open_sqlite
from holloway.actors.registry.sqlite_opening import SCHEMA_VERSION
from holloway.protocols.errors import RegistryError
async def main():
    async with open_sqlite(Path(sys.argv[1]), wall_ns=time.time_ns) as registry:
        lease = await registry.grant(60.0)
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
        done = 0
        try:
            for done in range(1000):
                await registry.put(b"%d" % done, bytes(10_000), lease=lease.id)
        except RegistryError as error:
            print(done, error.kind, len((await registry.snapshot(b"")).entries))
trio.run(main)
"""
    ran = subprocess.run([sys.executable, "-c", writer, os.fspath(path)], capture_output=True, check=True)
    done, kind, readable = ran.stdout.split()
    assert kind == b"unavailable"
    assert int(done) > 3
    assert done == readable
    assert keys_of(path) == sorted(b"%d" % number for number in range(int(done)))


async def test_file_above_the_bound_of_one_process_can_be_made_smaller_by_it(path: Path) -> None:
    await trio.to_thread.run_sync(fill, path, 20)
    async with open_sqlite(path, wall_ns=time.time_ns, limits=Limits(store_bytes=5_000)) as registry:
        with refused("unavailable"):
            await registry.put(b"more", b"")
        assert (await registry.put(b"7", b"")).succeeded
        assert (await registry.delete(b"8")).succeeded


def test_file_that_cannot_be_written_is_unavailable() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.db"
        fill(path, 1)
        path.chmod(0o444)
        os.chmod(folder, 0o555)  # or its owner might make the log anew
        if IS_ROOT:  # whom modes do not stop: look as somebody else
            os.seteuid(65534)
        try:
            error = refusal(path)
        finally:
            if IS_ROOT:
                os.seteuid(0)
            os.chmod(folder, 0o755)
        assert error.kind == "unavailable"
        assert str(path) in error.what
