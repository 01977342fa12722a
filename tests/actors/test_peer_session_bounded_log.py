"""A log that nobody can fill."""

from __future__ import annotations

import logging

import pytest
import trio
from trio.testing import MockClock

from holloway.actors.bounded_log import BoundedLog

LOG = logging.getLogger("holloway.test.bounded")


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records]


async def test_so_many_lines_pass_in_a_period_and_the_next_says_how_many_did_not(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    log = BoundedLog(LOG, lines=3, period_s=10.0)
    for number in range(5):
        log.warning("line %d", number)
    await trio.sleep(9.9)
    log.error("line 5")
    assert lines(caplog) == ["line 0", "line 1", "line 2"]
    await trio.sleep(0.1)
    log.error("line 6")
    log.warning("line 7")
    assert lines(caplog)[3:] == ["3 more lines of this kind were left out", "line 6", "line 7"]
    assert [each.levelname for each in caplog.records[4:]] == ["ERROR", "WARNING"]
    await trio.sleep(10)
    log.warning("line 8")
    assert lines(caplog)[6:] == ["line 8"]


async def test_lines_that_nobody_wants_take_no_place(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger=LOG.name)
    log = BoundedLog(LOG, lines=2, period_s=10.0)
    for _ in range(100):
        log.debug("not wanted")
    log.info("one")
    log.info("two")
    assert lines(caplog) == ["one", "two"]
