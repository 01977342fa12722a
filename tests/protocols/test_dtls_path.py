"""How long records of DTLS to one peer may be: searched with probes, and told to those who send too much."""

from __future__ import annotations

import math

import pytest
from scapy_oracle import IP, TCP, parsed
from super_packets import super_packet

from holloway.protocols.dtls_path import DtlsPath
from holloway.protocols.dtls_wire import DTLS_MTU, OVERHEAD_BYTES, LinkMessage, path_probe, read_message
from holloway.protocols.packets import destination
from holloway.protocols.path_mtu import BASE_DATAGRAM_BYTES, GAP_BYTES
from holloway.protocols.too_big import too_big
from holloway.protocols.tunnel import TOO_BIG_INTERVAL_S

THERE, ELSEWHERE = ("192.0.2.1", 1099), ("203.0.113.9", 4000)
MOST = DTLS_MTU + OVERHEAD_BYTES
FULL, BASE = bytes(MOST), bytes(BASE_DATAGRAM_BYTES)
LATENCY_S = 0.02


def searched(path: DtlsPath, limit: int, now: float) -> float:
    """Answer every probe that is not longer than `limit`, until none is due; when that is."""
    while True:
        answered = []
        for text in path.probes(now):
            found = read_message(text)
            assert found is not None
            assert found[0] is LinkMessage.PATH_PROBE
            if len(text) + OVERHEAD_BYTES <= limit:
                answered.append(found[1])
        if answered:
            now += LATENCY_S
            for number in answered:
                path.heard(number, now)
        elif path.next_timeout() == math.inf:
            return now
        else:
            now = path.next_timeout()


@pytest.mark.parametrize("limit", [1300, 1400, MOST, 9000])
def test_the_length_that_the_path_bears_is_found(limit: int) -> None:
    path = DtlsPath(DTLS_MTU)
    path.connected(THERE, 0.0)
    assert not path.bears([FULL])
    assert path.bears([BASE, BASE])
    assert searched(path, limit, 0.0) < 10.0
    assert path.bears([FULL]) is (limit >= MOST)
    assert min(limit, MOST) - GAP_BYTES < path.room + OVERHEAD_BYTES <= limit


def test_nothing_is_known_of_the_path_to_elsewhere() -> None:
    path = DtlsPath(DTLS_MTU)
    path.connected(THERE, 0.0)
    now = searched(path, MOST, 0.0)
    path.moved(THERE, now)
    path.connected(THERE, now)
    assert path.bears([FULL])
    path.moved(ELSEWHERE, now)
    assert not path.bears([FULL])
    (long,) = super_packet(DTLS_MTU - 52, 2000, version=4).segments()
    assert path.fitted([long], now) == ([long], [])
    searched(path, MOST, now)
    assert path.bears([FULL])


def test_a_path_that_got_narrow_is_found_out_while_packets_are_sent_and_told_before_it_is_known_how_narrow() -> None:
    path = DtlsPath(DTLS_MTU)
    path.connected(THERE, 0.0)
    now = began = searched(path, MOST, 0.0) + 1.0
    (long,) = super_packet(DTLS_MTU - 52, 2000, version=4).segments()
    assert path.sent([FULL], now)
    while not path.fitted([long], now)[1]:
        path.probes(now)  # all are lost
        now = path.next_timeout()
        assert now - began < 1.0
    assert path.next_timeout() < math.inf
    assert searched(path, 1300, now) > now
    assert not path.bears([FULL])
    assert path.fitted([long], now + 1)[1]


def test_answers_to_what_was_not_asked_change_nothing() -> None:
    path = DtlsPath(DTLS_MTU)
    path.connected(THERE, 0.0)
    path.probes(0.0)
    for number in (MOST, 1 << 16 | MOST, (1 << 64) - 1):
        path.heard(number - 1, 0.1)
    assert not path.bears([FULL])


def narrow() -> tuple[DtlsPath, float]:
    path = DtlsPath(DTLS_MTU)
    path.connected(THERE, 0.0)
    return path, searched(path, 1300, 0.0)


def test_on_a_narrow_path_who_sends_too_much_is_told_now_and_then_and_carried() -> None:
    path, now = narrow()
    (long,) = super_packet(DTLS_MTU - 52, 2000, version=4).segments()
    answerer = destination(long)
    assert answerer is not None
    answer = too_big(long, path.room, answerer)
    assert answer is not None
    assert path.fitted([long, long], now) == ([long, long], [answer])
    assert path.fitted([long], now + TOO_BIG_INTERVAL_S / 2) == ([long], [])
    assert path.fitted([long], now + TOO_BIG_INTERVAL_S) == ([long], [answer])
    assert path.fitted([long[: path.room]], now + 1) == ([long[: path.room]], [])
    several = super_packet(5 * (DTLS_MTU - 52), DTLS_MTU - 52, version=4)
    (told,) = path.fitted([several], now + 2)[1]
    assert told == too_big(several.segments()[0], path.room, answerer)
    assert path.fitted([super_packet(5 * 1000, 1000, version=4)], now + 3)[1] == []


def test_on_a_narrow_path_connections_agree_on_shorter_segments_in_both_directions() -> None:
    path, now = narrow()
    syn = bytes(IP(src="10.0.0.1", dst="10.0.0.2") / TCP(sport=1, dport=2, flags="S", options=[("MSS", 1360)]))
    for (found,) in (path.fitted([syn], now)[0], path.arrived([syn])):
        assert isinstance(found, bytes)
        assert dict(parsed(found)[TCP].options)["MSS"] == path.room - 40
    wide = DtlsPath(DTLS_MTU)
    wide.connected(THERE, 0.0)
    now = searched(wide, MOST, 0.0)
    assert wide.fitted([syn], now) == ([syn], [])
    assert wide.arrived([syn]) == [syn]


def test_a_probe_holds_nothing_but_its_number_and_its_length() -> None:
    text = path_probe(7, MOST)
    assert len(text) == DTLS_MTU
    assert text[9:].count(0) == DTLS_MTU - 9
