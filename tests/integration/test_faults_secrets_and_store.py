"""Nodes that do not share a secret, and nodes that meet through a store which others write into, too."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

from daemons import HOLLOWAY, Daemon, KeyPair, Peer, two_nodes, wait_until
from namespaces import Namespace, namespaces, needs_namespaces, needs_program, run_in

pytestmark = [needs_namespaces, needs_program("ping", package="iputils-ping")]

QUICK = "rekey_timeout_s = 0.5"
LEASE_S = 2.0
NODES = "/holloway/holloway/nodes/"


def test_wrong_keys_and_passphrases_are_refused_and_told(tmp_path: Path) -> None:
    """a and b have two passphrases; a has a wrong key of c, in the suite that needs no passphrase."""
    with namespaces(3) as (left, right, third):
        a, b = two_nodes(left, right, tmp_path)
        for node, passphrase in ((a, "one"), (b, "another")):
            path = tmp_path / f"{node.name}.pass"
            path.touch(mode=0o600)
            path.write_text(passphrase + "\n")
            node.session = f'{QUICK}\npassphrase_file = "{path}"'
        c = Daemon(name="c", namespace=third, folder=tmp_path, addresses=("10.99.0.3/24",), session=QUICK)
        for node, other, public, address in (
            (a, c, KeyPair.fresh().public, "10.99.0.3/32"),
            (c, a, a.keys.public, "10.99.0.1/32"),
        ):
            endpoint = f"{other.namespace.ipv4}:1099"
            peer = Peer(name=other.name, public=public, allowed=[address], endpoint=endpoint, suite="wireguard")
            node.peers.append(peer)
        for node in (a, b, c):
            node.start(wait=False)
        for node, reason in (
            (a, "handshake_not_authentic"),
            (a, "unknown_peer"),
            (b, "handshake_not_authentic"),
            (c, "bad_mac1"),
        ):
            wait_until(partial(has_dropped, node, reason), reason, of=node)
        assert run_in(left, ["ping", "-c", "1", "-W", "0.3", "10.99.0.2"], check=False).returncode == 1
        for peer in a.status()["peers"]:
            assert peer["state"] in ("down", "handshaking")
            assert peer["last_handshake_s"] is None
        told = run_in(left, [*HOLLOWAY, "status", "-c", str(a.config)], check=False).stdout
        assert "no handshake so far" in told
        assert "handshake_not_authentic" in told
        for node in (a, b, c):
            assert "Traceback" not in node.log


def test_a_store_brings_nodes_together_and_no_writer_of_it_tears_them_apart(tmp_path: Path) -> None:
    with namespaces(3) as (left, right, third):
        store = tmp_path / "net.db"
        a, b = found(left, 1, "a", store), found(right, 2, "b", store)
        a.start(wait=False)
        b.start()
        meet(a, b)

        # A node that was killed takes its record over from its own former life, before the lease has run out.
        b.kill()
        b.start()
        meet(a, b)

        # Whose name or address it is, is decided by the key.
        for other, what in (
            (found(third, 3, "b", store), "the node name b"),
            (found(third, 2, "x", store), "10.99.0.2"),
        ):
            other.folder = tmp_path / other.addresses[0][:9].replace("/", "") / other.name
            other.folder.mkdir(parents=True)
            other.write()
            refused = run_in(third, [*HOLLOWAY, "up", "-c", str(other.config)], check=False)
            assert refused.returncode == 1
            assert [line.split(":")[0] for line in refused.stdout.splitlines()[-3:]] == ["error", "why", "fix"]
            assert "Traceback" not in refused.stdout
            assert what in refused.stdout
            assert "is taken" in refused.stdout

        # Records that no node wrote are refused by name; those of others are unaffected.
        own = [record(store, name) for name in ("a", "b")]
        with writing(store) as (put, _):
            for number, value in enumerate(rubbish(own[1])):
                put(f"rubbish{number}", value)
            put("\x00\n\x7f", b"{}")
            put("mine", json.dumps({**own[0], "name": "mine"}).encode())
        wait_until(lambda: a.status()["drops"].get("record_has_our_key", 0) >= 1, "the last of them", of=a)
        drops = a.status()["drops"]
        assert sum(count for reason, count in drops.items() if reason.startswith("record_")) >= len(rubbish(own[1])) + 2
        assert [peer["name"] for peer in a.status()["peers"]] == ["b"]
        meet(a, b)

        # Leases that somebody ended, and the loss of all history.
        with writing(store) as (_, database):
            database.execute("UPDATE leases SET deadline_ns = 0")
            database.execute("DELETE FROM history")
        wait_until(lambda: record(store, "a") is not None and record(store, "b") is not None, "both records", of=a)
        meet(a, b)
        for node in (a, b):
            assert "failed" not in node.log

        # A store that nobody can read any more: what is known stays known.
        with writing(store) as (_, database):
            database.execute("DELETE FROM state")
        began = time.monotonic()
        while time.monotonic() - began < LEASE_S:
            meet(a, b)
        for node in (a, b):
            assert node.process is not None
            assert node.process.poll() is None, node.log
            assert "is damaged" in node.log
            assert node.stop() == 0


def found(namespace: Namespace, number: int, name: str, store: Path) -> Daemon:
    """A node without a single `[[peer]]`."""
    return Daemon(
        name=name,
        namespace=namespace,
        folder=store.parent,
        addresses=(f"10.99.0.{number}/24", f"fd99::{number}/64"),
        listen=f'advertise = ["{namespace.ipv4}:1099"]',
        session=QUICK,
        extra=f'[registry]\nurl = "sqlite://{store}"\ntrust = "store"\nlease_s = {LEASE_S}\n',
    )


def meet(a: Daemon, b: Daemon) -> None:
    for node, target in ((a, "10.99.0.2"), (b, "fd99::1")):
        wait_until(partial(pings, node.namespace, target), f"{target} to answer", of=node)


def pings(namespace: Namespace, target: str) -> bool:
    return run_in(namespace, ["ping", "-c", "1", "-W", "1", target], check=False).returncode == 0


def has_dropped(node: Daemon, reason: str) -> bool:
    status = node.status()
    return status is not None and reason in status["drops"]


def record(store: Path, name: str) -> dict[str, object]:
    """The record of a node as the store has it."""
    with closing(sqlite3.connect(store, timeout=5)) as database:
        row = database.execute("SELECT value FROM entries WHERE key = ?", ((NODES + name).encode(),)).fetchone()
    found: dict[str, object] = json.loads(row[0]) if row else None
    return found


@contextmanager
def writing(store: Path) -> Iterator[tuple[object, sqlite3.Connection]]:
    """One transaction of somebody who knows the tables: a function that puts a record, and the connection."""
    with closing(sqlite3.connect(store, timeout=5, isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")

        def put(name: str, value: bytes) -> None:
            revision = database.execute("UPDATE state SET revision = revision + 1 RETURNING revision").fetchone()[0]
            key = (NODES + name).encode()
            database.execute(
                "INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?, 1, NULL)", (key, value, revision, revision)
            )
            database.execute("INSERT INTO history VALUES (?, 0, ?, ?, ?, 1, NULL)", (revision, key, value, revision))

        yield put, database
        database.execute("COMMIT")


def rubbish(model: dict[str, object]) -> list[bytes]:
    """Values that no node publishes."""
    like = [
        {"public_key": "!!"},
        {"public_key": "A" * 43 + "="},
        {"endpoints": [["x", 1e400]]},
        {"endpoints": 7},
        {"addresses": ["10.99.0.2/24"] * 5000},
        {"v": -1},
        {"name": "\x1b[31m"},
    ]
    made = [json.dumps({**model, "name": f"rubbish{number}", **change}).encode() for number, change in enumerate(like)]
    return [*made, b"", b"null", b"\xff" * 100, b"[" * 60_000, b"9" * 5000, b'{"v": 1}']
