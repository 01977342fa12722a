"""A token bucket per source address, for handshake messages of a node under load (WireGuard paper, section 5.3).

Not responsible for deciding when a node is under load, nor for cookies. The numbers are wireguard-go's, ratelimiter.go.

A bucket that has filled up again says the same as no bucket. So buckets are kept in the order of their last grant, and
those at the front go when they must be full: forgetting them loses nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from ipaddress import AddressValueError, IPv6Address
from typing import TypeAlias

from holloway.protocols.errors import LocalError

TOKENS_PER_S = 20.0  # wireguard-go ratelimiter.go, packetsPerSecond
BURST_TOKENS = 5.0  # wireguard-go ratelimiter.go, packetsBurstable
REFILL_S = BURST_TOKENS / TOKENS_PER_S  # an empty bucket is full again after this long
SOURCE_LIMIT = 16_384  # some 5 MB; the kernel's WireGuard (ratelimiter.c, max_entries) remembers up to 65536
IPV6_SITE_BITS = 64  # RFC 6177: the least that one site is given, so one host may have 2^64 addresses

_FORGOTTEN_PER_CALL = 2  # a call adds one source at most, so the table shrinks, and no call takes long

_Source: TypeAlias = str | int


class RateLimiter:
    """Grants 20 messages a second to each source, 5 at once; a source is an IPv4 address or an IPv6 /64.

    Remembers `limit` sources at most. While all of them are live, a source that is not among them is refused: under a
    flood from invented addresses those already served go on being served. Raises LocalError when `limit` is below 1.
    """

    __slots__ = ("_buckets", "_limit")

    def __init__(self, limit: int = SOURCE_LIMIT) -> None:
        if limit < 1:
            raise LocalError("no rate limiter", f"it cannot remember {limit} sources", "remember one at least")
        self._limit = limit
        # Tokens left by the last grant, and when that was; oldest grant first.
        self._buckets: OrderedDict[_Source, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        """How many sources are remembered, at most `limit`."""
        return len(self._buckets)

    def allow(self, source_host: str, now: float) -> bool:
        """Whether a message from `source_host` may be looked at; takes a token when so.

        `source_host` is the host of a socket address, as the socket gave it. `now` is in seconds of a clock that does
        not go back. A refusal takes nothing.
        """
        self._forget_idle(now)
        source = _source(source_host)
        bucket = self._buckets.get(source)
        if bucket is None:
            if len(self._buckets) >= self._limit:
                return False
            tokens = BURST_TOKENS
        else:
            left, granted = bucket
            tokens = min(BURST_TOKENS, left + (now - granted) * TOKENS_PER_S)
            if tokens < 1.0:
                return False
        self._buckets[source] = (tokens - 1.0, now)
        self._buckets.move_to_end(source)
        return True

    def _forget_idle(self, now: float) -> None:
        for _ in range(min(_FORGOTTEN_PER_CALL, len(self._buckets))):
            source, (_, granted) = next(iter(self._buckets.items()))
            if now - granted < REFILL_S:
                return
            del self._buckets[source]


def _source(host: str) -> _Source:
    """What a host is counted as: itself, the number of its /64, or the IPv4 address that is mapped into its IPv6 one."""
    if ":" not in host:
        return host
    try:
        address = IPv6Address(host)
    except AddressValueError:
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return int(address) >> (128 - IPV6_SITE_BITS)
