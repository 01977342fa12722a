"""What a ZeroMQ server says before anything else: which mechanism it speaks (ZMTP 3.1, ZeroMQ RFC 37, section "greeting").

A server that hangs up on us in the handshake has another key, or no CURVE at all; which of the two libzmq's monitor leaves to
chance. The greeting tells. Not responsible for the handshake itself.
"""

from __future__ import annotations

import trio

_GREETING_BYTES = 64
_SIGNATURE = b"\xff" + bytes(8) + b"\x7f"
_OPENING = _SIGNATURE + b"\x03"
"""So far, and the server says its whole greeting; more of ours, and it might hang up."""
_MECHANISM = slice(12, 32)
TIMEOUT_S = 1.0


async def mechanism_of(host: str, port: int) -> str | None:
    """`CURVE`, `NULL` or what else the server there speaks; None when it does not say, or is none."""
    with trio.move_on_after(TIMEOUT_S):
        try:
            stream = await trio.open_tcp_stream(host, port)
            async with stream:
                await stream.send_all(_OPENING)
                said = b""
                while len(said) < _GREETING_BYTES:
                    chunk = await stream.receive_some(_GREETING_BYTES - len(said))
                    if not chunk:
                        return None
                    said += chunk
        except (OSError, trio.BrokenResourceError):
            return None
        if said[:1] == _SIGNATURE[:1] and said[9:10] == _SIGNATURE[9:]:
            return said[_MECHANISM].rstrip(b"\0").decode("ascii", "replace")
    return None
