"""A stream of random bytes over TCP between two namespaces, compared by SHA-256 at both ends.

Run as a program it is one end: `serve PORT` or `send HOST PORT BYTES`; each prints the digest of what it saw.
"""

from __future__ import annotations

import hashlib
import random
import socket
import subprocess
import sys

from namespaces import Namespace, run_in, start_in

PORT = 5201
CHUNK = 1 << 20
TIMEOUT_S = 100.0


def transfer(source: Namespace, target: Namespace, address: str, count: int, *, timeout_s: float = TIMEOUT_S) -> None:
    """Send `count` bytes to `address`, which is `target`'s, and compare."""
    server = start_in(target, [sys.executable, __file__, "serve", str(PORT)], stdout=subprocess.PIPE)
    assert server.stdout is not None
    assert server.stdout.readline() == "ready\n"
    sent = run_in(
        source, [sys.executable, __file__, "send", address, str(PORT), str(count)], timeout=timeout_s
    ).stdout.split()
    received = server.communicate(timeout=20)[0].split()
    assert sent == received
    assert int(received[1]) == count


def serve(port: int) -> None:
    digest, count = hashlib.sha256(), 0
    with socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
        print("ready", flush=True)
        connection, _ = listener.accept()
        with connection:
            while chunk := connection.recv(CHUNK):
                digest.update(chunk)
                count += len(chunk)
    print(digest.hexdigest(), count, flush=True)


def send(host: str, port: int, count: int) -> None:
    digest, left = hashlib.sha256(), count
    block = random.Random(count).randbytes(CHUNK + 4099)
    with socket.create_connection((host, port), timeout=30) as connection:
        while left:
            start = left % 4099  # a different cut of the block each time, so that a lost or doubled chunk shows
            chunk = memoryview(block)[start : start + min(CHUNK, left)]
            connection.sendall(chunk)
            digest.update(chunk)
            left -= len(chunk)
    print(digest.hexdigest(), count, flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(int(sys.argv[2]))
    else:
        send(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
