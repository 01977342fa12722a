"""What a UDP socket of the kernel does to send: many datagrams a system call where the kernel can (`udp_offload` says how).

No datagram is fragmented, here or on the way, unless `send` is told that it may be: a probe of the path would prove nothing
(`protocols.path_mtu`). A part of `udp`, which has everything else.
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress

from holloway.actors.ports import DatagramPort, refusal
from holloway.actors.udp_offload import (
    RUN_DATAGRAMS,
    RUN_REFUSED_ERRNOS,
    Gathered,
    RunRefusals,
    control_messages,
    gathered,
    send_run,
)
from holloway.protocols.addresses import Address, format_address
from holloway.protocols.errors import LocalError
from holloway.protocols.runs import MAX_RUN_BYTES, Run, flatten, lone_run

# include/uapi/linux/in.h, in6.h; Python's socket module does not name these. The two values are the same in both families.
MTU_DISCOVER = {socket.AF_INET: (socket.IPPROTO_IP, 10), socket.AF_INET6: (socket.IPPROTO_IPV6, 23)}
PMTUDISC_WANT = 1  # fragment what is longer than the path is known to bear
PMTUDISC_PROBE = 3  # never fragment, and set DF whatever is known of the path
ADDRESS_PARTS = {socket.AF_INET: 2, socket.AF_INET6: 4}


class SendingSocket(DatagramPort):
    """See the head of this module. The attribute `refused_runs` counts, by the reasons that `drops` has, runs that the kernel would
    not take: their datagrams went out one by one, and so does what follows them for a while.
    """

    def __init__(self, sock: socket.socket, *, sends_runs: bool) -> None:
        self.local: Address = sock.getsockname()
        self.drops: Counter[str] = Counter()
        self.refused_runs: Counter[str] = Counter()
        self.sparse: SendingSocket | None = None
        """Another socket of the same address, to be read first, which it owns; what is sent by it is marked (`open_sparse`)."""
        self._socket = sock
        self._address_parts = ADDRESS_PARTS[sock.family]
        self._mtu_discover = MTU_DISCOVER[sock.family]
        self._may_fragment: bool | None = None
        self._let_fragment(False)
        self._sends_runs = sends_runs
        self._run_refusals = RunRefusals()

    def send(self, datagrams: Sequence[bytes], destination: Address, *, may_fragment: bool = False) -> None:
        """See `DatagramPort`. A full send buffer is `udp_eagain`, a datagram above the device's MTU `udp_emsgsize`."""
        self.send_runs([lone_run(datagram) for datagram in datagrams], destination, may_fragment=may_fragment)

    def send_runs(self, runs: Sequence[Run], destination: Address, *, may_fragment: bool = False) -> None:
        """See `DatagramPort`."""
        if len(destination) != self._address_parts:
            raise LocalError(
                f"cannot send to {format_address(destination)} from {format_address(self.local)}",
                "they are of different address families",
            )
        if may_fragment is not self._may_fragment:
            self._let_fragment(may_fragment)
        if len(runs) == 1 and runs[0].length <= runs[0].stride:
            parts = runs[0].parts
            self._send_singly(parts if len(parts) == 1 else runs[0].datagrams(), destination)
            return
        if not self._sends_runs:
            self._send_singly(flatten(runs), destination)
            return
        refusals = self._run_refusals
        for run in gathered(runs):
            if run.number == 1 or (refusals.known and not refusals.allows(destination, run.stride)):
                self._send_singly(run.datagrams(), destination)
                continue
            try:
                send_run(self._socket, run, destination)
            except OSError as error:
                self._not_sent(run, destination, error)

    def _not_sent(self, run: Gathered, destination: Address, error: OSError) -> None:
        if error.errno in RUN_REFUSED_ERRNOS:
            self.refused_runs[refusal("udp", error)] += 1
            self._run_refusals.note(destination, run.stride, error.errno)
            self._send_singly(run.datagrams(), destination)
        else:
            self.drops[refusal("udp", error)] += run.number

    def send_run(self, run: Run, destination: Address, *, may_fragment: bool = False) -> None:
        """See `DatagramPort`."""
        parts, stride, length = run
        if (
            may_fragment is not self._may_fragment
            or not self._sends_runs
            or self._run_refusals.known
            or not stride * 2 <= length <= min(MAX_RUN_BYTES, stride * RUN_DATAGRAMS)
            or len(destination) != self._address_parts
        ):
            self.send_runs((run,), destination, may_fragment=may_fragment)
            return
        try:
            self._socket.sendmsg(parts, control_messages(stride), 0, destination)
        except OSError as error:
            self._not_sent(Gathered(parts, stride, run.datagram_count), destination, error)

    def send_lone(self, datagram: bytes, destination: Address, *, may_fragment: bool = False) -> None:
        """See `DatagramPort`."""
        if len(destination) != self._address_parts or may_fragment is not self._may_fragment:
            self.send_runs((lone_run(datagram),), destination, may_fragment=may_fragment)
            return
        try:
            self._socket.sendto(datagram, destination)
        except OSError as error:
            self.drops[refusal("udp", error)] += 1

    def lone_sender(
        self, destination: Address, *, may_fragment: bool = False, is_sparse: bool = False
    ) -> Callable[[bytes], None]:
        """See `DatagramPort`."""
        if len(destination) != self._address_parts:
            return super().lone_sender(destination, may_fragment=may_fragment)
        if is_sparse and self.sparse is not None:
            return self.sparse.lone_sender(destination)

        def send(datagram: bytes) -> None:
            if may_fragment is not self._may_fragment:
                self.send_lone(datagram, destination, may_fragment=may_fragment)
                return
            try:
                self._socket.sendto(datagram, destination)
            except OSError as error:
                self.drops[refusal("udp", error)] += 1

        return send

    def _let_fragment(self, may_fragment: bool) -> None:
        """For what is sent from now on. A kernel that refuses, as sandboxes that play one may, does as it is used to."""
        self._may_fragment = may_fragment
        with suppress(OSError):
            self._socket.setsockopt(*self._mtu_discover, PMTUDISC_WANT if may_fragment else PMTUDISC_PROBE)

    def _send_singly(self, datagrams: Sequence[bytes | memoryview], destination: Address) -> None:
        send = self._socket.sendto
        for datagram in datagrams:
            try:
                send(datagram, destination)
            except OSError as error:
                self.drops[refusal("udp", error)] += 1
