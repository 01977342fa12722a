"""Sums of RFC 1071 for packets whose checksum is checked without being computed, or left to the kernel to finish.

Responsible for arithmetic only: not for finding headers (`packets`) and not for what to do about a wrong checksum.

Everything here rests on two facts. A sum of 16-bit words in ones' complement is the number itself modulo 65535, so a
packet may be summed as one number. And a header with a right checksum sums to 65535, which is 0 modulo 65535.
"""

from __future__ import annotations

from holloway.protocols.packets import ByteView, internet_checksum

# Three folds and one division are right for any length and quick for an Ethernet frame: for 1420 bytes 2.7 us, of which
# 1.4 is making the number, against 3.7 for the general loop of `internet_checksum`.
_FOLDS = tuple((bits, (1 << bits) - 1) for bits in (5760, 2880, 1440))
_FOLDED_BYTES = 1600


def sums_to_zero(data: ByteView, start: int) -> bool:
    """Whether the 16-bit words of `data`, padded with a zero byte when odd, and `start` make a multiple of 65535.

    That is what a right checksum makes of what it covers, if any word of it is not zero. `start` is the sum of what
    belongs to it and is not in `data`, at least 0.
    """
    if len(data) > _FOLDED_BYTES:
        return internet_checksum(data, start) in (0, 0xFFFF)
    total = int.from_bytes(data, "big")
    for bits, mask in _FOLDS:
        total = (total >> bits) + (total & mask)
    # Shifting by eight bits is multiplying by 256, so the padding can be made up for at the end.
    return ((total << 8 if len(data) & 1 else total) + start) % 0xFFFF == 0


def pseudo_header_sum(header: ByteView, protocol: int, length: int) -> int:
    """The sum of the pseudo-header, unfolded, for a transport header and payload of `length` bytes together.

    `header` begins with an IPv4 or IPv6 header. Sources: RFC 9293, section 3.1; RFC 768; RFC 8200, section 8.1.
    """
    addresses = header[12:20] if header[0] >> 4 == 4 else header[8:40]
    return int.from_bytes(addresses, "big") + protocol + length


def partial_checksum(pseudo_sum: int) -> int:
    """What the checksum field of a packet holds whose checksum is left to the kernel: the folded sum, not inverted.

    Source: Linux, include/linux/skbuff.h, CHECKSUM_PARTIAL.
    """
    return pseudo_sum % 0xFFFF or (0xFFFF if pseudo_sum else 0)
