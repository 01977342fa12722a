"""Durations and deadlines: WireGuard's numbers, what arms and disarms what, and that nothing fires twice."""

from __future__ import annotations

import math

import pytest

from holloway.protocols.errors import LocalError
from holloway.protocols.timers import RETRY_JITTER_S, Deadline, SessionTimers, Timers


def armed(keepalive_s: float = 0.0, entropy: int = 0) -> SessionTimers:
    return SessionTimers(Timers(), keepalive_s, lambda n: entropy.to_bytes(n, "little"), 0.0)


def due(timers: SessionTimers, now: float) -> list[Deadline]:
    return list(timers.take_due(now))


def test_default_durations_are_wireguards() -> None:
    timers = Timers()  # WireGuard paper, section 6.1
    assert (timers.rekey_after_s, timers.reject_after_s, timers.rekey_attempt_s) == (120.0, 180.0, 90.0)
    assert (timers.rekey_timeout_s, timers.keepalive_timeout_s) == (5.0, 10.0)
    assert (timers.rekey_on_receive_s, timers.silence_s) == (165.0, 15.0)
    assert timers.rekey_as_responder_s == 175.0


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
@pytest.mark.parametrize(
    "name", ["rekey_after_s", "reject_after_s", "rekey_attempt_s", "rekey_timeout_s", "keepalive_timeout_s"]
)
def test_durations_must_be_positive_and_finite(name: str, value: float) -> None:
    with pytest.raises(LocalError, match=name):
        Timers(**{name: value})


def test_a_key_must_outlive_the_agreement_on_its_successor() -> None:
    with pytest.raises(LocalError, match="reject_after_s is too short"):
        Timers(rekey_after_s=10.0, rekey_timeout_s=5.0, reject_after_s=15.0)
    shortest = Timers(rekey_after_s=10.0, rekey_timeout_s=5.0, reject_after_s=15.1)
    assert shortest.rekey_on_receive_s == 10.0, "never before the age at which sending rekeys"


def test_nothing_is_awaited_at_first() -> None:
    timers = armed()
    assert timers.earliest() is None
    assert due(timers, math.inf) == []


def test_data_sent_awaits_an_answer_from_its_first_packet_on() -> None:
    timers = armed()
    timers.data_sent(1.0)
    timers.data_sent(9.0)
    assert timers.earliest() == 16.0
    timers.any_received(10.0)
    assert timers.earliest() is None


def test_jitter_is_added_to_retries() -> None:
    timers = armed(entropy=0xFFFF)
    timers.initiation_sent(0.0)
    assert timers.earliest() == pytest.approx(5.0 + RETRY_JITTER_S, abs=1e-4)
    timers.data_sent(0.0)
    timers.handshake_completed()
    assert timers.earliest() == pytest.approx(15.0 + RETRY_JITTER_S, abs=1e-4)


def test_data_received_owes_a_keepalive_unless_something_is_sent() -> None:
    timers = armed()
    timers.data_received(0.0)
    assert timers.earliest() == 10.0
    assert not timers.owes_keepalive
    timers.data_received(3.0)
    assert timers.owes_keepalive
    timers.any_sent(4.0)
    assert timers.earliest() is None
    assert not timers.owes_keepalive


def test_traffic_of_either_direction_puts_the_unasked_keepalive_off() -> None:
    timers = armed(keepalive_s=25.0)
    assert timers.earliest() == 25.0
    timers.any_sent(5.0)
    assert timers.earliest() == 30.0
    timers.any_received(7.0)
    assert timers.earliest() == 32.0
    assert due(timers, 32.0) == [Deadline.PERSISTENT_KEEPALIVE]
    timers.interval_elapsed(32.0)
    assert timers.earliest() == 57.0


def test_a_deferred_handshake_keeps_its_first_time_until_one_begins() -> None:
    timers = armed()
    timers.handshake_wanted(5.0)
    timers.handshake_wanted(8.0)
    assert timers.earliest() == 5.0
    timers.initiation_sent(6.0)
    assert due(timers, 100.0) == [Deadline.RETRANSMIT_HANDSHAKE]


def test_key_expiry_is_the_earliest_of_all_keys() -> None:
    timers = armed()
    timers.key_expires(180.0)
    timers.key_expires(300.0)
    assert timers.earliest() == 180.0
    timers.key_expires(170.0)
    assert due(timers, 170.0) == [Deadline.KEY_EXPIRY]
    assert timers.earliest() is None


def test_staged_packets_wait_from_the_first_on() -> None:
    timers = armed()
    timers.packets_staged(0.0)
    timers.packets_staged(50.0)
    assert timers.earliest() == 90.0
    timers.nothing_staged()
    assert timers.earliest() is None


def test_giving_up_and_silence_say_that_we_are_not_answered_until_something_is_heard() -> None:
    timers = armed()
    timers.data_received(0.0)
    timers.handshake_given_up()
    assert timers.is_unanswered
    assert timers.earliest() is None, "no keepalive to a peer that does not answer"
    timers.any_received(1.0)
    assert not timers.is_unanswered
    timers.silence_noticed()
    assert timers.is_unanswered


def test_deadlines_due_together_fire_once_in_the_order_of_the_enum() -> None:
    timers = armed(keepalive_s=1.0)
    timers.packets_staged(0.0)
    timers.data_received(0.0)
    timers.data_sent(0.0)
    timers.initiation_sent(0.0)
    timers.handshake_wanted(0.0)
    timers.key_expires(5.0)
    timers.report_due(0.02)
    timers.path_due(0.1)
    timers.pieces_expire(0.5)
    assert due(timers, 1000.0) == list(Deadline)
    assert due(timers, 1000.0) == []


def test_what_one_deadline_disarms_does_not_fire_with_it() -> None:
    timers = armed()
    timers.retransmit_at(5.0)
    timers.data_received(0.0)
    fired = []
    for deadline in timers.take_due(100.0):
        fired.append(deadline)
        timers.handshake_given_up()
    assert fired == [Deadline.RETRANSMIT_HANDSHAKE]


def test_a_deadline_armed_anew_for_the_same_moment_waits_for_the_next_call() -> None:
    timers = armed()
    timers.retransmit_at(5.0)
    fired = []
    for deadline in timers.take_due(5.0):
        fired.append(deadline)
        timers.retransmit_at(5.0)
    assert fired == [Deadline.RETRANSMIT_HANDSHAKE]
    assert due(timers, 5.0) == [Deadline.RETRANSMIT_HANDSHAKE]


def test_disarming_all_leaves_nothing() -> None:
    timers = armed(keepalive_s=5.0)
    timers.data_sent(0.0)
    assert "NEW_HANDSHAKE 15.0" in repr(timers)
    timers.disarm_all()
    assert timers.earliest() is None


def test_what_is_told_last_of_reports_and_pieces_holds() -> None:
    for tell, deadline in (
        (SessionTimers.report_due, Deadline.REPORT),
        (SessionTimers.path_due, Deadline.PATH),
        (SessionTimers.pieces_expire, Deadline.PIECES_EXPIRY),
    ):
        timers = armed()
        tell(timers, None)
        assert timers.earliest() is None
        tell(timers, 2.0)
        tell(timers, 3.0)
        assert timers.earliest() == 3.0
        tell(timers, 1.0)
        assert due(timers, 1.0) == [deadline]
        tell(timers, 4.0)
        tell(timers, None)
        assert timers.earliest() is None
