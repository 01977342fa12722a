"""One association that is up: records out and in, by synchronous calls. The quirks of Trio's DTLS end here.

Trio makes the handshake; afterwards packets pass by its channel, straight to the connection of OpenSSL behind it. That saves a task and
a queue for each datagram, and lets batches stay batches. The private parts of Trio that this takes are named in `PRIVATE`, and a test
says when they are gone.

Not responsible for handshakes (`dtls_handshaker`), for when to send what (`holloway.protocols.dtls_link`), nor for what packets say.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import Enum
from typing import TYPE_CHECKING, Any

import trio
from OpenSSL import SSL

from holloway.protocols.dtls_names import DtlsProblem, Speaker
from holloway.protocols.dtls_wire import (
    MAX_RECORD_BYTES,
    PREFIX,
    first_record_bytes,
    records_of,
    saying_of,
    sequence_of,
)
from holloway.protocols.exported import EXPORTED_BYTES, EXPORTER_LABEL
from holloway.protocols.suites import MessageType

if TYPE_CHECKING:
    from holloway.protocols.addresses import Address

PRIVATE = {
    "DTLSChannel": ("_ssl", "_did_handshake", "_final_volley", "_record_encoder", "_handshake_mtu"),
    "DTLSEndpoint": ("_listening_context",),
}
"""What we use of Trio's classes that Trio does not promise to keep."""

RECORD_SPACE = 1 << 14  # the longest that a record holds (RFC 6347, section 4.1)
USUAL_SPACE = 2048
RESEND_INTERVAL_S = 0.1
WHOLE_MESSAGES_BYTES = 1 << 16
"""The MTU that OpenSSL is told: more than any flight."""


class Ending(Enum):
    """Why an association is over."""

    CLOSED_BY_PEER = "closed by the peer"
    BROKEN = "broken"


class HandshakeRefused(Exception):
    """There is no association; `problem` says why."""

    def __init__(self, problem: DtlsProblem, hint: str = "") -> None:
        super().__init__(problem, hint)
        self.problem = problem
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.problem.value} ({self.hint})" if self.hint else self.problem.value


class QuietConnection:
    """A connection of OpenSSL that says everything once, for the time of a handshake.

    OpenSSL sends its flight again by itself when its own clock says so, a second after the flight, and there is no way to stop that
    clock. It does it in the midst of `do_handshake`, after which it may fail to read what it is at. Trio, which sends again by itself,
    takes what comes out for the old flight, and throws it away, and with it the new one that comes after it: for ever, if that was the
    last.
    """

    def __init__(self, connection: SSL.Connection) -> None:
        """`connection`: one that has said nothing yet."""
        self._connection = connection
        self._said: set[tuple[bytes, bytes]] = set()
        connection.set_ciphertext_mtu(WHOLE_MESSAGES_BYTES)  # Trio takes them apart

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def do_handshake(self) -> None:
        """As the connection's, but what is due to be sent again is sent to nobody before, so that hardly anything is due meanwhile."""
        if self._connection.DTLSv1_get_timeout() == 0:
            self._connection.DTLSv1_handle_timeout()
            self._written()
        self._connection.do_handshake()

    def bio_read(self, _size: int) -> bytes:
        """All records that are to be sent and were not said before, of whatever size. Raises `SSL.WantReadError` if there are none."""
        records = list(records_of(self._written()))
        fresh = [record for record in records if self._is_new(record)]
        if len(fresh) < len(records):
            self.repeated()
        if not fresh:
            raise SSL.WantReadError
        return b"".join(fresh)

    def repeated(self) -> None:
        """Something became due within `do_handshake`: this program stood still there, or was at it for long."""

    def _written(self) -> bytes:
        written = bytearray()
        with suppress(SSL.WantReadError):
            while True:
                written += self._connection.bio_read(RECORD_SPACE)
        return bytes(written)

    def _is_new(self, record: bytes) -> bool:
        saying = saying_of(record)
        if saying is None:
            return True
        is_new = saying not in self._said
        self._said.add(saying)
        return is_new


class SecureChannel:
    """An association whose handshake is complete, with whom it is: `speaker`. `address`: where the peer was heard last."""

    def __init__(
        self,
        channel: trio.DTLSChannel,
        number: int,
        address: Address,
        speaker: Speaker,
        *,
        is_ours: bool,
        is_plain: bool,
        ended: Callable[[], None],
    ) -> None:
        """`is_ours`: we dialled. `is_plain`: nothing stands before its datagrams, and so it cannot move. `ended` is called once,
        when it is closed.
        """
        self.number, self.address, self.speaker, self.is_ours = number, address, speaker, is_ours
        self.is_plain = is_plain
        self._channel: Any = channel
        self._connection: SSL.Connection = self._channel._ssl
        self.early: Sequence[tuple[bytes, Address]] = ()
        """DTLS datagrams that came before the handshake was complete on our side, each with its source."""
        self._prefix = b"" if is_plain else PREFIX.pack(MessageType.DTLS, number)
        self._is_unread = True
        self._newest = 0
        self._resent_at = float("-inf")
        self._ended = ended
        self.closed = trio.Event()

    def __repr__(self) -> str:
        return f"<SecureChannel {self.number:016x}>"

    def seal(self, texts: Sequence[bytes]) -> list[bytes]:
        """A datagram for each text, none of them empty or longer than a record."""
        connection, prefix = self._connection, self._prefix
        write, read = connection.send, connection.bio_read
        datagrams = []
        for text in texts:
            write(text)
            datagrams.append(prefix + read(len(text) + 256))
        return datagrams

    def open(self, record: bytes, source: Address) -> Sequence[bytes] | Ending:
        """What a DTLS datagram holds; nothing if it is not authentic, or comes for the second time. Takes any bytes.

        The newest one says where the peer is, if it came alone: of several in one datagram only one need be authentic. Nor does the
        first one say it, which is read with what came behind the last flight of the handshake.
        """
        connection, first = self._connection, first_record_bytes(record)
        if first > len(record) or len(record) > MAX_RECORD_BYTES:
            return ()
        is_alone = first == len(record) and not self._is_unread
        self._is_unread = False
        try:
            connection.bio_write(record)
            if is_alone:
                texts = [connection.recv(USUAL_SPACE if len(record) < USUAL_SPACE else RECORD_SPACE)]
            else:
                texts = self._read_all()
        except SSL.WantReadError:
            return ()
        except SSL.ZeroReturnError:
            return Ending.CLOSED_BY_PEER
        except SSL.Error:
            return Ending.BROKEN
        if is_alone and (sequence := sequence_of(record)) > self._newest:
            self._newest, self.address = sequence, source
        return texts

    def _read_all(self) -> list[bytes]:
        texts = []
        while True:
            try:
                texts.append(self._connection.recv(RECORD_SPACE))
            except SSL.WantReadError:
                return texts

    def export(self) -> bytes:
        """Keying material that both sides have, and nobody else (RFC 5705)."""
        exported: bytes = self._connection.export_keying_material(EXPORTER_LABEL, EXPORTED_BYTES)
        return exported

    def resend_final(self, now: float) -> list[bytes]:
        """The last flight of the handshake once more, because the peer seems to lack it; not too often."""
        if self.is_ours or now - self._resent_at < RESEND_INTERVAL_S:
            return []
        self._resent_at = now
        channel = self._channel
        return [
            self._prefix + bytes(packet)
            for packet in channel._record_encoder.encode_volley(channel._final_volley, channel._handshake_mtu)
        ]

    def close(self) -> list[bytes]:
        """Let go of it. What to tell the peer; nothing the second time."""
        if self.closed.is_set():
            return []
        self.closed.set()
        farewell = []
        try:
            self._connection.shutdown()
            farewell.append(self._prefix + self._connection.bio_read(RECORD_SPACE))
        except SSL.Error:  # it is broken, or was never whole
            pass
        self._channel.close()
        self._ended()
        return farewell
