"""A holder that is said not to answer: it asks others, and hands over only if they do not hear it either."""

from __future__ import annotations

import pytest
from floating_script import Script, challenge_of, claim_of

from holloway.protocols.floating_claims import FloatingChallenge, decode_challenge
from holloway.protocols.floating_operations import FloatingLease, GiveUpLocally, Key, Kind, LookAround

QUESTION = LookAround(11, "b", "b" * 64)


def accused() -> Script:
    """A holder of whom `b`, whose own data path works, says at 0.1 that it does not answer."""
    script = Script(9, look_s=100.0)
    script.hold()
    script.machine.saw(0.1, Key.CHALLENGE, 11, challenge_of("b", 11, 10, in_touch=True))
    assert script.take() == [QUESTION]
    return script


@pytest.mark.parametrize("is_in_touch", [True, None])
def test_a_holder_whom_others_hear_or_who_can_ask_nobody_stays(is_in_touch: bool | None) -> None:
    script = accused()
    script.machine.looked_around(0.15, 11, is_in_touch)
    assert script.take() == [Kind.ANSWER]
    script.machine.done(0.17, script.number, 12)
    assert script.take() == []
    assert script.machine.owns(0.7)


def test_a_holder_whom_nobody_hears_gives_up_first_and_leaves_the_address_to_a_worse_one_for_a_while() -> None:
    script = accused()
    script.machine.looked_around(0.4, 11, False)
    assert script.take() == [GiveUpLocally(), Kind.RELEASE]
    script.machine.done(0.42, script.number, 12)
    assert script.take() == [Kind.LOOK]
    script.machine.looked(0.43, script.number, 12, None, challenge_of("b", 11, 10, 5, in_touch=True))
    assert script.take() == []
    script.machine.handle_timeout(1.3)
    assert script.take() == [], "the challenger is given its time, though its priority is less"
    script.machine.handle_timeout(1.41)
    assert script.take() == [Kind.CLAIM]


def test_an_answer_that_does_not_come_or_is_about_an_earlier_challenge_speaks_for_staying() -> None:
    script = accused()
    script.machine.looked_around(0.2, 9, False)
    assert script.take() == []
    assert script.machine.next_timeout() == pytest.approx(0.55), "who has heard nobody for 0.3 s says so a little later"
    script.machine.handle_timeout(0.55)
    assert script.take() == [Kind.ANSWER]
    script.machine.looked_around(0.56, 11, None)
    assert script.take() == []


def test_whoever_challenges_again_and_again_makes_a_holder_ask_once_a_second_and_takes_nothing() -> None:
    script = accused()
    script.machine.looked_around(0.15, 11, True)
    now, revision, asked = 0.15, 11, 0
    while now < 3.0:
        kinds = script.take()
        asked += sum(isinstance(each, LookAround) for each in kinds)
        for each in kinds:
            if isinstance(each, LookAround):
                script.machine.looked_around(now + 0.01, each.number, True)
        kinds += script.take()
        if Kind.ANSWER in kinds:
            revision += 1
            script.machine.done(now + 0.02, script.number, revision)
        assert script.machine.owns(now + 0.02)
        now += 0.05
        revision += 1
        script.machine.saw(now, Key.CHALLENGE, revision, challenge_of("b", revision, 10, in_touch=True))
    assert asked <= 3


def test_who_is_not_in_touch_or_bids_by_priority_is_answered_without_asking_anybody() -> None:
    for challenge in (challenge_of("b", 11, 10), challenge_of("b", 11, 10, preempts=True, in_touch=True)):
        script = Script()
        script.hold()
        script.machine.saw(0.1, Key.CHALLENGE, 11, challenge)
        assert script.take() == [Kind.ANSWER]


def test_a_challenge_is_answered_at_once_though_one_before_it_made_us_ask() -> None:
    script = accused()
    script.machine.saw(0.12, Key.CHALLENGE, 12, challenge_of("c", 12, 10))
    assert script.take() == [Kind.ANSWER]


def test_a_node_says_in_its_challenge_whether_others_hear_it() -> None:
    for is_in_touch in (True, False):
        script = Script()
        script.wait(claim_of("b", 7))
        script.machine.set_doubt(0.1, 7, is_in_touch=is_in_touch)
        assert script.take() == [Kind.CHALLENGE]
        assert script.last is not None
        challenge = decode_challenge(script.last.puts[0][1])
        assert isinstance(challenge, FloatingChallenge)
        assert (challenge.in_touch, challenge.preempts) == (is_in_touch, False)


def test_a_node_that_was_cut_off_itself_when_it_challenged_does_so_again_once_it_is_not() -> None:
    script = Script(look_s=100.0)
    script.wait(claim_of("b", 7))
    for at, revision, is_in_touch in ((0.0, 11, False), (1.0, 13, True)):
        script.machine.set_doubt(at, 7, is_in_touch=is_in_touch)
        assert script.take() == [Kind.CHALLENGE]
        script.machine.done(at, script.number, revision, FloatingLease(77, 4.0))
        script.machine.saw(at + 0.1, Key.CHALLENGE, revision + 1, None)
        script.machine.set_doubt(at + 0.2, None)
    script.machine.set_doubt(1.5, 7, is_in_touch=True)
    assert script.take() == [], "what it has said already it says again only after a while"
    assert script.machine.next_timeout() == pytest.approx(3.8)


def test_a_better_node_whom_the_holder_did_not_answer_waits_anew_before_it_asks_for_the_address() -> None:
    script = Script(6, look_s=1000.0)
    script.wait(claim_of("b", 7))
    script.machine.set_doubt(20.0, 7)
    assert script.take() == [Kind.CHALLENGE]
    script.machine.done(20.0, script.number, 11, FloatingLease(77, 4.0))
    script.machine.saw(20.1, Key.CHALLENGE, 12, None)
    script.machine.set_doubt(25.0, None)
    assert script.machine.next_timeout() == pytest.approx(55.0)


def test_a_challenge_of_an_earlier_version_says_nothing_about_touch_and_one_that_says_nonsense_is_refused() -> None:
    value = challenge_of("b", 11, 10).value
    assert b'"in_touch":false' in value
    earlier = decode_challenge(value.replace(b',"in_touch":false', b""))
    assert isinstance(earlier, FloatingChallenge)
    assert not earlier.in_touch
    assert not isinstance(decode_challenge(value.replace(b'"in_touch":false', b'"in_touch":1')), FloatingChallenge)
