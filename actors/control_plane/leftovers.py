"""What an agent that was killed has left running: found by what its programs have in their environment, and ended.

Every program has `HOLLOWAY_NODE` and `HOLLOWAY_JOB`, and so has whatever it starts, in whatever process group and session. Not found are
programs that take them out, and those whose environment we may not read. Not responsible for which jobs have ended.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections import Counter
from collections.abc import Collection
from contextlib import ExitStack, suppress
from pathlib import Path

TERM_GRACE_S = 2.0
"""From SIGTERM to SIGKILL."""
MAX_ROUNDS = 8
"""Looks for what has been started meanwhile."""
_PROC = Path("/proc")


def end_leftovers(node: str, jobs: Collection[str]) -> Counter[str]:
    """End every process of these jobs on this node, but ourselves and whoever has started us; how many each job had.

    Blocks until they are gone, a few seconds at most.
    """
    ended: Counter[str] = Counter()
    marks = {f"HOLLOWAY_JOB={job}".encode(): job for job in jobs}
    mark = f"HOLLOWAY_NODE={node}".encode()
    spared = _ancestry()
    known: set[int] = set()
    for round_number in range(MAX_ROUNDS if jobs else 0):
        with ExitStack() as closing:
            handles = {}
            for pid in _pids():
                if pid in spared or _job_of(pid, mark, marks) is None:
                    continue
                with suppress(ProcessLookupError):
                    handle = os.pidfd_open(pid)
                    closing.callback(os.close, handle)
                    job = _job_of(pid, mark, marks)  # once more: from here on the number is its own
                    if job is not None:
                        handles[pid] = handle
                        ended[job] += pid not in known
            if not handles:
                break
            known.update(handles)
            _end(handles.values(), is_gentle=round_number == 0)
    return ended


def _end(handles: Collection[int], *, is_gentle: bool) -> None:
    if is_gentle:
        _signal(handles, signal.SIGTERM)
        _wait(handles)
    _signal(handles, signal.SIGKILL)
    _wait(handles)


def _signal(handles: Collection[int], number: signal.Signals) -> None:
    for handle in handles:
        with suppress(ProcessLookupError, PermissionError):
            signal.pidfd_send_signal(handle, number)


def _wait(handles: Collection[int]) -> None:
    """Until all are gone, for a while."""
    until, left = time.monotonic() + TERM_GRACE_S, set(handles)
    waiting = select.poll()
    for handle in left:
        waiting.register(handle, select.POLLIN)
    while left and (rest_s := until - time.monotonic()) > 0:
        for handle, _ in waiting.poll(rest_s * 1000):
            waiting.unregister(handle)
            left.discard(handle)


def _pids() -> list[int]:
    return [int(name) for name in os.listdir(_PROC) if name.isdecimal()]


def _job_of(pid: int, mark: bytes, marks: dict[bytes, str]) -> str | None:
    try:
        words = (_PROC / str(pid) / "environ").read_bytes().split(b"\0")
    except OSError:  # it has gone, or is somebody else's
        return None
    return next((marks[word] for word in words if word in marks), None) if mark in words else None


def _ancestry() -> set[int]:
    """We, and whoever has started us: a job may have, to put a newer agent in the place of the one that runs it."""
    found, pid = set(), os.getpid()
    while pid > 0 and pid not in found:
        found.add(pid)
        try:
            status = (_PROC / str(pid) / "stat").read_text()
        except OSError:
            break
        pid = int(status.rpartition(")")[2].split()[1])
    return found
