"""One floating address on one node, step by step: what it asks of the store, what it does here, and when."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
from floating_script import Script, challenge_of, claim_of, fingerprint, run_of

from holloway.protocols.errors import LocalError
from holloway.protocols.floating import FloatingAddress
from holloway.protocols.floating_claims import (
    FloatingClaim,
    decode_floating_claim,
    encode_floating,
)
from holloway.protocols.floating_operations import (
    FloatingLease,
    FloatingTimers,
    GiveUpLocally,
    Key,
    Kind,
    LeaseUse,
    Seen,
    TakeLocally,
)
from holloway.protocols.floating_rival import STRANGER_ANSWER_S
from holloway.protocols.floating_states import Phase


def test_a_free_address_is_claimed_taken_and_confirmed() -> None:
    script = Script()
    assert script.machine.next_timeout() is None
    script.wait(None)
    assert script.take() == [Kind.CLAIM]
    claim = script.last
    assert claim is not None
    assert (claim.compares, claim.deletes, claim.lease) == (((Key.CLAIM, 0),), (Key.CHALLENGE,), LeaseUse.NEW)
    assert (claim.ttl_s, claim.patience_s) == (2.0, 1.0)
    assert decode_floating_claim(claim.puts[0][1]) == FloatingClaim("a", fingerprint("a"), run_of("a"), 5, 800)
    assert not script.machine.owns(0.05)
    script.machine.done(0.1, script.number, 10, FloatingLease(77, 2.0))
    assert script.take() == [TakeLocally(10)]
    assert script.machine.phase is Phase.HOLDING
    assert script.machine.next_timeout() == pytest.approx(0.2)
    script.machine.handle_timeout(0.2)
    assert script.take() == [Kind.KEEP]
    assert script.last is not None
    assert script.last.compares == ((Key.CLAIM, 10), (Key.CHALLENGE, 0))
    assert script.last.patience_s == 0.2
    assert (script.last.lease, script.last.kept_lease) == (LeaseUse.KEEP, 77)
    assert "HOLDING" in repr(script.machine)
    assert run_of("a") not in repr(script.machine)


def test_ownership_is_counted_from_when_the_confirmation_was_sent_and_ends_by_itself() -> None:
    script = Script()
    script.hold()
    script.machine.handle_timeout(0.2)
    script.take()
    script.machine.done(0.35, script.number, 10)
    assert script.machine.owns(0.89)
    assert not script.machine.owns(0.9)
    script.machine.handle_timeout(5.0)
    assert script.take() == [GiveUpLocally(), Kind.KEEP]
    script.machine.done(5.1, script.number, 10)
    assert script.take() == [TakeLocally(10)], "the claim was never anybody else's"


def test_an_answer_that_comes_after_the_end_finds_the_address_given_up_first() -> None:
    script = Script()
    script.hold()
    script.machine.handle_timeout(0.6)
    assert script.take() == [Kind.KEEP]
    script.machine.done(0.75, script.number, 10)
    assert script.take() == [GiveUpLocally(), TakeLocally(10)]
    script.machine.handle_timeout(9.0)
    script.machine.handle_timeout(9.1)
    assert script.take() == [GiveUpLocally(), Kind.KEEP]
    script.machine.done(99.0, script.number, 10)
    assert script.take() == [Kind.KEEP], "an answer to what was sent long ago is good for nothing"


def test_a_claim_of_which_nobody_was_told_is_removed_and_made_again() -> None:
    script = Script()
    script.wait(None)
    script.take()
    script.machine.handle_timeout(script.machine.next_timeout() or 0.0)
    assert script.take() == []
    script.machine.handle_timeout(1.1)
    assert script.take() == [Kind.LOOK]
    script.machine.looked(1.1, script.number, 12, claim_of("a", 12), None)
    assert script.take() == [Kind.RELEASE]
    assert script.last is not None
    assert (script.last.compares, script.last.deletes) == (((Key.CLAIM, 12),), (Key.CLAIM,))
    script.machine.done(1.1, script.number, 13)
    assert script.take() == [Kind.LOOK]


def test_a_release_that_finds_nothing_does_not_go_round_on_old_news() -> None:
    script = Script()
    script.hold()
    script.machine.set_health(0.1, False)
    assert script.take() == [GiveUpLocally(), Kind.RELEASE]
    script.machine.set_health(0.2, True)
    script.machine.refused(0.2, script.number)
    assert script.take() == [Kind.LOOK], "the view still has the claim, and is not believed"


def test_a_holder_answers_a_doubt_and_yields_to_nobody_but_a_better_one() -> None:
    for challenge in (
        challenge_of("b", 11, 10, 9),
        challenge_of("b", 11, 10, 5, preempts=True),
        challenge_of("b", 11, 4, 9, preempts=True),
        Seen(b"?", 11, 11),
    ):
        script = Script()
        script.hold()
        script.machine.saw(0.1, Key.CHALLENGE, 11, challenge)
        assert script.take() == [Kind.ANSWER]
        assert script.last is not None
        assert script.last.compares == ((Key.CLAIM, 10), (Key.CHALLENGE, 11))
        assert (script.last.deletes, script.last.lease, script.last.kept_lease) == ((Key.CHALLENGE,), LeaseUse.KEEP, 77)
        script.machine.done(0.12, script.number, 12)
        assert script.take() == []
        assert script.machine.owns(0.79)
    script = Script()
    script.hold()
    script.machine.saw(0.1, Key.CHALLENGE, 11, challenge_of("b", 11, 10, 6, preempts=True))
    assert script.take() == [GiveUpLocally(), Kind.RELEASE]
    script.machine.done(0.12, script.number, 12)
    assert script.take() == [Kind.LOOK]
    script.machine.looked(0.13, script.number, 12, None, challenge_of("b", 11, 10, 6, preempts=True))
    assert script.take() == [], "what was freed for another is left to it for a while"
    script.machine.handle_timeout(0.62)
    assert script.take() == [Kind.CLAIM]


def test_a_holder_that_learns_of_a_challenge_from_a_refusal_answers_it() -> None:
    script = Script()
    script.hold()
    script.machine.handle_timeout(0.2)
    script.take()
    script.machine.refused(0.21, script.number)
    assert script.take() == [Kind.LOOK]
    script.machine.looked(0.22, script.number, 11, claim_of("a", 10), challenge_of("b", 11, 10))
    assert script.take() == [Kind.ANSWER]
    script.machine.refused(0.23, script.number)
    script.machine.handle_timeout(0.29)
    assert script.take() == [Kind.LOOK]
    script.machine.looked(0.3, script.number, 12, claim_of("a", 10), None)
    assert script.take() == [Kind.KEEP]
    script.machine.saw(0.31, Key.CHALLENGE, 13, challenge_of("b", 13, 10))
    script.machine.refused(0.32, script.number)
    script.machine.handle_timeout(0.38)
    assert script.take() == [Kind.ANSWER], "it is known already"


def test_a_claim_that_is_gone_or_replaced_ends_ownership_at_once_and_old_news_does_not() -> None:
    for seen in (None, claim_of("b", 12)):
        script = Script()
        script.hold()
        script.machine.saw(0.1, Key.CLAIM, 8, claim_of("c", 8))
        assert script.take() == []
        script.machine.saw(0.1, Key.CLAIM, 12, seen)
        assert script.take() == [GiveUpLocally(), Kind.LOOK]
        assert not script.machine.owns(0.1)


def test_news_of_the_end_that_is_faster_than_the_answer_wins() -> None:
    script = Script()
    script.wait(None)
    script.take()
    script.machine.saw(0.01, Key.CLAIM, 10, claim_of("a", 10))
    script.machine.saw(0.02, Key.CLAIM, 11, None)
    script.machine.done(0.03, script.number, 10, FloatingLease(77, 2.0))
    assert script.take() == [Kind.LOOK]
    assert not script.machine.owns(0.03)


def test_a_doubted_holder_is_challenged_and_evicted_when_its_promise_is_over() -> None:
    script = Script()
    script.wait(claim_of("b", 7, answer_ms=1500))
    script.machine.set_doubt(0.1, 6)
    assert script.take() == [], "the doubt is about another claim"
    script.machine.set_doubt(0.1, 7)
    assert script.take() == [Kind.CHALLENGE]
    assert script.last is not None
    assert script.last.compares == ((Key.CLAIM, 7), (Key.CHALLENGE, 0))
    assert script.last.lease is LeaseUse.NEW
    assert script.last.ttl_s == 3.5, "it stands until the promise is over, though nobody keeps it"
    script.machine.done(0.2, script.number, 11, FloatingLease(77, 4.0))
    assert script.take() == []
    while (at := script.machine.next_timeout() or math.inf) < 1.7:
        script.machine.handle_timeout(at)
        assert script.take() == [Kind.LOOK]
        script.machine.looked(at, script.number, 11, claim_of("b", 7), challenge_of("a", 11, 7))
    script.machine.handle_timeout(1.7)
    assert script.take() == [Kind.EVICT]
    assert script.last.compares == ((Key.CLAIM, 7), (Key.CHALLENGE, 11))
    assert script.last.deletes == (Key.CLAIM,)
    script.machine.done(1.8, script.number, 12)
    assert script.take() == [Kind.CLAIM]


def test_a_doubt_that_is_gone_evicts_nobody_and_one_that_was_answered_waits_before_the_next() -> None:
    script = Script(look_s=100.0)
    script.wait(claim_of("b", 7))
    script.machine.set_doubt(0.0, 7)
    script.take()
    script.machine.done(0.0, script.number, 11, FloatingLease(77, 4.0))
    script.machine.set_doubt(0.1, None)
    script.machine.handle_timeout(2.0)
    assert script.take() == []
    script.machine.saw(2.0, Key.CHALLENGE, 12, None)
    script.machine.set_doubt(2.0, 7)
    assert script.take() == []
    assert script.machine.next_timeout() == pytest.approx(2.8)
    script.machine.handle_timeout(2.8)
    assert script.take() == [Kind.CHALLENGE]


def test_the_challenge_of_another_to_the_same_claim_is_waited_for_and_an_old_one_replaced() -> None:
    script = Script(look_s=100.0)
    script.wait(claim_of("b", 7), challenge=challenge_of("c", 8, 7))
    script.machine.set_doubt(0.1, 7)
    assert script.take() == []
    assert script.machine.next_timeout() == 100.0
    script.machine.saw(0.2, Key.CHALLENGE, 9 + 1, challenge_of("c", 10, 3))
    assert script.take() == [Kind.CHALLENGE]
    assert script.last is not None
    assert script.last.compares == ((Key.CLAIM, 7), (Key.CHALLENGE, 10))


def test_a_claim_of_an_earlier_life_or_that_nobody_can_read_is_challenged_without_a_doubt() -> None:
    earlier = encode_floating(FloatingClaim("a", fingerprint("a"), run_of("b"), 5, 800))
    for value, wait_s in ((earlier, 0.8), (b"?", STRANGER_ANSWER_S)):
        script = Script(look_s=100.0)
        script.wait(Seen(value, 7, 7))
        assert script.take() == [Kind.CHALLENGE]
        script.machine.done(0.0, script.number, 11, FloatingLease(77, 4.0))
        assert script.machine.next_timeout() == pytest.approx(wait_s)
        script.machine.handle_timeout(wait_s)
        assert script.take() == [Kind.EVICT]


def test_a_better_node_asks_for_it_after_it_and_the_claim_have_been_there_for_a_while() -> None:
    script = Script(6, look_s=1000.0)
    script.wait(claim_of("b", 7))
    assert script.machine.next_timeout() == 30.0
    script.machine.set_health(9.0, True)
    assert script.machine.next_timeout() == 30.0, "that it is still healthy is no news"
    script.machine.saw(10.0, Key.CLAIM, 20, claim_of("c", 20))
    assert script.machine.next_timeout() == 40.0
    script.machine.handle_timeout(40.0)
    assert script.take() == [Kind.CHALLENGE]
    script.machine.done(40.0, script.number, 21, FloatingLease(77, 4.0))
    assert script.machine.next_timeout() == 40.8, "a holder that does not hand over has lost it by its promise"
    script.machine.saw(40.1, Key.CHALLENGE, 22, None)
    assert script.machine.next_timeout() == pytest.approx(70.8), "it did not want to: not again for a while"
    equal = Script(5, look_s=1000.0)
    equal.wait(claim_of("b", 7))
    assert equal.machine.next_timeout() == 1000.0


def test_what_is_freed_is_left_to_a_challenger_that_is_no_worse_only() -> None:
    for digit, priority, at in (("b", 5, 0.6), ("b", 4, 0.1), ("a", 5, 0.1)):
        script = Script(look_s=100.0)
        script.wait(claim_of("c", 7), challenge=challenge_of(digit, 8, 6, priority))
        script.take()
        script.machine.saw(0.1, Key.CLAIM, 12, None)
        assert script.take() == ([Kind.CLAIM] if at == 0.1 else [])
        script.machine.handle_timeout(0.6)
        assert (Kind.CLAIM in script.take()) == (at == 0.6)


def test_a_node_that_stops_gives_up_first_and_is_finished_when_its_claim_is_gone() -> None:
    script = Script()
    script.hold()
    script.machine.handle_timeout(0.2)
    assert script.take() == [Kind.KEEP]
    kept = script.number
    script.machine.stop(0.21)
    assert script.take() == [GiveUpLocally(), Kind.RELEASE], "it waits for nothing"
    script.machine.done(0.22, kept, 10)
    assert script.take() == []
    assert not script.machine.is_finished
    script.machine.unanswered(0.23, kept)
    script.machine.unanswered(0.23, script.number)
    script.machine.handle_timeout(0.3)
    assert script.take() == [Kind.RELEASE]
    script.machine.done(0.31, script.number, 11)
    assert script.machine.is_finished
    assert script.machine.next_timeout() is None
    script.machine.set_health(0.4, False)
    script.machine.set_health(0.5, True)
    script.machine.handle_timeout(9.0)
    assert script.take() == []


def test_a_claim_under_way_when_health_ends_is_removed_when_it_was_made() -> None:
    script = Script()
    script.wait(None)
    assert script.take() == [Kind.CLAIM]
    script.machine.set_health(0.1, False)
    script.machine.set_health(0.1, False)
    script.machine.done(0.12, script.number, 10, FloatingLease(77, 2.0))
    assert script.take() == [Kind.RELEASE]
    script.machine.done(0.13, script.number, 11)
    assert script.machine.phase is Phase.OUT


def test_a_question_under_way_when_it_stops_is_not_waited_for() -> None:
    script = Script()
    script.machine.set_health(0.0, True)
    assert script.take() == [Kind.LOOK]
    script.machine.stop(0.1)
    assert script.machine.is_finished
    script.machine.looked(0.1, script.number, 9, None, None)
    assert script.take() == []


def test_pauses_grow_while_the_store_is_silent_but_not_while_something_is_to_lose() -> None:
    script = Script()
    script.machine.set_health(0.0, True)
    pauses, now = [], 0.0
    for _ in range(8):
        script.take()
        script.machine.unanswered(now, script.number)
        at = script.machine.next_timeout()
        assert at is not None
        pauses.append(round(at - now, 3))
        now = at
        script.machine.handle_timeout(now)
    assert pauses == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0]
    holder = Script()
    holder.hold()
    for now in (0.2, 0.3, 0.4):
        holder.machine.handle_timeout(now)
        assert holder.take() == [Kind.KEEP]
        holder.machine.unanswered(now, holder.number)
        assert holder.machine.next_timeout() == pytest.approx(now + 0.05)


def test_refusals_in_a_row_do_not_keep_us_busy() -> None:
    script = Script()
    script.hold()
    now, asked = 0.0, 0
    while now < 4.0:
        now = max(now, script.machine.next_timeout() or now)
        script.machine.handle_timeout(now)
        while kinds := script.take():
            asked += len(kinds)
            assert asked < 200, "a lease that is lost beside a claim that stands: nobody can say why"
            if Kind.KEEP in kinds:
                script.machine.refused(now, script.number)
            elif Kind.LOOK in kinds:
                script.machine.looked(now, script.number, 10, claim_of("a", 10), None)


@pytest.mark.parametrize(
    "timers",
    [{"ttl_s": 0.0}, {"keep_s": math.inf}, {"answer_s": 61.0}, {"answer_s": 0.05}, {"keep_s": 0.6}, {"ttl_s": 0.4}],
)
def test_timers_that_cannot_work_are_refused(timers: Any) -> None:
    with pytest.raises(LocalError) as refused:
        FloatingTimers(**timers)
    assert refused.value.why
    assert refused.value.fix


def test_a_claim_without_a_lease_is_a_local_mistake_and_changes_nothing() -> None:
    script = Script()
    script.wait(None)
    script.take()
    with pytest.raises(LocalError):
        script.machine.done(0.1, script.number, 10)
    script.machine.done(0.1, script.number, 10, FloatingLease(77, 2.0))
    assert script.take() == [TakeLocally(10)]


def test_what_others_would_refuse_is_refused_here() -> None:
    for name, key, run, priority in itertools.chain(
        [("a/b", fingerprint("a"), run_of("a"), 0), ("a", "a", run_of("a"), 0)],
        [("a", fingerprint("a"), "run", 0), ("a", fingerprint("a"), run_of("a"), 1001)],
    ):
        with pytest.raises(LocalError):
            FloatingAddress(name, key, run, priority=priority)
