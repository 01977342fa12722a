"""A live pair of `holloway up` processes under fire: two hundred thousand hostile datagrams, and no harm done."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from daemons import Daemon, Peer, two_nodes, wait_until
from hostile import (
    Attack,
    Seen,
    backlog_drops,
    flood,
    kernel_counters,
    public_key_of,
    sent,
    watching,
)
from namespaces import Namespace, namespaces, needs_namespaces, needs_program, run_in, start_in
from wire import PORT

from holloway.protocols.icmp import parse_echo_reply
from holloway.protocols.packets import destination, source

pytestmark = [needs_namespaces, needs_program("ping", package="iputils-ping")]

RSS_MARGIN_KIB = 5632
"""The memory for runs that is made when first so much waits is 2.6 MiB of it; to keep 40 bytes of each datagram would be more."""
PING_INTERVAL_S = "0.01"
TIMERS = "rekey_after_s = 5.0\nreject_after_s = 20.0\nrekey_timeout_s = 0.5"
# What no log line of a node that is well may say. An endpoint moves only for somebody who proves to be the peer.
TROUBLE = re.compile(
    "failed|Traceback|did not start|restart in|ERROR|CRITICAL|endpoint moved from (?!nowhere)|lost our session"
)
# Drops that are not about what arrived from the network.
OWN_SIDE = re.compile("receive_buffer_full|no_route|not_ip|staging_full|udp_.*|tun_.*")


@dataclass(frozen=True)
class Count:
    """The kernel's counters and the node's, of one moment at which nothing was under way."""

    kernel: Counter[str]
    legitimate: Counter[str]
    drops: Counter[str]
    backlog: int

    @classmethod
    def of(cls, victim: Daemon, others: Sequence[Daemon]) -> Count:
        assert victim.process is not None
        while True:
            before = kernel_counters(victim.process.pid)
            legitimate: Counter[str] = Counter()
            for other in others:
                assert other.process is not None
                legitimate += kernel_counters(other.process.pid)
            drops = Counter(victim.status()["drops"])
            if (kernel := kernel_counters(victim.process.pid)) == before:
                return cls(kernel, legitimate, drops, backlog_drops())


def test_two_hundred_thousand_hostile_datagrams_do_no_harm(tmp_path: Path) -> None:
    with namespaces(4) as (left, right, third, fourth):
        a, b = two_nodes(left, right, tmp_path, session=TIMERS)
        late = newcomer(fourth, b)
        seen = record_a_life(a, b, left)
        assert {data[0] for _, data in seen.datagrams() if data[1:4] == bytes(3)} == {0x21, 0x22, 0x24}
        under_fire(a, b, third, seen, 30_000, seed=1)
        resident = resident_kib(b)
        under_fire(a, b, third, seen, 150_000, seed=2, late=late)
        assert resident_kib(b) - resident < RSS_MARGIN_KIB
        under_fire(b, a, third, seen, 20_000, seed=3, others=[late])
        assert a.process is not None
        assert b.process is not None
        assert a.process.poll() is b.process.poll() is None


def test_a_wireguard_pair_is_no_softer(tmp_path: Path) -> None:
    with namespaces(3) as (left, right, third):
        a, b = two_nodes(left, right, tmp_path, suite="wireguard", session=TIMERS)
        seen = record_a_life(a, b, left)
        under_fire(a, b, third, seen, 10_000, seed=4)


def newcomer(namespace: Namespace, to: Daemon) -> Daemon:
    """A node that may call `to`, and has not yet."""
    late = Daemon(
        name="late", namespace=namespace, folder=to.folder, addresses=("10.99.0.3/24", "fd99::3/64"), session=TIMERS
    )
    late.peers.append(
        Peer(
            name=to.name,
            public=to.keys.public,
            allowed=("10.99.0.2/32", "fd99::2/128"),
            endpoint=f"{to.namespace.ipv4}:{PORT}",
        )
    )
    to.peers.append(Peer(name="late", public=late.keys.public, allowed=("10.99.0.3/32", "fd99::3/128")))
    return late


def record_a_life(a: Daemon, b: Daemon, left: Namespace) -> Seen:
    """Start the pair and record what it says: handshakes, traffic, and where the suite has them resets.

    `b` cannot call, so `a` makes every handshake and `b` has seen the newest of them; and `b` dies once in between.
    """
    b.peers[0].endpoint = None
    with watching(left, "eth0") as seen:
        b.start(wait=False)
        a.start()
        a.wait_for_session("b")
        run_in(left, ["ping", "-q", "-c", "100", "-i", "0.005", "-W", "3", "10.99.0.2"])
        if a.peers[0].suite == "aes-gcm":
            b.kill()
            b.start()
            wait_until(
                lambda: run_in(left, ["ping", "-c1", "-W1", "10.99.0.2"], check=False).returncode == 0, "a ping", of=a
            )
        run_in(left, ["ping", "-q", "-c", "50", "-i", "0.005", "-W", "3", "10.99.0.2"])
    return seen


def under_fire(
    peer: Daemon,
    victim: Daemon,
    third: Namespace,
    seen: Seen,
    count: int,
    *,
    seed: int,
    late: Daemon | None = None,
    others: Sequence[Daemon] = (),
) -> None:
    """Attack `victim` while a ping runs between the two, and hold both to everything they promise."""
    attack = Attack(seen.datagrams(), victim.namespace.ipv4, public_key_of(victim.keys.public), seed)
    datagrams = list(attack.datagrams(count))
    logged = {daemon.name: len(daemon.log) for daemon in (peer, victim)}
    assert victim.process is not None
    target = "10.99.0.2" if victim.name == "b" else "10.99.0.1"
    with watching(victim.namespace, "hw0") as inner:
        received = victim.peer(peer.name)["rx"]["packets"]
        before = Count.of(victim, [peer, *others])
        pinging = start_in(peer.namespace, ["ping", "-i", PING_INTERVAL_S, target], stdout=subprocess.PIPE)
        flooding = flood(
            third,
            datagrams,
            victim.folder,
            pid=victim.process.pid,
            target=victim.namespace,
            impostor=peer.namespace.ipv4,
        )
        if late is not None:
            late.start()
            late.wait_for_session(victim.name)
            assert flooding.poll() is None, "the flood was over before the newcomer's handshake"
        result = sent(flooding)
        time.sleep(0.2)
        pinging.send_signal(signal.SIGINT)
        answered = {int(number) for number in re.findall(r"icmp_seq=(\d+)", pinging.communicate()[0])}
        after = Count.of(victim, [peer, *others, *([late] if late else [])])
        received = victim.peer(peer.name)["rx"]["packets"] - received

    # Every datagram is accounted for: read by us, or lost in the kernel where the kernel says so.
    kernel, legitimate = after.kernel - before.kernel, after.legitimate - before.legitimate
    drops = after.drops - before.drops
    arrived = kernel["UdpInDatagrams"] + kernel["Udp6InDatagrams"]
    overflowed = kernel["UdpRcvbufErrors"] + kernel["Udp6RcvbufErrors"]
    spoken = legitimate["UdpOutDatagrams"] + legitimate["Udp6OutDatagrams"]
    backlog = after.backlog - before.backlog
    told = f"{result} arrived {arrived} overflowed {overflowed} spoken {spoken} backlog {backlog} {drops} {kernel}"
    print(told)  # for whoever asks with -s
    assert result["sent"] == count, told
    assert overflowed == drops["receive_buffer_full"], told
    assert 0 <= count + spoken - arrived - overflowed <= backlog, told

    # Each that was read has its reason. A true handshake may be asked for a cookie, and then it has one too.
    reasons = Counter({reason: number for reason, number in drops.items() if not OWN_SIDE.fullmatch(reason)})
    handshakes = sum(daemon.log[logged[daemon.name] :].count("handshake begun") for daemon in (peer, victim))
    handshakes += late.log.count("handshake begun") if late else 0
    refused = reasons.total() - (arrived - spoken)
    # A true initiation that a cookie was asked for in an earlier round may be replayed now and answered: it is new to us.
    postponed = (
        sum(daemon.log.count("handshake begun") for daemon in (peer, victim)) if before.drops["cookie_required"] else 0
    )
    assert -postponed <= refused <= handshakes + backlog, told

    # Nothing of it came in: the device saw pings and no more, and as many as were counted.
    ours, theirs = socket.inet_aton(target), socket.inet_aton("10.99.0.1" if victim.name == "b" else "10.99.0.2")
    for packet in inner.incoming:
        assert (source(packet), destination(packet), packet[9]) == (theirs, ours, socket.IPPROTO_ICMP)
        assert parse_echo_reply(packet) is None
    assert len(inner.incoming) == received

    # And nobody was troubled.
    lost = set(range(1, max(answered) + 1)) - answered
    assert len(lost) <= backlog, f"pings lost: {sorted(lost)}; {told}"
    for daemon in (peer, victim):
        assert not TROUBLE.search(daemon.log[logged[daemon.name] :]), daemon.log[logged[daemon.name] :]


def resident_kib(daemon: Daemon) -> int:
    assert daemon.process is not None
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{daemon.process.pid}/status").read_text())
    assert found is not None
    return int(found[1])
