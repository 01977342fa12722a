"""The timers of the link to a peer over DTLS: dialling, probing, replacing, giving up."""

from __future__ import annotations

import math

from holloway.protocols.dtls_link import (
    ACCEPTED_GRACE_S,
    IDLE_PROBE_S,
    MAX_ASSOCIATIONS,
    PROBE_AFTER_S,
    REDIAL_S,
    REKEY_AFTER_RECORDS,
    RETIRED_S,
    SILENT_S,
    Action,
    Dial,
    Ended,
    GaveUp,
    Link,
    Retire,
    SendProbe,
)
from holloway.protocols.timers import Timers

TIMERS = Timers()


def link(*, preferred: bool = True, keepalive_s: float = 0.0) -> Link:
    return Link(TIMERS, is_preferred=preferred, keepalive_s=keepalive_s)


def actions(found: Link) -> list[Action]:
    taken = []
    while (action := found.next_action()) is not None:
        taken.append(action)
    return taken


def at(found: Link, now: float) -> list[Action]:
    """Let time go by until `now`, each deadline in its turn; what was to be done meanwhile."""
    taken = actions(found)
    for _ in range(10_000):
        due = found.next_timeout()
        if due > now:
            return taken
        found.handle_timeout(max(due, 0.0))
        taken += actions(found)
    raise AssertionError("a deadline that stays due")


def up(*, is_ours: bool = True, preferred: bool = True) -> Link:
    """A link with association 1, up since 0."""
    made = link(preferred=preferred)
    made.established(1, 0.0, is_ours=is_ours)
    made.heard(1, 0.0)
    actions(made)
    return made


def test_who_has_packets_and_no_association_dials_once() -> None:
    found = link()
    assert found.next_timeout() == math.inf
    found.connect(1.0)
    found.connect(1.0)
    assert at(found, 1.0) == [Dial(1)]
    found.connect(2.0)
    assert at(found, 2.0) == []


def test_an_attempt_without_an_answer_is_followed_by_another_and_after_90_s_by_none() -> None:
    found = link()
    found.connect(0.0)
    now = 0.0
    for attempt in range(1, 100):
        taken = at(found, now)
        if taken != [Dial(attempt)]:
            break
        now += 4.0
        found.failed(Ended.UNANSWERED, now)
    assert taken == [GaveUp(attempt - 1)]
    assert TIMERS.rekey_attempt_s <= now <= TIMERS.rekey_attempt_s + 4.0
    assert at(found, now + 3600.0) == []
    found.connect(now)
    assert at(found, now) == [Dial(1)]


def test_who_is_refused_waits_before_he_tries_again() -> None:
    found = link()
    found.connect(0.0)
    at(found, 0.0)
    found.failed(Ended.REFUSED, 0.1)
    assert found.next_timeout() == TIMERS.rekey_timeout_s
    found.retry(0.2)  # it may be somewhere else now
    assert at(found, 0.2) == [Dial(2)]


def test_attempts_that_fail_at_once_do_not_spin() -> None:
    found = link()
    found.connect(0.0)
    at(found, 0.0)
    found.failed(Ended.UNANSWERED, 0.001)
    assert found.next_timeout() == REDIAL_S


def test_whoever_dialled_says_that_the_association_is_up() -> None:
    found = link()
    found.established(7, 0.0, is_ours=True)
    assert (found.current, found.epoch, found.handshakes_total) == (7, 1, 1)
    assert actions(found) == [SendProbe(7, 1)]
    found.heard(7, 0.3)
    found.answered(1, 0.3)
    assert found.round_trip_s == 0.3


def test_whoever_was_dialled_stays_with_what_works_until_the_other_side_is_heard() -> None:
    found = up(is_ours=False)
    found.established(2, 5.0, is_ours=False)
    assert found.current == 1
    found.heard(2, 5.1)
    assert found.current == 2
    assert found.epoch == 2


def test_without_another_association_one_is_used_before_the_other_side_is_heard() -> None:
    found = link()
    found.established(2, 5.0, is_ours=False)
    assert found.current == 2


def test_both_dial_at_once_and_both_use_the_one_that_the_smaller_name_dialled() -> None:
    for first_is_ours in (True, False):
        small, great = link(preferred=True), link(preferred=False)
        for each, is_small in ((small, True), (great, False)):
            mine, theirs = (1, 2) if is_small else (2, 1)
            order = [(mine, True), (theirs, False)]
            for number, is_ours in order if first_is_ours else reversed(order):
                each.established(number, 0.1, is_ours=is_ours)
                each.heard(number, 0.2)
        assert small.current == great.current == 1


def test_the_side_whose_association_was_not_chosen_dials_again_when_it_needs_to() -> None:
    found = link(preferred=False)
    found.connect(0.0)
    assert at(found, 0.0) == [Dial(1)]
    found.established(1, 0.05, is_ours=False)
    found.established(2, 0.1, is_ours=True)
    assert (found.current, found.is_dialling) == (1, False)
    found.heard(1, 0.2)
    found.sent(1, 1.0)
    assert Dial(1) in at(found, 1.0 + SILENT_S)


def test_a_peer_that_restarted_is_followed_to_its_new_association() -> None:
    found = up(is_ours=True, preferred=True)
    found.established(2, 20.0, is_ours=False)
    found.heard(2, 20.0)
    assert found.current == 2


def test_a_foreign_program_is_spoken_to_while_nothing_is_heard_of_a_node() -> None:
    for is_ours in (True, False):
        for preferred in (True, False):
            found = up(is_ours=is_ours, preferred=preferred)
            found.established(9, 2.0, is_ours=False, is_foreign=True)
            found.heard(9, 2.1)
            assert found.current == 1
            found.sent(1, 4.0)
            found.heard(9, 4.0 + SILENT_S)
            assert found.current == 9
            found.heard(1, 7.0)
            assert found.current == 1


def test_a_foreign_program_that_begins_again_is_followed() -> None:
    found = link()
    for number in (8, 9):
        found.established(number, float(number), is_ours=False, is_foreign=True)
        found.heard(number, float(number))
        assert found.current == number


def test_when_the_current_association_is_over_another_that_is_heard_takes_its_place() -> None:
    found = up(preferred=True)
    found.established(2, 1.0, is_ours=False)
    found.heard(2, 1.0)
    found.heard(2, TIMERS.reject_after_s - 0.1)
    found.handle_timeout(TIMERS.reject_after_s)
    assert found.current is None
    found.heard(2, TIMERS.reject_after_s + 0.1)
    assert found.current == 2


def test_an_answer_is_asked_for_and_without_one_the_peer_is_dialled_and_the_old_association_used_on() -> None:
    found = up()
    found.sent(1, 50.0)
    assert at(found, 50.0 + PROBE_AFTER_S) == [SendProbe(1, 2)]
    assert not found.is_silent(51.0)
    taken = at(found, 50.0 + SILENT_S)
    assert taken == [SendProbe(1, 3), Dial(1)]
    assert found.is_silent(50.0 + SILENT_S)
    assert found.current == 1
    found.heard(1, 53.0)
    assert not found.is_silent(53.0)


def test_an_idle_link_is_tried_now_and_then() -> None:
    found = up()
    assert at(found, IDLE_PROBE_S - 0.1) == []
    assert at(found, IDLE_PROBE_S) == [SendProbe(1, 2)]
    eager = link(keepalive_s=2.0)
    eager.established(1, 0.0, is_ours=False)
    assert at(eager, 2.0) == [SendProbe(1, 1)]


def test_who_dialled_makes_a_new_association_and_the_old_one_is_listened_to_for_a_while() -> None:
    found = up()
    now = 0.0
    while now < TIMERS.rekey_after_s:
        found.heard(1, now)
        assert Dial(1) not in at(found, now)
        now += 5.0
    assert Dial(1) in at(found, TIMERS.rekey_after_s)
    assert found.current == 1
    found.established(2, 120.1, is_ours=True)
    assert found.current == 2
    found.heard(2, 120.2)
    found.heard(1, 121.0)
    taken = at(found, 121.0 + RETIRED_S - 0.1)
    assert Retire(1) not in taken
    found.heard(2, 150.9)
    assert Retire(1) in at(found, 121.0 + RETIRED_S)


def test_who_was_dialled_replaces_an_old_association_only_if_the_other_side_does_not() -> None:
    found = up(is_ours=False)
    now = 0.0
    while now < TIMERS.rekey_after_s + ACCEPTED_GRACE_S:
        found.heard(1, now)
        assert Dial(1) not in at(found, now)
        now += 5.0
    assert Dial(1) in at(found, now)


def test_a_key_is_replaced_before_it_has_sealed_too_much() -> None:
    found = up()
    found.sent(REKEY_AFTER_RECORDS - 1, 1.0)
    found.heard(1, 1.0)
    assert at(found, 1.0) == []
    found.sent(1, 1.0)
    assert at(found, 1.0) == [Dial(1)]


def test_no_association_outlives_its_time() -> None:
    found = up()
    for now in range(0, 180, 5):
        found.heard(1, float(now))
        at(found, float(now))
    assert found.current == 1
    assert Retire(1) in at(found, TIMERS.reject_after_s)
    assert found.current is None


def test_a_peer_that_says_farewell_is_dialled_again_soon() -> None:
    found = up()
    found.closed(1, 30.0)
    assert found.current is None
    assert found.next_timeout() == 30.0 + REDIAL_S
    found.closed(1, 30.0)
    found.heard(1, 30.0)
    assert found.current is None


def test_with_another_association_left_a_farewell_changes_to_that() -> None:
    found = up()
    found.established(2, 10.0, is_ours=True)
    found.closed(2, 11.0)
    assert found.current == 1


def test_who_was_given_up_is_dialled_when_there_is_something_to_send() -> None:
    found = up()
    found.sent(1, 0.0)
    now = SILENT_S
    while not any(isinstance(each, GaveUp) for each in at(found, now)):
        now += 4.0
        found.failed(Ended.UNANSWERED, now)
        assert now < 100.0
    assert found.current == 1
    assert not any(isinstance(each, Dial) for each in at(found, now + 30.0))
    found.sent(1, now + 30.0)
    assert Dial(1) in at(found, now + 30.0)


def test_a_failed_attempt_that_nobody_needs_any_more_is_the_last() -> None:
    found = link()
    found.connect(0.0)
    at(found, 0.0)
    found.established(5, 0.1, is_ours=False)
    found.heard(5, 0.1)
    assert found.is_dialling  # the other side may have the one under way already
    found.failed(Ended.UNANSWERED, 4.0)
    assert not found.is_dialling


def test_associations_do_not_pile_up() -> None:
    found = up()
    for number in range(2, 40):
        found.established(number, float(number), is_ours=False)
    retired = [each.association for each in actions(found) if isinstance(each, Retire)]
    assert len(retired) == 39 - MAX_ASSOCIATIONS
    assert found.current == 1
    assert 1 not in retired


def test_an_association_with_a_foreign_server_ends_before_the_next_one_begins() -> None:
    found = link()
    found.connect(0.0)
    assert at(found, 0.0) == [Dial(1)]
    found.established(1, 0.0, is_ours=True, is_foreign=True)
    found.sent(5, 1.0)
    assert at(found, TIMERS.rekey_after_s - 0.1) == []  # no probes, however silent it is
    assert not found.is_silent(TIMERS.rekey_after_s - 0.1)
    assert at(found, TIMERS.rekey_after_s) == [Retire(1), Dial(1)]
    assert found.current is None
    found.established(2, TIMERS.rekey_after_s + 1.0, is_ours=True, is_foreign=True)
    assert (found.current, found.epoch, found.is_dialling) == (2, 2, False)


def test_a_foreign_server_that_does_not_answer_any_more_is_given_up_like_others() -> None:
    found = link()
    found.established(1, 0.0, is_ours=True, is_foreign=True)
    found.rekey(10.0)
    assert at(found, 10.0) == [Retire(1), Dial(1)]
    found.failed(Ended.UNANSWERED, 14.0)
    assert at(found, 14.0) == [Dial(2)]
    found.failed(Ended.UNANSWERED, 10.0 + TIMERS.rekey_attempt_s)
    assert at(found, 3600.0) == [GaveUp(2)]


def test_a_foreign_program_that_dialled_does_so_again_by_itself() -> None:
    found = link()
    found.established(1, 0.0, is_ours=False, is_foreign=True)
    found.sent(REKEY_AFTER_RECORDS, 1.0)
    assert at(found, TIMERS.reject_after_s - 0.1) == []
    assert at(found, TIMERS.reject_after_s) == [Retire(1)]
