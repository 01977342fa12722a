"""The errors of the simulator.

    SimulationError
    ├─ ScenarioError      a scenario or a plan cannot be used
    └─ PropertyViolated   the system under test broke a promise; ends the run, and is its result

Not responsible for what the system under test raises by mistake: that is a crash, see `run`.
"""

from __future__ import annotations

from holloway.protocols.errors import HollowayError


class SimulationError(HollowayError):
    """Root of what the simulator raises on purpose."""


class ScenarioError(SimulationError):
    """A scenario or a plan cannot be used; `what` begins with the file and, where it is known, the line."""


class PropertyViolated(SimulationError):
    """A promise was broken: the `name` of the property, and a `message` that says how."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(f"{name} does not hold", message)
        self.name = name
        self.message = message
