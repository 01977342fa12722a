"""A network under attack, for many tests one after the other: real nodes over a real etcd, an attacker who owns it, and what he
must never get.

    a founded the network and has its authority's key; a and b talk all the time; c is one of them, and the attacker's friend;
    d is one that restarts; e was one of them and was revoked; mallory is a node of the attacker's, on his own machine, who calls himself b.

The network lives in a thread of its own, so that it is made once. Not responsible for the attacks.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_network
from pathlib import Path
from typing import Any, TypeVar

import trio
from etcd_network import FOUNDER, MARK, NETWORK, PORT, EtcdNetwork, RealHost, Talk, now, signed, until
from etcd_servers import shared_server

from holloway.actors import (
    Config,
    Endpoint,
    InterfaceConfig,
    ListenConfig,
    Node,
    NodeConfig,
    PeerConfig,
    SessionConfig,
    TimersConfig,
    open_node,
)
from holloway.actors.authority_files import AuthorityFiles
from holloway.actors.enrolled import Enrolled, keep_granted
from holloway.actors.founding import found_network
from holloway.actors.state_directory import StateDirectory
from holloway.protocols.identity import ENTROPY_BYTES, Identity
from holloway.protocols.issuing import SERIAL_ENTROPY_BYTES, Authority
from holloway.protocols.keys import clamp
from holloway.protocols.membership import node_key
from holloway.protocols.network_settings import NetworkSettings

Result = TypeVar("Result")
LAIR = "192.0.2.66"
"""The attacker's machine."""
SOON_S = 10.0
START_S = 30.0


class Stage:
    """See above. Its attributes are used inside `run` alone."""

    net: EtcdNetwork
    talk: Talk
    mallory: Node
    mallorys_key: bytes
    remembered: dict[bytes, bytes]
    """What stood in the store when e was still one of them."""
    elsewhere: Enrolled
    """The attacker's own network, of the same name: b, as its authority says."""
    elsewhere_authority: AuthorityFiles
    usurper: Authority
    """Another authority of the attacker's, to sign with what he likes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ready, self._over = threading.Event(), trio.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._live, daemon=True)

    def run(self, attack: Callable[[Stage], Awaitable[Result]]) -> Result:
        """Let the attack happen, and return what it does."""
        return trio.from_thread.run(attack, self, trio_token=self._token)

    def start(self) -> None:
        self._thread.start()
        assert self._ready.wait(START_S), "the network did not start"
        if self._failure is not None:
            raise self._failure

    def end(self) -> None:
        trio.from_thread.run_sync(self._over.set, trio_token=self._token)
        self._thread.join(START_S)
        if self._failure is not None:
            raise self._failure

    def _live(self) -> None:
        try:
            trio.run(self._main)
        except BaseException as error:
            self._failure = error
        finally:
            self._ready.set()

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        async with EtcdNetwork(self._folder) as self.net, trio.open_nursery() as nursery:
            net = self.net
            await net.joined("b", "c", "d", "e")
            self.remembered = net.held()
            net.put(net.authority.revoke("e", now()))
            await net.stop("e")
            self._make_what_is_foreign()
            self.mallorys_key = clamp(os.urandom(32))
            async with open_node(self._mallory(), ports=RealHost(net.wire, LAIR, answer_pings=True)) as self.mallory:
                self.talk = Talk(net, "a", "b")
                nursery.start_soon(self.talk.go_on)
                self._ready.set()
                await self._over.wait()
            nursery.cancel_scope.cancel()

    def _mallory(self) -> Config:
        """He knows where a is and what its public key is: both stand in the store."""
        a = self.net.nodes[FOUNDER]
        return Config(
            node=NodeConfig(name="b", network=NETWORK),
            interface=InterfaceConfig(name="hw0", addresses=self.net.nodes["b"].config.interface.addresses),
            session=SessionConfig(private_key=self.mallorys_key, timers=TimersConfig(rekey_timeout_s=0.5)),
            listen=ListenConfig(advertise=(Endpoint(LAIR, PORT),)),
            peers=(
                PeerConfig(
                    name=FOUNDER,
                    public_key=a.public_key,
                    allowed=tuple(ip_network(each.ip) for each in a.config.interface.addresses),
                    endpoint=Endpoint(self.net.outer(FOUNDER), PORT),
                    keepalive_s=1,
                ),
            ),
        )

    def _make_what_is_foreign(self) -> None:
        state = StateDirectory(self._folder / "elsewhere")
        state.create()
        settings = NetworkSettings()
        granted = found_network(
            state, NETWORK, settings, name="b", address=None, registry="memory:", entropy=os.urandom, now=now()
        )
        keep_granted(state, granted)
        self.elsewhere_authority = AuthorityFiles(state, NETWORK, os.urandom)
        self.elsewhere = Enrolled(state, NETWORK, now())
        identity = Identity.from_entropy(os.urandom(ENTROPY_BYTES))
        self.usurper = Authority.create(NETWORK, identity, now=now(), serial=os.urandom(SERIAL_ENTROPY_BYTES))

    # What an attack looks like.

    async def refused(self, reason: str, key: bytes, value: bytes, by: str = FOUNDER) -> None:
        """Put a value there: that node counts it as refused for the reason."""
        before = self.net.nodes[by].drops()
        self.net.put({key: value})
        try:
            await until(lambda: self.net.nodes[by].drops()[reason] > before[reason], SOON_S)
        except trio.TooSlowError:
            raise AssertionError(f"{by} counted no {reason}, but {self.net.nodes[by].drops() - before}") from None

    def altered(self, **changes: Any) -> bytes:
        """A record of b's, but for these fields, under the signature that it has."""
        fields = json.loads(self.remembered[node_key(NETWORK, "b")])
        text = json.loads(fields["record"])
        assert changes.keys() <= text.keys() | {"prefixes", "security"}
        fields["record"] = json.dumps({**text, **changes}, separators=(",", ":"))
        return json.dumps(fields, separators=(",", ":")).encode()

    def foreign(self, **changes: Any) -> bytes:
        """The same, well signed by a node that another authority certifies."""
        return signed(self.elsewhere, self.net.said_by("b"), **changes)

    # What must hold after it, and all the time.

    async def nothing_came_of_it(self) -> None:
        """Everybody has everybody, with the right key, addresses and place; no packet was lost or read by anybody else."""
        net = self.net
        await net.all_meet(SOON_S)
        for name, node in net.nodes.items():  # and nobody has anybody else
            await until(lambda: node.roster.plan.peers.keys() == net.nodes.keys() - {name})  # noqa: B023
        await until(self._is_healed, SOON_S)
        assert await self.talk.lost() == 0
        assert not any(MARK in data for data in net.heard)
        (session,) = self.mallory.roster.running.values()
        assert session.session.handshakes_total == 0
        assert session.session.received.packets == 0

    def _is_healed(self) -> bool:
        """Everybody is in the registry, with a record that the others believe."""
        said = [self.net.registry_of(name) for name in self.net.nodes]
        return all(each["in_touch"] and not each["refused"].keys() & self.net.nodes.keys() for each in said)


@contextmanager
def stage(folder: Path) -> Iterator[Stage]:
    """The network, for as long as the context lasts."""
    shared_server()  # here, because it ends with the thread that starts it
    made = Stage(folder)
    made.start()
    try:
        yield made
    finally:
        made.end()
