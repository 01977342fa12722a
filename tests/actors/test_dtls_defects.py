"""Nine ways in which Trio's DTLS lets go of a node when it is used as it comes, and that they do not reach a node of ours.

The first half of each pair shows the defect, so that it is known when it is gone and what was made against it may go, too. The other
half meets the same thing through whole nodes, or through the part that was made against it. Also a canary for what is private.
"""

from __future__ import annotations

import errno
import inspect
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio
from dtls_certificates import Leaf
from dtls_world import DtlsWorld, SpoilingPorts, authority, good, hellos
from node_world import Daemon, crosses, drops, eventually_crosses, name, packet, peer, the_peer
from OpenSSL import SSL, crypto
from trio.testing import MockClock

from holloway.actors.dtls_channel import PRIVATE, QuietConnection
from holloway.actors.dtls_context import CIPHERS, DTLS_1_2, DtlsContext
from holloway.actors.dtls_socket import AssociationSocket, Place

FOR_EVER_S = 200.0
Hook = Callable[[bytes], bytes | None]


def stock_context(leaf: Leaf) -> SSL.Context:
    """As a program would make it that knows nothing."""
    context = SSL.Context(SSL.DTLS_METHOD)
    context.set_min_proto_version(DTLS_1_2)
    context.set_cipher_list(CIPHERS)
    context.use_privatekey(leaf.key)
    context.use_certificate(leaf.certificate)
    store = context.get_cert_store()
    assert store is not None
    store.add_cert(crypto.X509.from_cryptography(authority().certificate))
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, lambda *found: bool(found[4]))
    return context


class Wire:
    """Two endpoints of Trio in one program. `hooks`: what becomes of what one of them sends; None: it is lost."""

    def __init__(self) -> None:
        self.hooks: dict[str, Hook] = {}
        self.sent: dict[str, list[bytes]] = {"a": [], "b": []}
        self.sockets = {side: AssociationSocket(self._sender(side)) for side in "ab"}
        self.endpoints = {side: self.endpoint(side) for side in "ab"}

    def _sender(self, side: str) -> Callable[[bytes, Place], None]:
        def send(datagram: bytes, place: Place) -> None:
            self.sent[side].append(datagram)
            found = self.hooks.get(side, lambda same: same)(datagram)
            if found is not None:
                self.sockets[place[0]].offer(found, (side, 1))

        return send

    def endpoint(self, side: str) -> Any:
        return trio.DTLSEndpoint(self.sockets[side])  # type: ignore[arg-type]

    def restart(self, side: str) -> None:
        self.endpoints[side].close()
        self.sockets[side] = AssociationSocket(self._sender(side))
        self.endpoints[side] = self.endpoint(side)

    def close(self) -> None:
        for endpoint in self.endpoints.values():
            endpoint.close()


async def up(channel: Any, within_s: float = FOR_EVER_S) -> bool:
    """Whether a handshake is complete by then."""
    with trio.move_on_after(within_s), suppress(trio.BrokenResourceError):
        await channel.do_handshake(initial_retransmit_timeout=0.3)
        return True
    return False


async def serving(
    nursery: trio.Nursery, endpoint: Any, leaf: Leaf, *, wrap: Callable[[Any], Any] = lambda connection: connection
) -> list[Any]:
    """Answer at an endpoint; the channels that came, each with its connection in `wrap`."""
    channels: list[Any] = []

    async def handle(channel: Any) -> None:
        channel._ssl = wrap(channel._ssl)
        channels.append(channel)
        with suppress(trio.BrokenResourceError):
            await channel.do_handshake(initial_retransmit_timeout=100.0)
            await trio.sleep_forever()

    await nursery.start(endpoint.serve, stock_context(leaf), handle)
    return channels


# 1. A context can be used once.


async def test_stock_a_context_serves_one_connection() -> None:
    wire, context = Wire(), stock_context(good(1))
    wire.endpoints["a"].connect(("b", 1), context)
    with pytest.raises(ValueError, match="already been used"):
        wire.endpoints["a"].connect(("b", 1), context)
    wire.close()


async def test_our_context_serves_many() -> None:
    wire, context = Wire(), DtlsContext()
    for _ in range(3):
        wire.endpoints["a"].connect(("b", 1), context)
    wire.close()
    with pytest.raises(ValueError, match="already been used"):
        context.set_options(SSL.OP_NO_TLSv1)


# 2. A reply that is read later than OpenSSL waits by its own clock.


class StandsStill:
    """A connection of OpenSSL in a program that stands still once, just before OpenSSL looks at its clock."""

    def __init__(self, connection: Any) -> None:
        self._connection, self.steps = connection, 0

    def __getattr__(self, word: str) -> Any:
        return getattr(self._connection, word)

    def do_handshake(self) -> None:
        self.steps += 1
        if self.steps == 2:
            time.sleep(1.1)
        self._connection.do_handshake()


@pytest.mark.parametrize("is_quiet", [False, True])
async def test_a_late_reply_wedges_the_handshake_unless_the_connection_is_quiet(
    is_quiet: bool, autojump_clock: MockClock
) -> None:
    wire = Wire()
    async with trio.open_nursery() as nursery:

        def wrap(connection: Any) -> Any:
            return QuietConnection(StandsStill(connection)) if is_quiet else StandsStill(connection)

        answered = await serving(nursery, wire.endpoints["b"], good(2), wrap=wrap)
        channel = wire.endpoints["a"].connect(("b", 1), stock_context(good(1)))
        assert await up(channel) is is_quiet
        assert answered[0]._did_handshake  # the one side believes that all is well
        assert bool(answered[0]._final_volley) is is_quiet
        nursery.cancel_scope.cancel()
    wire.close()


# 3. Nobody is told that a certificate was refused.


async def test_stock_a_refused_certificate_is_silence_on_both_sides(autojump_clock: MockClock) -> None:
    wire = Wire()
    foreign = authority("foreign").issue(name(1))
    async with trio.open_nursery() as nursery:
        answered = await serving(nursery, wire.endpoints["b"], good(2))
        assert not await up(wire.endpoints["a"].connect(("b", 1), stock_context(foreign)))
        assert not answered[0]._did_handshake
        nursery.cancel_scope.cancel()
    wire.close()


async def test_ours_says_at_once_on_both_sides(tmp_path: Path, autojump_clock: MockClock) -> None:
    world = DtlsWorld(tmp_path)
    foreign = authority("foreign").issue(name(2), uris=("holloway://holloway/node-2",))
    async with (
        world.node(world.config(1, peer(2, endpoint=False)), world.ports(1)) as a,
        world.node(world.config(2, peer(1), leaf=foreign), world.ports(2)) as b,
    ):
        await trio.sleep(0.5)
        assert drops(a)["dtls_certificate_foreign_authority"] == 1
        assert the_peer(b, 1)["problem"] == "dtls_refused_by_peer (unknown authority)"


# 4. One spoilt datagram spoils the handshake.


class SpoilOneCertificate:
    """Turns a bit in the first datagram that holds a certificate; `at`: where DTLS begins in it."""

    def __init__(self, at: int = 0) -> None:
        self.at, self.spoilt = at, 0

    def __call__(self, datagram: bytes) -> bytes:
        if datagram[self.at + 13 : self.at + 14] != b"\x0b" or self.spoilt:
            return datagram
        self.spoilt += 1
        changed = bytearray(datagram)
        changed[self.at + 60] ^= 0x10
        return bytes(changed)


async def test_stock_a_spoilt_datagram_ends_the_handshake_for_good(autojump_clock: MockClock) -> None:
    wire = Wire()
    wire.hooks["a"] = SpoilOneCertificate()
    async with trio.open_nursery() as nursery:
        await serving(nursery, wire.endpoints["b"], good(2))
        assert not await up(wire.endpoints["a"].connect(("b", 1), stock_context(good(1))))
        nursery.cancel_scope.cancel()
    wire.close()


async def test_ours_makes_another_handshake(tmp_path: Path, autojump_clock: MockClock) -> None:
    world = DtlsWorld(tmp_path)
    spoil = SpoilOneCertificate(at=12)
    right = SpoilingPorts(world.network, 2, spoil)
    async with (
        world.node(world.config(1, peer(2, endpoint=False)), world.ports(1)),
        world.node(world.config(2, peer(1)), right) as b,
    ):
        with trio.fail_after(6):
            await b.connected(name(1))
        assert spoil.spoilt == 1


# 5. An error of the socket ends the program.


def test_stock_a_refused_datagram_ends_the_program() -> None:
    class Refusing(AssociationSocket):
        async def recvfrom(self, size: int) -> tuple[bytes, Place]:
            await trio.lowlevel.checkpoint()
            raise OSError(errno.ECONNREFUSED, "nobody listens there")

    endpoints: list[Any] = []

    async def main() -> None:
        endpoints.append(trio.DTLSEndpoint(Refusing(lambda *_: None)))  # type: ignore[arg-type]
        with trio.move_on_after(1):
            await endpoints[0].connect(("b", 1), stock_context(good(1))).do_handshake()

    with pytest.raises(trio.TrioInternalError):
        trio.run(main)
    endpoints[0].close()


async def test_ours_survives_a_socket_that_breaks(tmp_path: Path, autojump_clock: MockClock) -> None:
    world = DtlsWorld(tmp_path)
    async with world.dtls_pair() as (_, _, left, right):
        left.crash_udp()
        assert await eventually_crosses(left, right, packet(1, 2, 1), within_s=10)


# 6. A hello that nobody has signed tears down what works.


async def test_stock_an_old_hello_ends_a_connection(autojump_clock: MockClock) -> None:
    wire = Wire()
    async with trio.open_nursery() as nursery:
        answered = await serving(nursery, wire.endpoints["b"], good(2))
        assert await up(wire.endpoints["a"].connect(("b", 1), stock_context(good(1))))
        old = [datagram for datagram in wire.sent["a"] if datagram[13:14] == b"\x01"][-1]
        assert await up(wire.endpoints["a"].connect(("b", 1), stock_context(good(1))))
        live = answered[-1]
        wire.sockets["b"].offer(old, ("a", 1))
        with pytest.raises(trio.BrokenResourceError, match="tore down"):
            await live.receive()
        nursery.cancel_scope.cancel()
    wire.close()


async def test_ours_does_not_mind(tmp_path: Path, autojump_clock: MockClock) -> None:
    world = DtlsWorld(tmp_path)
    async with world.dtls_pair() as (a, _, left, right):
        a.roster.running[name(2)].rekey()
        await trio.sleep(1)
        for source, target, hello in hellos(world.wire):
            (left if target[0].endswith(".2") else right).socket.send([hello], target)
            assert source != target
        await trio.sleep(0.5)
        assert await crosses(left, right, packet(1, 2, 1))
        assert await crosses(right, left, packet(2, 1, 1))


# 7. Both dial at once.


async def test_stock_who_dial_each_other_at_once_never_meet(autojump_clock: MockClock) -> None:
    wire, met = Wire(), []

    async def dial(side: str, other: str, leaf: Leaf) -> None:
        met.append(await up(wire.endpoints[side].connect((other, 1), stock_context(leaf))))

    async with trio.open_nursery() as nursery:
        answered = await serving(nursery, wire.endpoints["a"], good(1))
        answered += await serving(nursery, wire.endpoints["b"], good(2))
        async with trio.open_nursery() as dialling:
            dialling.start_soon(dial, "a", "b", good(1))
            dialling.start_soon(dial, "b", "a", good(2))
        nursery.cancel_scope.cancel()
    wire.close()
    assert met == [False, False]


async def test_ours_meet(tmp_path: Path, autojump_clock: MockClock) -> None:
    world = DtlsWorld(tmp_path)
    async with world.dtls_pair() as (a, _, left, right):
        await trio.sleep(1)
        assert the_peer(a, 2)["handshakes"] == 2
        assert await crosses(left, right, packet(1, 2, 1))


# 8. Nobody finds out that the other side has begun again.


async def test_stock_a_restart_of_the_other_side_is_never_noticed(autojump_clock: MockClock) -> None:
    wire = Wire()
    async with trio.open_nursery() as nursery:
        await serving(nursery, wire.endpoints["b"], good(2))
        channel = wire.endpoints["a"].connect(("b", 1), stock_context(good(1)))
        assert await up(channel)
        wire.restart("b")
        await serving(nursery, wire.endpoints["b"], good(2))
        with trio.move_on_after(FOR_EVER_S) as scope:
            nursery.start_soon(channel.receive)
            while True:
                await channel.send(b"is anybody there?")
                await trio.sleep(1)
        assert scope.cancelled_caught
        nursery.cancel_scope.cancel()
    wire.close()


async def test_ours_is_back_soon_though_it_alone_can_dial(tmp_path: Path, autojump_clock: MockClock) -> None:
    world = DtlsWorld(tmp_path)
    left, right = world.ports(1), world.ports(2)
    async with trio.open_nursery() as nursery, world.node(world.config(1, peer(2)), left) as a:
        mortal = Daemon(world, nursery, world.config(2, peer(1, endpoint=False)), right)
        await mortal.start()
        await a.connected(name(2))
        right.socket.vanish()  # so that it can say no farewell
        await mortal.stop()
        await mortal.start()
        assert await eventually_crosses(left, right, packet(1, 2, 1), within_s=5)
        await mortal.stop()


# 9. The end of a handshake, which is encrypted, is taken for its beginning when the nonce happens to begin with a 1.

FINISHED = b"\x16\xfe\xfd\0\1" + bytes(6) + b"\0\x30" + b"\1" + bytes(0x2F)


@pytest.mark.parametrize("is_ours", [False, True])
async def test_trio_takes_an_encrypted_record_for_a_hello_unless_another_one_is_before_it(
    is_ours: bool, autojump_clock: MockClock
) -> None:
    wire = Wire()
    channel = wire.endpoints["a"].connect(("b", 1), stock_context(good(1)))
    with trio.move_on_after(0.1):
        await channel.do_handshake()
    if is_ours:
        wire.sockets["a"].offer(FINISHED, ("b", 1))
    else:
        wire.sockets["a"]._waiting.append((FINISHED, ("b", 1)))
        wire.sockets["a"]._readers.unpark_all()
    await trio.sleep(0.1)
    if is_ours:
        assert channel._q.r.receive_nowait().endswith(FINISHED)
    with pytest.raises(trio.WouldBlock):
        channel._q.r.receive_nowait()
    wire.close()


# What is private.


async def test_trio_and_openssl_still_have_what_we_use_of_their_insides(autojump_clock: MockClock) -> None:
    """When this fails, Trio or pyOpenSSL was changed: see where `holloway.actors.dtls_*` use it, and the defects above."""
    wire = Wire()
    channel = wire.endpoints["a"].connect(("b", 1), stock_context(good(1)))
    for thing, found in (("DTLSChannel", channel), ("DTLSEndpoint", wire.endpoints["a"])):
        missing = [each for each in PRIVATE[thing] if not hasattr(found, each)]
        assert not missing, f"trio {trio.__version__} has no {thing}.{missing} any more"
    assert isinstance(channel._ssl, SSL.Connection)
    assert list(inspect.signature(channel._record_encoder.encode_volley).parameters) == ["messages", "mtu"]
    assert channel._final_volley == []
    assert channel._handshake_mtu == 1472
    assert channel._did_handshake is False
    for word in (
        "DTLSv1_get_timeout",
        "DTLSv1_handle_timeout",
        "bio_read",
        "bio_write",
        "get_app_data",
        "set_app_data",
        "set_ciphertext_mtu",
    ):
        assert callable(getattr(channel._ssl, word)), f"pyOpenSSL has no Connection.{word} any more"
    channel.close()
    wire.close()
