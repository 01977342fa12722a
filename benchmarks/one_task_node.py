"""A node without actors: the same device, sockets and session in one loop, to measure what the walls between actors cost.

    python one_task_node.py --device hw0 --mtu 1420 --address 10.98.0.1/24 --port 1099 --private-key FILE
        --peer-key BASE64 --peer-endpoint 192.0.2.2:1099 --peer-allowed 10.98.0.2/32

No Trio, no supervisor, no router, no inbox: `poll` says which descriptor has something, and the rest are calls. For one peer,
IPv4, until a signal ends it. Not a node to use: nothing here is restarted, counted or told.
"""

from __future__ import annotations

import argparse
import os
import select
import subprocess
import time
from collections.abc import Callable
from functools import partial
from ipaddress import ip_interface, ip_network
from pathlib import Path

from holloway.actors.tun import RECEIVE_BUDGET, KernelTun
from holloway.actors.tun_opening import open_tun
from holloway.actors.udp_binding import open_udp
from holloway.protocols.arrivals import Arrival
from holloway.protocols.demux import Demux, index_secret
from holloway.protocols.inspection import Inspector, LocalPrefixes
from holloway.protocols.keys import StaticKey, decode_key
from holloway.protocols.packets import Packet, SuperPacket
from holloway.protocols.routes import RouteTable
from holloway.protocols.runs import Run
from holloway.protocols.session import Session, SessionConfig
from holloway.protocols.suites import SUITES

PEER = "peer"


def main() -> None:
    """Run until a signal ends the process."""
    arguments = _arguments()
    own, allowed = ip_interface(arguments.address), ip_network(arguments.peer_allowed)
    host, _, port = arguments.peer_endpoint.rpartition(":")
    private = decode_key(arguments.private_key.read_text().strip())
    static = StaticKey(private)
    tun = open_tun(arguments.device, arguments.mtu)
    for command in (f"address add {own} dev {tun.name}", f"link set {tun.name} mtu {arguments.mtu} up"):
        subprocess.run(["ip", *command.split()], check=True)
    tun.set_local([own.ip.packed])
    (udp,) = open_udp("0.0.0.0", arguments.port)
    demux: Demux[str] = Demux(static, secret=index_secret(private), entropy=os.urandom)
    routes: RouteTable[str] = RouteTable()
    routes.add(allowed, PEER)
    public = decode_key(arguments.peer_key)
    session = Session(
        SessionConfig(
            suite=SUITES[arguments.suite],
            static=static,
            peer_public=public,
            mtu=arguments.mtu,
            inspect=Inspector(routes, PEER, LocalPrefixes([ip_network(own.ip)])),
        ),
        links=demux.register(public, PEER),
        entropy=os.urandom,
        wall_ns=time.time_ns,
        now=time.monotonic(),
        endpoint=(host, int(port)),
    )
    session.connect(time.monotonic())

    def flush() -> None:
        while session.next_event() is not None:
            pass
        for answer, source in session.answers_to_send():
            udp.send((answer,), source)
        runs = session.runs_to_send()
        if runs and session.endpoint is not None:
            udp.send_runs(runs, session.endpoint)
        if packets := session.packets_to_deliver():
            tun.send(packets)

    flush()
    poll = select.poll()
    device, socket = tun._descriptor, udp._socket.fileno()
    poll.register(device, select.POLLIN)
    poll.register(socket, select.POLLIN)
    while True:
        due = session.next_timeout()
        wait_ms = None if due is None else max(0.0, due - time.monotonic()) * 1000 + 1
        ready = {descriptor for descriptor, _ in poll.poll(wait_ms)}
        now = time.monotonic()
        if due is not None and due <= now:
            session.handle_timeout(now)
            flush()
        if device in ready:
            packets = tun._drain(RECEIVE_BUDGET)
            packet: Packet | None = packets.pop() if packets and isinstance(packets[-1], SuperPacket) else None
            if ours := [each for each in packets if routes.lookup(_destination(each)) is not None]:
                session.send(ours, now)
                flush()
            while packet is not None:
                sealing = session.begin_sending(now)
                if (
                    sealing is not None
                    and session.endpoint is not None
                    and isinstance(packet, SuperPacket)
                    and routes.lookup(_destination(packet)) is not None
                    and (run := sealing.seal(packet)) is not None
                ):
                    send = partial(udp.send_run, destination=session.endpoint)
                    send(run)
                    packet = tun.stream(packet, partial(_sent, sealing.seal, send))
                    session.end_sending(sealing, now)
                else:
                    if routes.lookup(_destination(packet)) is not None:
                        session.send([packet], now)
                    packet = tun.more()
                flush()
        if socket in ready:
            arrivals = udp._drain()
            while arrivals:
                opening = session.begin_receiving(now) if arrivals[0].stride < len(arrivals[0].data) else None
                if opening is not None and len(arrivals) == 1 and _delivered(opening.open, tun, arrivals[0]):
                    following = udp.stream(partial(_delivered, opening.open, tun))
                    session.end_receiving(opening, now)
                else:
                    found = demux.sort(arrivals, now)
                    for batch in found.arrivals.values():
                        session.receive(batch, now)
                    for _, initiation, source in found.initiations:
                        session.receive_initiation(initiation, source, now)
                    for reply, source in found.replies:
                        udp.send((reply,), source)
                    following = udp.more()
                flush()
                arrivals = [] if following is None else [following]


def _sent(seal: Callable[[SuperPacket], Run | None], send: Callable[[Run], None], packet: SuperPacket) -> bool:
    run = seal(packet)
    if run is None:
        return False
    send(run)
    return True


def _delivered(open_run: Callable[[Arrival], Packet | None], tun: KernelTun, arrival: Arrival) -> bool:
    packet = open_run(arrival)
    if isinstance(packet, SuperPacket):
        tun.send_bulk(packet)
    return packet is not None


def _destination(packet: object) -> bytes:
    return bytes(getattr(packet, "data", packet)[16:20])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="hw0")
    parser.add_argument("--mtu", type=int, default=1420)
    parser.add_argument("--address", required=True)
    parser.add_argument("--port", type=int, default=1099)
    parser.add_argument("--private-key", type=Path, required=True)
    parser.add_argument("--peer-key", required=True)
    parser.add_argument("--peer-endpoint", required=True)
    parser.add_argument("--peer-allowed", required=True)
    parser.add_argument("--suite", choices=sorted(SUITES), default="aes-gcm")
    return parser.parse_args()


if __name__ == "__main__":
    main()
