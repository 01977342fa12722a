"""What leaves for one peer in records of DTLS, and how long they may be on the way there.

Not responsible for what comes in records (`dtls_peer`), nor for data under exported keys (`dtls_keys`).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import TYPE_CHECKING

from holloway.protocols.dtls_path import DtlsPath
from holloway.protocols.dtls_wire import LinkMessage, message
from holloway.protocols.journal import Traffic
from holloway.protocols.packets import Packet, whole_packets

if TYPE_CHECKING:
    from holloway.actors.dtls_channel import SecureChannel
    from holloway.actors.udp_endpoint import UdpEndpoint


class DtlsRecords:
    """See the head of this module. Foreign programs know no probes of the path: the network may take apart what goes to them."""

    def __init__(self, udp: UdpEndpoint, mtu: int) -> None:
        self._udp, self.path = udp, DtlsPath(mtu)
        self.sent = Traffic()

    def send(self, channel: SecureChannel, texts: Sequence[bytes]) -> list[bytes]:
        """Send a record for each text, at once. The datagrams that they made."""
        datagrams = channel.seal(texts)
        self.sent.bytes += sum(map(len, datagrams))
        may_fragment = channel.is_plain or not self.path.bears(datagrams)
        self._udp.send(datagrams, channel.address, may_fragment=may_fragment)
        return datagrams

    def send_packets(self, channel: SecureChannel, packets: Sequence[Packet], now: float) -> tuple[int, list[Packet]]:
        """The same for packets of the host. How many there were, and what to tell the host of those that are too long."""
        answers: list[Packet] = []
        if not channel.is_plain:
            packets, answers = self.path.fitted(packets, now)
        texts = whole_packets(packets)
        datagrams = self.send(channel, texts)
        self.sent.packets += len(texts)
        if not channel.is_plain and self.path.sent(datagrams, now):
            self.probe(channel, now)
        return len(texts), answers

    # The path.

    def connected(self, channel: SecureChannel, now: float) -> None:
        """An association is up."""
        if not channel.is_plain:
            self.path.connected(channel.address, now)
            self.probe(channel, now)

    def moved(self, channel: SecureChannel, now: float) -> None:
        """The peer of an association is somewhere else."""
        self.path.moved(channel.address, now)
        self.probe(channel, now)

    def hear(self, kind: LinkMessage, number: int, channel: SecureChannel, now: float) -> None:
        """The peer probes the path, or has heard our probe."""
        if kind is LinkMessage.PATH_PROBE:
            self.send(channel, [message(LinkMessage.PATH_HEARD, number)])
        else:
            self.path.heard(number, now)
            self.probe(channel, now)

    def probe(self, channel: SecureChannel | None, now: float) -> None:
        """Send the probes that are due under an association, if there is one."""
        if channel is not None and not channel.is_plain:
            for text in self.path.probes(now):
                datagrams = channel.seal([text])
                self.sent.bytes += len(datagrams[0])
                self._udp.send(datagrams, channel.address)

    def next_timeout(self, channel: SecureChannel | None) -> float:
        """When to call `probe`; infinite for never."""
        return inf if channel is None or channel.is_plain else self.path.next_timeout()
