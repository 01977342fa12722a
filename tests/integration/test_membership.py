"""From nothing to an encrypted network: `init`, `join` and `up` in namespaces, with a real etcd and with a file.

What whoever owns the store can do is in `test_authority_membership`.
"""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from daemons import HOLLOWAY, wait_until
from etcd_certificates import Authority
from machines import Machine, meet
from namespaces import Namespace, namespaces, needs_namespaces, needs_program, run_in, start_in
from node_world import validate

pytestmark = [needs_namespaces, needs_program("ping", package="iputils-ping")]
needs_etcd = needs_program("etcd", package="etcd-server")

CUT_S = 5.0


@contextmanager
def secured_etcd(host: Namespace, folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """An etcd of this host, which wants TLS and certificates of everybody, and its URL."""
    authority = Authority(folder)
    server, server_key = authority.issue(folder / "server", addresses=[host.ipv4])
    client, client_key = authority.issue(folder / "client")
    process = start_in(
        host,
        [
            "etcd",
            f"--data-dir={folder / 'data'}",
            f"--listen-client-urls=https://{host.ipv4}:2379",
            f"--advertise-client-urls=https://{host.ipv4}:2379",
            "--listen-peer-urls=http://127.0.0.1:2380",
            f"--cert-file={server}",
            f"--key-file={server_key}",
            "--client-cert-auth",
            f"--trusted-ca-file={authority.path}",
            "--log-level=error",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    yield process, f"etcd://{host.ipv4}:2379/test?ca={authority.path}&cert={client}&key={client_key}"


@needs_etcd
def test_a_network_over_etcd_with_tls_survives_its_outage_and_loses_who_is_revoked(tmp_path: Path) -> None:
    with namespaces(3) as (store, left, right), secured_etcd(store, tmp_path) as (etcd, url):
        a, b = Machine(left, "a", tmp_path), Machine(right, "b", tmp_path)
        began = time.monotonic()
        meet(a, b, registry=url)
        assert time.monotonic() - began < 60
        assert a.pings(b.address(6))
        # The files that reach the store have travelled in the token, to where nobody else may read them.
        assert (tmp_path / "b" / "registry-key").stat().st_mode & 0o077 == 0

        etcd.send_signal(signal.SIGSTOP)
        pings = ["ping", "-c", "60", "-i", "0.1", "-W", "5", b.address()]
        lost = run_in(left, pings, timeout=30).stdout
        assert " 0% packet loss" in lost, lost
        # Whoever was in the network meets the others again without it.
        b.kill()
        b.up()
        wait_until(lambda: a.pings(b.address()), "a to reach b without the store")
        etcd.send_signal(signal.SIGCONT)
        wait_until(lambda: b.status()["node"]["registry"]["in_touch"], "b to be in touch again", timeout=30)

        a.run("revoke", "b")
        revoked_at = time.monotonic()
        while a.pings(b.address(), "-W", "0.3"):
            assert time.monotonic() - revoked_at < CUT_S
        assert a.status()["node"]["registry"]["refused"] == {"b": "record_revoked"}
        b.kill()
        b.up()
        time.sleep(1)
        assert not a.pings(b.address())


def test_nodes_of_one_machine_need_no_etcd(tmp_path: Path) -> None:
    with namespaces(3) as (one, two, three):
        a, b, c = (Machine(each, name, tmp_path) for each, name in ((one, "a"), (two, "b"), (three, "c")))
        meet(a, b, c, registry=f"sqlite://{tmp_path / 'net.db'}")
        assert [each.address() for each in (a, b, c)] == ["10.99.4.1", "10.99.4.2", "10.99.4.3"]
        assert "node b was let in" in a.log


def test_joining_without_the_authority_waits_and_then_says_what_to_do(tmp_path: Path) -> None:
    with namespaces(2) as (one, two):
        a, b = Machine(one, "a", tmp_path), Machine(two, "b", tmp_path)
        token = a.run("init", "home", "--name", "a", "--registry", f"sqlite://{tmp_path / 'net.db'}")
        done = run_in(
            two,
            [*HOLLOWAY, "join", "-", "--name", "b", "--timeout", "3", *b.state],
            check=False,
            stdin=None,
            input=token,
        )
        assert done.returncode == 124
        assert "waiting for the node that holds the authority's key" in done.stdout
        assert "holloway up" in done.stdout
        a.up()
        validate("join", json.loads(b.run("join", token, "--name", "b", "--timeout", "30", "--json")))
        b.up()
        wait_until(lambda: a.pings(b.address()), "a to reach b")
