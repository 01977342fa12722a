"""Many seeds of one scenario, in this process or in several, and their summary.

Every seed is a run of its own and may run anywhere, so the summary is the same whatever `jobs` is, but for the time it
took. Not responsible for one run (`run`), nor for printing.
"""

from __future__ import annotations

import multiprocessing
import os
import secrets
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

from holloway.simulations.depth import Depth
from holloway.simulations.drawing import draw_plan
from holloway.simulations.milestones import Reached
from holloway.simulations.run import Failure, Outcome, Verdict, run_plan
from holloway.simulations.scenario import Scenario
from holloway.simulations.trace import Trace

MAX_FAILURES_KEPT = 20
"""Failures beyond these are counted only."""
MAX_JOBS = 64
ATTEMPTS = 3
"""So often a seed is run at most while the machine's clock, which should not count, got in between."""
ORPHANED_WITHIN_S = 0.5
_SEEDS_PER_TASK = 4
_TASKS_AHEAD = 4  # for each process: enough to keep it busy, few enough to stop soon


@dataclass(slots=True)
class Summary:
    """What came of a range of seeds. `failures` are the first by seed."""

    seeds_run: int = 0
    failed: int = 0
    first_failed: int | None = None
    failures: list[tuple[int, Failure]] = field(default_factory=list)
    virtual_ns: int = 0
    events: int = 0
    wall_s: float = 0.0
    reached: Reached = field(default_factory=Reached)
    never_reached: tuple[str, ...] = ()
    not_deterministic: tuple[int, ...] = ()
    """Seeds whose second run, in another process with another hash seed, went another way."""
    verdicts: dict[Verdict, None] = field(default_factory=dict)
    """Every kind of failure that there was."""

    def add(self, seed: int, outcome: Outcome) -> None:
        """Count one run; seeds come in order."""
        self.seeds_run += 1
        self.virtual_ns += outcome.virtual_ns
        self.events += outcome.events
        self.reached.add([outcome.reached])
        if outcome.failure is not None:
            self.failed += 1
            self.verdicts[outcome.failure.verdict] = None
            if self.first_failed is None:
                self.first_failed = seed
            if len(self.failures) < MAX_FAILURES_KEPT:
                self.failures.append((seed, outcome.failure))

    @property
    def verdict(self) -> Verdict:
        """The gravest of all that was found."""
        found = list(self.verdicts)
        if self.not_deterministic:
            found.append(Verdict.NOT_DETERMINISTIC)
        if self.never_reached:
            found.append(Verdict.NEVER_REACHED)
        return next((verdict for verdict in _GRAVEST_FIRST if verdict in found), Verdict.HELD)


_GRAVEST_FIRST = (
    Verdict.CRASHED,
    Verdict.SAFETY_BROKEN,
    Verdict.LIVENESS_BROKEN,
    Verdict.NOT_DETERMINISTIC,
    Verdict.NEVER_REACHED,
)


def run_seeds(
    scenario: Scenario,
    first: int,
    last: int,
    *,
    depth: Depth | None = None,
    offloads: bool | None = None,
    jobs: int = 1,
    check_determinism: bool = False,
    progress: Callable[[Summary], None] | None = None,
) -> Summary:
    """Run the seeds `first` to `last` at `depth`, or the one that the scenario prefers, with or without `offloads` or as it
    says. `progress` is told the summary so far after each run.

    A `sometimes` of the scenario that no seed of several reached is told in the summary. With `check_determinism` every seed runs
    twice, the second time in a fresh process under another `PYTHONHASHSEED`, and the traces must be equal.
    """
    began = time.perf_counter()
    summary = Summary()
    hashes: dict[int, str] = {}
    work = _Work(scenario, scenario.check_depth(depth), offloads, is_traced=check_determinism)
    for seed, outcome in _outcomes(work, range(first, last + 1), jobs):
        summary.add(seed, outcome)
        summary.wall_s = time.perf_counter() - began
        hashes[seed] = outcome.trace_sha256
        if progress is not None:
            progress(summary)
    if last > first:
        summary.never_reached = tuple(name for name in scenario.sometimes if not summary.reached.places[name])
    if check_determinism:
        with _other_hash_seed():
            again = list(_in_processes(work, range(first, last + 1), jobs))
        summary.not_deterministic = tuple(seed for seed, outcome in again if outcome.trace_sha256 != hashes[seed])
    summary.wall_s = time.perf_counter() - began
    return summary


@dataclass(frozen=True, slots=True)
class _Work:
    """What is to be run with every seed."""

    scenario: Scenario
    depth: Depth
    offloads: bool | None
    is_traced: bool

    def run(self, seed: int) -> Outcome:
        plan = draw_plan(self.scenario, seed, self.depth, offloads=self.offloads)
        for _ in range(ATTEMPTS):
            outcome = run_plan(plan, trace=Trace() if self.is_traced else None)
            if outcome.failure is None or outcome.failure.verdict is not Verdict.NOT_DETERMINISTIC:
                break
        return outcome


def _outcomes(work: _Work, seeds: range, jobs: int) -> Iterator[tuple[int, Outcome]]:
    """The outcomes in the order of seeds."""
    if jobs > 1 and len(seeds) > 1:
        yield from _in_processes(work, seeds, jobs)
    else:
        for seed in seeds:
            yield seed, work.run(seed)


def _in_processes(work: _Work, seeds: range, jobs: int) -> Iterator[tuple[int, Outcome]]:
    """As `_outcomes`, in `jobs` fresh processes. A task is a few seeds; tasks are handed out a little ahead."""
    context = multiprocessing.get_context("spawn")
    step = max(1, min(_SEEDS_PER_TASK, -(-len(seeds) // jobs)))
    tasks = iter([seeds[at : at + step] for at in range(0, len(seeds), step)])
    others = multiprocessing.active_children()
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_follow_the_parent, initargs=(os.getpid(),))
    waiting: deque[Future[list[tuple[int, Outcome]]]] = deque()
    try:
        for task in tasks:
            with _interrupts_blocked():
                waiting.append(pool.submit(_run_task, work, task))
            if len(waiting) >= jobs * _TASKS_AHEAD:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    except BaseException:  # an interruption above all: what is under way is not waited for
        for process in multiprocessing.active_children():
            if process not in others:
                process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _run_task(work: _Work, seeds: range) -> list[tuple[int, Outcome]]:
    return [(seed, work.run(seed)) for seed in seeds]


def _follow_the_parent(parent: int) -> None:
    """Leave interruptions to the parent, and do not outlive it, however it ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(ORPHANED_WITHIN_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """A process that starts in here is not interrupted before it can say what it does then."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _other_hash_seed() -> Iterator[None]:
    """Processes that start in here hash texts another way than those before."""
    name = "PYTHONHASHSEED"
    before = os.environ.get(name)
    os.environ[name] = str(1 + secrets.randbelow(4_000_000_000))
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
