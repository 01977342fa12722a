"""Networks whose etcd goes away for a while: nobody loses a packet, nobody burns a processor, and all know each other soon after.

a holds the authority's key, a and b ping each other a hundred times a second, c has nothing to do: what it spends is what
following etcd costs. The quick ones are in `actors/test_etcd_mishaps` and `test_membership`.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from daemons import wait_until
from etcd_hosts import RUN_PREFIX, EtcdHost, Pings, etcd_host
from machines import Machine, meet
from namespaces import namespaces, needs_namespaces, needs_program, run_in

pytestmark = [
    pytest.mark.soak,
    needs_namespaces,
    needs_program("etcd", package="etcd-server"),
    needs_program("etcdctl", package="etcd-client"),
    needs_program("nft", package="nftables"),
    needs_program("ping", package="iputils-ping"),
]

OUTAGE_S = 30.0
LONG_OUTAGE_S = 600.0
HEALED_S = 5.0
CPU_SHARE = 0.01
TOKEN_S = 3
FLOOD_KEYS = 10_000
FLOOD_CPU_S = 5.0
FLOOD_MB = 50.0
FLOOD_BYTES = 500
PLACES = ("nodes/flood{}", "floating/flood{}", "addresses/flood{}", "enrol/{:032x}", "renew/flood{}")
COUNTED = ("record_not_json", "record_too_big", "floating_not_in_range", "address_claim_ignored")


class Trial:
    """A network, the pings that cross it, and what one outage came to."""

    def __init__(self, etcd: EtcdHost, machines: list[Machine], folder: Path, title: str) -> None:
        self.etcd, self.machines, self.folder, self.title = etcd, machines, folder, title
        self.a, self.b, self.c = machines[:3]
        self.pings = Pings(self.a.namespace, self.b.address(), folder)
        self._told: list[str] = []

    def is_right(self, *names: str) -> bool:
        """Whether these, or all three, know each other and are in the registry."""
        members = [each for each in self.machines if each.name in (names or ("a", "b", "c"))]
        return all(
            each.registry().get("in_touch")
            and not each.registry()["refused"]
            and each.peers() == {other.name for other in members if other is not each}
            for each in members
        ) and {each.name for each in members} <= self.etcd.keys("nodes/")

    def heals(self, *names: str, what: str = "healed", within_s: float = HEALED_S) -> None:
        took = wait_until(lambda: self.is_right(*names), what, timeout=within_s)
        self._told.append(f"{what} after {took:.1f} s")

    @contextmanager
    def spending_little(self) -> Iterator[None]:
        """c, which has nothing to do, must not spend more than its share meanwhile."""
        began, cpu = time.monotonic(), self.c.cpu_s()
        yield
        share = (self.c.cpu_s() - cpu) / (time.monotonic() - began)
        self._told.append(f"{share:.2%} of a core in {time.monotonic() - began:.0f} s")
        assert share < CPU_SHARE

    def end(self) -> None:
        sent, lost = self.pings.end()
        print(f"\n{self.title}: {lost} of {sent} pings lost; " + "; ".join(self._told))
        assert lost == 0
        for each in self.machines:
            assert "Traceback" not in each.log


@contextmanager
def trial(
    tmp_path: Path, title: str, *extra: str, members: int = 1, spare: int = 0, users: bool = False
) -> Iterator[Trial]:
    """Three machines that have met, and `spare` more that have not."""
    with namespaces(4 + spare) as (store, *hosts), etcd_host(store, "trial", members, *extra) as etcd:
        url = etcd.url(tmp_path if users else None)
        if users:
            etcd.enable_users()
        machines = [Machine(each, name, tmp_path) for each, name in zip(hosts, "abcd", strict=False)]
        meet(*machines[:3], registry=url)
        made = Trial(etcd, machines, tmp_path, title)
        wait_until(made.is_right, "all to be in the registry")
        yield made
        made.end()


def test_etcd_stands_still(tmp_path: Path) -> None:
    with trial(tmp_path, "SIGSTOP") as it:
        with it.etcd.frozen(), it.spending_little():
            time.sleep(OUTAGE_S)
            assert not it.a.registry()["in_touch"]
        it.heals()


def test_etcd_is_killed_and_comes_back(tmp_path: Path) -> None:
    with trial(tmp_path, "SIGKILL") as it:
        with it.spending_little():
            it.etcd.kill(it.etcd.members[0])
            time.sleep(OUTAGE_S)
            assert not it.a.registry()["in_touch"]
        it.etcd.start(it.etcd.members[0])
        wait_until(it.etcd.is_healthy, "etcd to be healthy")
        it.heals()


def test_a_node_is_cut_off_while_others_come_and_go_and_history_is_forgotten(tmp_path: Path) -> None:
    with trial(tmp_path, "DROP", spare=1) as it:
        store, d = it.etcd.host.ipv4, it.machines[3]
        token = it.a.run("invite")
        cut = f"add table ip cut; add chain ip cut out {{ type filter hook output priority 0; }}; \
            add chain ip cut in {{ type filter hook input priority 0; }}; \
            add rule ip cut out ip daddr {store} drop; add rule ip cut in ip saddr {store} drop"
        for each in (it.b, it.c):
            run_in(each.namespace, ["nft", cut])
        with it.spending_little():
            d.run("join", token, "--name", "d", "--timeout", "30")
            d.up()
            it.a.run("revoke", "c")
            wait_until(lambda: "c" not in it.a.peers(), "a to be without c")
            it.etcd.ctl("del", "--prefix", "/trial/holloway/home/nodes/c")
            time.sleep(OUTAGE_S)
            it.etcd.compact()
            assert {"c"} <= it.b.peers()
            assert "d" not in it.b.peers()
            assert it.etcd.keys("nodes/") == {"a", "d"}, "the lease of b has run out"
        for each in (it.b, it.c):
            run_in(each.namespace, ["nft", "delete table ip cut"])
        it.heals("a", "b", "d")
        assert not it.c.registry()["in_touch"]


def test_the_leader_is_killed(tmp_path: Path) -> None:
    with trial(tmp_path, "leader killed", members=3) as it:
        leader = it.etcd.leader()
        with it.spending_little():
            it.etcd.kill(leader)
            it.heals(what="in touch with the rest", within_s=3 * HEALED_S)
            it.etcd.ctl("del", "--prefix", "/trial/holloway/home/nodes/")
            it.heals(what="records put back")
            time.sleep(OUTAGE_S)
        assert it.is_right()
        it.etcd.start(leader)
        wait_until(it.etcd.is_healthy, "all members to be healthy")
        # And now the connections of the nodes are held by others: each member in turn goes away.
        for member in it.etcd.members:
            it.etcd.kill(member)
            time.sleep(1)
            it.heals(what=f"without {member.name}", within_s=3 * HEALED_S)
            it.etcd.start(member)
            wait_until(it.etcd.is_healthy, "all members to be healthy")


def test_leases_are_revoked(tmp_path: Path) -> None:
    with trial(tmp_path, "lease revoke") as it, it.spending_little():
        for round_ in range(3):
            before = it.etcd.leases()
            assert len(before) >= 3
            for lease in before:
                it.etcd.ctl("lease", "revoke", lease, check=False)
            it.heals(what=f"round {round_}")
            assert not set(before) & set(it.etcd.leases())
        time.sleep(OUTAGE_S)


@pytest.mark.parametrize("how", ["simple", "jwt"])
def test_logins_run_out(tmp_path: Path, how: str) -> None:
    token = ["--auth-token=simple", f"--auth-token-ttl={TOKEN_S}"]
    if how == "jwt":
        key = tmp_path / "jwt.key"
        make_key_pair(key)
        token = [f"--auth-token=jwt,pub-key={key}.pub,priv-key={key},sign-method=RS256,ttl={TOKEN_S}s"]
    with trial(tmp_path, f"logins by {how}, good for {TOKEN_S} s", *token, spare=1, users=True) as it:
        invitation = it.a.run("invite")
        with it.spending_little():
            time.sleep(OUTAGE_S)
        assert it.is_right()
        for each in it.machines[:3]:
            assert "in touch again" not in each.log
            assert "trying again" not in each.log
        # What was watched all the time is still told.
        d = it.machines[3]
        d.run("join", invitation, "--name", "d", "--timeout", "30")
        d.up()
        it.heals("a", "b", "c", "d", what="knew the newcomer")


def make_key_pair(key: Path) -> None:
    subprocess.run(["openssl", "genrsa", "-out", str(key), "2048"], check=True, capture_output=True)
    subprocess.run(
        ["openssl", "rsa", "-in", str(key), "-pubout", "-out", f"{key}.pub"], check=True, capture_output=True
    )


def test_etcd_is_away_for_ten_minutes_and_a_node_restarts_meanwhile(tmp_path: Path) -> None:
    with trial(tmp_path, "ten minutes") as it:
        with it.spending_little():
            it.etcd.kill(it.etcd.members[0])
            time.sleep(LONG_OUTAGE_S / 2)
        # It has no store to ask, and meets those whom it knew.
        it.c.kill()
        it.c.up()
        took = wait_until(lambda: it.c.pings(it.a.address()), "c to reach a")
        took += wait_until(lambda: it.b.pings(it.c.address()), "b to reach c")
        print(f"\nrestarted without the store: met the others within {took:.1f} s")
        assert it.c.peers() == {"a", "b"}
        with it.spending_little():
            time.sleep(LONG_OUTAGE_S / 2)
        assert not it.c.registry()["in_touch"]
        it.etcd.start(it.etcd.members[0])
        wait_until(it.etcd.is_healthy, "etcd to be healthy")
        it.heals()


def test_somebody_fills_the_store_with_keys(tmp_path: Path) -> None:
    """Ten thousand, under every kind that has many. Nobody loses a packet, and a machine that joins meanwhile gets in."""
    with trial(tmp_path, f"{FLOOD_KEYS} keys", spare=1) as it, flooded(it, FLOOD_KEYS, FLOOD_BYTES):
        d, token = it.machines[3], it.a.run("invite")
        began = time.monotonic()
        d.run("join", token, "--name", "d", "--timeout", "300")
        print(f"\nd joined within {time.monotonic() - began:.0f} s")
        d.up()
        wait_until(lambda: it.a.peers() == {"b", "c", "d"}, "a to know d")


@contextmanager
def flooded(it: Trial, keys: int, value_bytes: int) -> Iterator[None]:
    """So many keys, and what c spends on them in the end."""
    before_mb, cpu, began = it.c.memory_mb(), it.c.cpu_s(), time.monotonic()
    pour(it.etcd, keys, value_bytes)
    poured_s = time.monotonic() - began
    wait_until(
        lambda: sum(it.c.asked()["drops"].get(each, 0) for each in COUNTED) > keys / 2, "c to see it", timeout=60
    )
    yield
    spent_s, peak_mb = it.c.cpu_s() - cpu, it.c.peak_mb()
    print(
        f"\nwritten in {poured_s:.0f} s; c spent {spent_s:.1f} s of processor time in {time.monotonic() - began:.0f} s,"
        f" and {peak_mb:.0f} MiB at most, {before_mb:.0f} before"
    )
    assert spent_s < FLOOD_CPU_S
    assert peak_mb < before_mb + FLOOD_MB


def pour(etcd: EtcdHost, keys: int, value_bytes: int) -> None:
    """Fill the store, by many puts in each call."""
    value = "x" * value_bytes
    at_once = max(1, min(100, 1_000_000 // value_bytes))
    for first in range(0, keys, at_once):
        names = [PLACES[number % len(PLACES)].format(number) for number in range(first, first + at_once)]
        puts = "\n".join(f"put {RUN_PREFIX}/holloway/home/{key} {value}" for key in names)
        etcd.transact(puts)
