"""The short way of a bulk flow: super-packets of the host into runs of datagrams, and runs into super-packets.

A flow that fills its packets comes as one of them after another, all alike. Each is taken all the way, from the device to the
network or back, before the next is looked at: then the same few buffers, and the same little code, serve all of them, and stay in
the caches of the processor, out of which a batch of 60 KB packets drives everything. What they have in common is looked up once
for all those of a turn (`record_turns`). Whatever is not as usual (no key, or one that is to be replaced; packets that wait; what
begins a connection; another sender; pieces; packets that share a record) is left alone, untouched, for the general way,
`Session.send` and `Session.receive`, which would have done exactly the same.

Not responsible for anything unusual, nor for what comes alone (`express`).
"""

from __future__ import annotations

from holloway.protocols.express import ExpressLane
from holloway.protocols.record_turns import OpeningTurn, SealingTurn
from holloway.protocols.tunnel import OVERHEAD_BYTES


class BulkLane(ExpressLane):
    """The short way through one session, which is a part of `Session`. Times are monotonic seconds. Between the beginning and the end
    of a turn nothing else is asked of the session, and no time passes; every turn that begins has its end.
    """

    def begin_sending(self, now: float) -> SealingTurn | None:
        """Whoever seals super-packets of the host into runs for `endpoint`. None: `send` them."""
        keys, tunnel = self._ring.current, self._tunnel
        if (
            keys is None
            or now >= (keys.young_until or self._judge(keys))
            or self._waiting
            or tunnel.outbox
            or self.endpoint is None
        ):
            return None
        size = tunnel.path.size
        return keys.sealing_turn(size - OVERHEAD_BYTES, now, is_narrow=size < tunnel.widest)

    def end_sending(self, turn: SealingTurn, now: float) -> bool:
        """`now`: as at its beginning. Whether the session has to be looked at: at its other outputs, and at deadlines that are nearer
        than `soonest_s`.
        """
        turn.close()
        if not turn.records:
            return False
        tunnel = self._tunnel
        sent = tunnel.transmitted
        sent.packets += turn.packets
        sent.bytes += turn.bytes
        self._timers.packets_sent(now)
        is_due = tunnel.path.sent(turn.stride, now)
        if is_due:
            tunnel.probe(now)
        return is_due

    def begin_receiving(self, now: float) -> OpeningTurn | None:
        """Whoever opens runs of the peer. None: `receive` them."""
        keys, tunnel, home = self._ring.current, self._tunnel, self.endpoint
        inside = tunnel.inside
        if (
            keys is None
            or now >= (keys.young_until or self._judge(keys))
            or home is None
            or self._waiting
            or tunnel.outbox
            or inside.packets
            or inside.unfinished
        ):
            return None
        return keys.opening_turn(tunnel, home, now)

    def end_receiving(self, turn: OpeningTurn, now: float) -> bool:
        """The same."""
        turn.close()
        if not turn.records:
            return False
        self.last_received_at = now
        tunnel = self._tunnel
        received = tunnel.received
        received.bytes += turn.bytes
        received.packets += turn.packets
        if turn.has_data:
            self._timers.packets_received(now)
        else:
            self._timers.any_received(now)
        keys = self._ring.current
        if keys is not None and not keys.heard_as:
            self._ring.hear(keys)
        if keys is not None and keys.is_waiting:
            tunnel.watch(now)
            return True
        return bool(tunnel.inside.packets)
