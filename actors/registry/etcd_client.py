"""Calls to etcd: one gRPC channel, who we are on it, and errors that say why.

Responsible for the channel, logging in and in again when etcd forgot us, deadlines, and the streams of leases and
watches. Everything here is asyncio's, to be run by an `Errand`. NOT responsible for what the calls mean (`etcd`), nor
for repeating one whose answer was lost.

Nothing waits for a server that is away: gRPC would wait in silence, and could then not tell a refused connection from a
wrong certificate. The caller tries again, as the port says.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

# gRPC reads this when it is imported, or writes what it thinks of every failure to stderr, which is not ours to use.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc
import grpc.aio

from holloway.actors.registry.etcd_errors import PERMISSION, STALE_TOKEN, Refusal, refusal
from holloway.actors.registry.etcd_files import Material
from holloway.actors.registry.etcd_messages import AUTHENTICATE, LEASE_KEEP_ALIVE, WATCH, Messages, Method

MESSAGE_BYTES_MAX = 16 * 1_048_576  # of an answer: far above the largest transaction, and above etcd's largest value
RECONNECT_MIN_MS = 200
RECONNECT_MAX_MS = 2_000
HAS_LEADER = ("hasleader", "true")  # else a member that lost its cluster keeps a watch open in silence

Metadata: TypeAlias = tuple[tuple[str, str], ...]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class EtcdTiming:
    """How long to wait for etcd, in seconds.

    A server that takes a connection and says nothing is given up after `connect_s`; one that stops answering is noticed
    after `ping_every_s` + `ping_timeout_s` at most. etcd counts pings that come more often than every 5 s as abuse.
    A cancelled call waits `last_word_s` for an answer that is under way, so that what was done is known.
    """

    call_s: float = 5.0
    connect_s: float = 3.0
    ping_every_s: float = 6.0
    ping_timeout_s: float = 3.0
    last_word_s: float = 0.05


@dataclass(frozen=True, slots=True)
class Place:
    """Where the servers are, for gRPC: `target` has IP addresses alone, `name` is what their certificates must have
    (None: no TLS), and `shown` is for people."""

    target: str
    name: str | None
    shown: str


async def connect(
    place: Place, material: Material, user: str | None, messages: Messages, timing: EtcdTiming
) -> EtcdClient:
    """Make a client, which its user closes. The connection is made with the first call."""
    options: list[tuple[str, int | str]] = [
        ("grpc.keepalive_time_ms", round(timing.ping_every_s * 1000)),
        ("grpc.keepalive_timeout_ms", round(timing.ping_timeout_s * 1000)),
        ("grpc.http2.ping_timeout_ms", round(timing.ping_timeout_s * 1000)),  # the one above notices no frozen server
        ("grpc.http2.max_pings_without_data", 0),  # no bound
        ("grpc.min_reconnect_backoff_ms", round(timing.connect_s * 1000)),  # how long one attempt may take
        ("grpc.initial_reconnect_backoff_ms", RECONNECT_MIN_MS),
        ("grpc.max_reconnect_backoff_ms", RECONNECT_MAX_MS),
        ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
        ("grpc.enable_retries", 0),  # whether a transaction was done is not for gRPC to guess
        ("grpc.use_local_subchannel_pool", 1),  # a new handle does not wait because an old one failed
        ("grpc.enable_http_proxy", 0),
    ]
    if place.name is None:
        channel = grpc.aio.insecure_channel(place.target, options=options)
    else:
        credentials = grpc.ssl_channel_credentials(material.authorities, material.key, material.certificates)
        options.append(("grpc.ssl_target_name_override", place.name))
        channel = grpc.aio.secure_channel(place.target, credentials, options=options)
    return EtcdClient(channel, place.shown, material, user, messages, timing)


class EtcdClient:
    """See `connect`. All methods raise `Refusal`."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        where: str,
        material: Material,
        user: str | None,
        messages: Messages,
        timing: EtcdTiming,
    ) -> None:
        self._channel = channel
        self._where = where
        self._password = material.password
        self._user = user
        self._messages = messages
        self._call_s = timing.call_s
        self._token: str | None = None
        self._logging_in = asyncio.Lock()

    async def call(self, method: Method, **fields: Any) -> Any:
        """Make one call, within `EtcdTiming.call_s`; `fields` are those of its request."""
        # A call that etcd turned away for its token was not done: repeating it is safe.
        return await self._logged_in(lambda login, give_up: self._ask(method, login, give_up, fields), STALE_TOKEN)

    async def keep_alive(self, lease: int) -> int:
        """Start the time of a lease again. Returns the seconds that it lasts now; 0: it is gone."""
        return await self._logged_in(lambda login, give_up: self._beat(lease, login, give_up), STALE_TOKEN)

    async def watch(self, **fields: Any) -> WatchStream:
        """Begin a watch; `fields` are those of `WatchCreateRequest`. Its caller cancels the stream."""
        # Older releases of 3.4 and 3.5 tell a watch whose token is stale that its permission was denied.
        return await self._logged_in(
            lambda login, give_up: self._begin(login, give_up, fields), (*STALE_TOKEN, PERMISSION)
        )

    async def close(self) -> None:
        """End every call, and the connection."""
        await self._channel.close()

    async def _logged_in(self, ask: Callable[[Metadata, float], Awaitable[T]], stale: Sequence[str]) -> T:
        """Ask with our login and until when; once more with a new one if etcd answers with a text of `stale`."""
        give_up = asyncio.get_running_loop().time() + self._call_s
        login = await self._login(give_up)
        try:
            return await ask(login, give_up)
        except Refusal as error:
            if not (error.says(*stale) and self._forget(login)):
                raise
        return await ask(await self._login(give_up), give_up)

    async def _login(self, give_up: float) -> Metadata:
        """The token to send, if any; logs in when there is none. A certificate's name needs none."""
        if self._user is None:
            return ()
        async with self._logging_in:
            if self._token is None:
                fields = {"name": self._user, "password": self._password}
                self._token = str((await self._ask(AUTHENTICATE, (), give_up, fields)).token)
            return (("token", self._token),)

    def _forget(self, login: Metadata) -> bool:
        """Forget a token that etcd refused, unless another task has a newer one. False: none was sent."""
        if not login:
            return False
        if self._token == login[0][1]:
            self._token = None
        return True

    async def _begin(self, login: Metadata, give_up: float, fields: dict[str, Any]) -> WatchStream:
        request = self._messages.WatchRequest(create_request=self._messages.WatchCreateRequest(**fields))
        stream = WatchStream(self._stream(WATCH)(metadata=(*login, HAS_LEADER)), self._where)
        try:
            async with asyncio.timeout_at(give_up):
                await stream.begin(request)
        except TimeoutError:
            stream.cancel()
            raise refusal("DEADLINE_EXCEEDED", "", self._where) from None
        except BaseException:
            stream.cancel()
            raise
        return stream

    async def _beat(self, lease: int, login: Metadata, give_up: float) -> int:
        stream = self._stream(LEASE_KEEP_ALIVE)(metadata=login, timeout=_left_s(give_up))
        try:
            await stream.write(self._messages.LeaseKeepAliveRequest(ID=lease))
            answer = await stream.read()
        except grpc.aio.AioRpcError as error:
            raise _from(error, self._where) from error
        finally:
            stream.cancel()
        if answer is grpc.aio.EOF:
            raise refusal("UNAVAILABLE", "the stream ended", self._where)
        return int(answer.TTL)

    async def _ask(self, method: Method, metadata: Metadata, give_up: float, fields: dict[str, Any]) -> Any:
        request = getattr(self._messages, method.request)(**fields)
        ask = self._channel.unary_unary(
            method.path,
            request_serializer=type(request).SerializeToString,
            response_deserializer=getattr(self._messages, method.response).FromString,
        )
        try:
            return await ask(request, metadata=metadata, timeout=_left_s(give_up))
        except grpc.aio.AioRpcError as error:
            raise _from(error, self._where) from error

    def _stream(self, method: Method) -> Any:
        return self._channel.stream_stream(
            method.path,
            request_serializer=getattr(self._messages, method.request).SerializeToString,
            response_deserializer=getattr(self._messages, method.response).FromString,
        )


class WatchStream:
    """The server's end of a watch. Cancelling a `read` ends it."""

    def __init__(self, call: Any, where: str) -> None:
        self._call = call
        self._where = where
        self.revision = 0
        """The store's when the watch began, as the member knew it that we are connected to."""

    async def begin(self, request: Any) -> None:
        """Send the request, and wait until etcd says that it watches."""
        try:
            await self._call.write(request)
        except grpc.aio.AioRpcError as error:
            raise _from(error, self._where) from error
        self.revision = int((await self.read()).header.revision)

    async def read(self) -> Any:
        """The next WatchResponse, of any kind but a cancellation."""
        try:
            answer = await self._call.read()
        except grpc.aio.AioRpcError as error:
            raise _from(error, self._where) from error
        if answer is grpc.aio.EOF:
            raise refusal("UNAVAILABLE", "the watch ended", self._where)
        if answer.compact_revision:
            raise CompactedAt(answer.compact_revision)
        if answer.canceled:
            raise refusal("CANCELLED", answer.cancel_reason, self._where)
        return answer

    def cancel(self) -> None:
        """End it."""
        self._call.cancel()


class CompactedAt(Exception):
    """The watch begins before `revision`, up to which etcd has forgotten its history."""

    def __init__(self, revision: int) -> None:
        super().__init__(revision)
        self.revision = revision


def _left_s(give_up: float) -> float:
    return max(give_up - asyncio.get_running_loop().time(), 0.001)


def _from(error: grpc.aio.AioRpcError, where: str) -> Refusal:
    return refusal(error.code().name, error.details() or "", where)
