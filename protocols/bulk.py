"""The short way of a bulk flow: one super-packet of the host into one run of datagrams, and one run into one super-packet.

A flow that fills its packets comes as one of them after another, all alike. Each is taken all the way, from the device to the
network or back, before the next is looked at: then the same few buffers, and the same little code, serve all of them, and stay in
the caches of the processor, out of which a batch of 60 KB packets drives everything. Whatever is not as usual (no key, or one that
is to be replaced; packets that wait; what begins a connection; another sender; pieces; packets that share a record) is left alone,
untouched, for the general way, `Session.send` and `Session.receive`, which would have done exactly the same.

Not responsible for anything unusual, nor for what comes alone (`express`).
"""

from __future__ import annotations

from holloway.protocols.arrivals import Arrival
from holloway.protocols.express import ExpressLane
from holloway.protocols.mss import begins_connection
from holloway.protocols.packets import IPV6_HEADER_BYTES, Packet, SuperPacket
from holloway.protocols.record_wire import RecordKind
from holloway.protocols.runs import Run
from holloway.protocols.tunnel import OVERHEAD_BYTES


class BulkLane(ExpressLane):
    """The short way through one session, which is a part of `Session`. Times are monotonic seconds."""

    @property
    def has_outputs(self) -> bool:
        """Whether a short way has left something with the outputs of the session."""
        tunnel = self._tunnel
        return bool(tunnel.outbox or tunnel.inside.packets)

    def send_bulk(self, packet: SuperPacket, now: float) -> Run | None:
        """Seal one super-packet of the host: a run for `endpoint`, good until more is sealed, so to be sent at once. None:
        nothing has happened, `send` it.
        """
        keys, tunnel = self._ring.current, self._tunnel
        path = tunnel.path
        size = path.size
        if (
            keys is None
            or now >= (keys.young_until or self._judge(keys))
            or self._waiting
            or tunnel.outbox
            or self.endpoint is None
            or (size < tunnel.widest and begins_connection(packet))
        ):
            return None
        run = keys.seal_bulk(packet, size - OVERHEAD_BYTES, now)
        if run is None:
            return None
        sent = tunnel.transmitted
        sent.packets += packet.count
        sent.bytes += run.length
        self._timers.packets_sent(now)
        if path.sent(run.stride, now):
            tunnel.probe(now)
        return run

    def receive_bulk(self, arrival: Arrival, now: float) -> Packet | None:
        """Open one run: a super-packet for the host, good until more is opened, so to be delivered at once; or an empty packet,
        and what came of the run is with the other outputs of the session. None: nothing has happened, `receive` it.
        """
        source = arrival.source
        keys, tunnel = self._ring.current, self._tunnel
        inside = tunnel.inside
        if (
            keys is None
            or now >= (keys.young_until or self._judge(keys))
            or source != self.endpoint
            or self._waiting
            or tunnel.outbox
            or inside.packets
            or inside.unfinished
        ):
            return None
        found = keys.open_bulk(arrival, now)
        if found is None:
            return None
        self.last_received_at = now
        received = tunnel.received
        received.bytes += len(arrival.data)
        packet: Packet = b""
        if len(found) == 1:
            only = found[0]
            self._timers.packets_received(now)
            reason = inside.inspect(bytes(only.data[:IPV6_HEADER_BYTES]))
            if reason is None:
                received.packets += only.count
                packet = only
                if tunnel.path.size < tunnel.widest and begins_connection(only):
                    inside.packets.append(only)
                    packet = b""
            else:
                self._journal.drop(reason, source, only.count)
        elif found:
            self._timers.packets_received(now)
            received.packets += inside.add(RecordKind.SUPER_PACKETS, found, source)
        else:
            self._timers.any_received(now)
        if keys.is_waiting:
            if packet:  # a report goes before it
                inside.packets.append(packet)
                packet = b""
            tunnel.watch(now)
        return packet
