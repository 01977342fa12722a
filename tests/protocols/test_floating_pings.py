"""What a waiting node makes of its pings to the holder of a floating address."""

from __future__ import annotations

from holloway.protocols.floating_pings import LOST_PINGS, HolderPings

FENCE = 7


def ping(pings: HolderPings, now: float, *, is_there: bool, is_in_touch: bool) -> bool:
    """One round; whether others were asked."""
    is_asked = pings.are_others_asked(now)
    if is_asked:
        pings.others_asked(is_in_touch)
    pings.holder_asked(is_there)
    return is_asked


def test_others_are_asked_with_the_last_ping_before_the_doubt_and_no_more_once_they_answer() -> None:
    pings = HolderPings()
    pings.aim(FENCE)
    asked = [ping(pings, count / 5, is_there=False, is_in_touch=True) for count in range(20)]
    assert asked == [count == LOST_PINGS - 1 for count in range(20)]
    assert pings.doubt == (FENCE, True)


def test_others_that_do_not_answer_are_asked_again_every_second_until_they_do() -> None:
    pings = HolderPings()
    pings.aim(FENCE)
    asked = [count for count in range(33) if ping(pings, float(count) / 4, is_there=False, is_in_touch=count > 20)]
    assert asked == [2, 6, 10, 14, 18, 22]
    assert pings.doubt == (FENCE, True)


def test_an_answer_of_the_holder_and_another_holder_end_the_doubt_and_all_that_is_known() -> None:
    pings = HolderPings()
    for fence, is_there in ((FENCE, True), (FENCE + 1, False)):
        pings.aim(FENCE)
        for count in range(LOST_PINGS):
            ping(pings, 0.0, is_there=False, is_in_touch=True)
            assert pings.doubt == ((FENCE, True) if count == LOST_PINGS - 1 else (None, False))
        if is_there:
            ping(pings, 0.0, is_there=True, is_in_touch=True)
        pings.aim(fence)
        assert pings.doubt == (None, False)
