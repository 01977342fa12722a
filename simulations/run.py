"""Running a plan to its end, and saying what came of it: the `Outcome`.

Not responsible for many seeds (`batch`) nor for making a failing plan smaller (`shrink`).
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING

from holloway.simulations.breadth import HeapWorld
from holloway.simulations.depth import Depth
from holloway.simulations.errors import PropertyViolated
from holloway.simulations.milestones import Reached
from holloway.simulations.oracles import EVENTUALLY, no_actor_crashes
from holloway.simulations.plan import Plan
from holloway.simulations.trace import Trace

if TYPE_CHECKING:
    from holloway.simulations.capture import Capture
    from holloway.simulations.control_world import ControlWorld
    from holloway.simulations.world import World

REAL_TIME = "no_real_time_passes"
"""The promise of `dtls_oracles` (which only those who simulate DTLS import) that the machine breaks, and not what is simulated."""
CRASH = "no_crash"
"""The property that is broken when the system under test raises what it should not."""


class Verdict(IntEnum):
    """What came of a run; the value is the exit code of the command."""

    HELD = 0
    SAFETY_BROKEN = 1
    LIVENESS_BROKEN = 3
    NEVER_REACHED = 4
    NOT_DETERMINISTIC = 5
    CRASHED = 70


@dataclass(frozen=True, slots=True)
class Failure:
    """A broken property, and when in virtual time."""

    verdict: Verdict
    property: str
    message: str
    at_ns: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """One run. `trace_sha256` is empty when nothing was traced; `wall_s` is what the run took."""

    plan: Plan
    failure: Failure | None
    events: int
    virtual_ns: int
    wall_s: float
    reached: Reached
    trace_sha256: str


def run_plan(
    plan: Plan,
    *,
    trace: Trace | None = None,
    capture: Capture | None = None,
    progress: Callable[[int], None] | None = None,
) -> Outcome:
    """Run `plan`. `progress` is told the virtual time now and then. Never raises for what the system under test does,
    and `OSError` for a file of the trace or the capture that cannot be written.
    """
    began = time.perf_counter()
    failure = None
    world = None
    try:
        world = _world(plan, trace, capture)
        world.run(progress)
    except PropertyViolated as broken:
        failure = Failure(
            _verdict(broken.name), broken.name, broken.message, 0 if world is None else world.timeline.now_ns
        )
    except OSError:
        raise  # of a file that is written: nothing that is simulated touches one
    except Exception as error:  # noqa: BLE001 - whatever the system under test raises is what we are here to find
        failure = Failure(Verdict.CRASHED, CRASH, _place(error), 0 if world is None else world.timeline.now_ns)
    if trace is not None and failure is not None:
        trace.add(failure.at_ns, "world", "violation", "", 0, trace.count, failure.property)
    return Outcome(
        plan=plan,
        failure=failure,
        events=0 if world is None else world.timeline.events,
        virtual_ns=0 if world is None else world.timeline.now_ns,
        wall_s=time.perf_counter() - began,
        reached=Reached() if world is None else world.reached,
        trace_sha256="" if trace is None else trace.digest(),
    )


def _world(plan: Plan, trace: Trace | None, capture: Capture | None) -> World | ControlWorld:
    if plan.control is not None:
        from holloway.simulations.control_world import ControlWorld

        return ControlWorld(plan, trace)
    if plan.depth == Depth.HEAP:
        return HeapWorld(plan, trace, capture)
    # Here and not above: the heap needs none of the actors.
    from holloway.simulations.actor_world import ActorWorld

    return ActorWorld(plan, trace, capture)


def _verdict(name: str) -> Verdict:
    if name == no_actor_crashes.__name__:
        return Verdict.CRASHED
    if name == REAL_TIME:
        return Verdict.NOT_DETERMINISTIC
    return Verdict.LIVENESS_BROKEN if name in EVENTUALLY else Verdict.SAFETY_BROKEN


def _place(error: Exception) -> str:
    """What was raised, and where: the innermost frame."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}: {error}{where}"
