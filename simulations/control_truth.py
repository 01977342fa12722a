"""What really happens in a simulated control plane: which jobs there are, what ran where, what was said of it.

Everybody tells it what he does, and it holds that against the promises. Not responsible for who does what (`control_hosts`).
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence

from holloway.protocols.control_plane.file_names import NameProblem, confined
from holloway.protocols.control_plane.jobs import Asked, End
from holloway.protocols.control_plane.messages import State
from holloway.simulations.control_oracles import (
    Execution,
    Fate,
    a_request_is_one_job,
    an_end_stays,
    no_result_is_shown_twice,
    nothing_runs_twice,
    only_operators_command,
    states_tell_the_truth,
    what_is_barred_is_not_sent,
    what_is_over_does_not_begin,
    who_comes_back_hears_what_was_cancelled,
)
from holloway.simulations.milestones import Reached
from holloway.simulations.oracles import hold


class Truth:
    """The truth of one run."""

    def __init__(self, operators: tuple[str, ...], reached: Reached) -> None:
        self.jobs: dict[str, Asked] = {}
        self._operators, self._reached = operators, reached
        self._requests: dict[tuple[str, str], str] = {}
        self._steps: dict[tuple[str, str], list[Execution]] = {}
        self._ends: dict[tuple[str, str], End] = {}
        self._barred: set[str] = set()
        self._shown: dict[tuple[str, str, str, str], State] = {}
        self._syncs: dict[str, dict[str, list[tuple[str, ...]]]] = {}

    def asked(self, asked: Asked) -> None:
        """The broker has kept a job."""
        key = (asked.owner, asked.request)
        hold(a_request_is_one_job, self._requests.get(key), asked.job, asked.request)
        self._requests[key] = asked.job
        self.jobs[asked.job] = asked

    def sent(self, job: str, nodes: Iterable[str]) -> None:
        """The broker has kept that a job is about to leave for these nodes."""
        names = [step.arguments[0] for step in self.jobs[job].steps if step.command == "sync"]
        folders = [parts for name in names if not isinstance(parts := confined(name), NameProblem)]
        for node in nodes if folders else ():
            if (node, job) not in self._ends:
                self._syncs.setdefault(node, {})[job] = folders

    def cancelled(self, job: str) -> None:
        """The broker has kept that a job is cancelled."""
        for jobs in self._syncs.values():
            jobs.pop(job, None)

    def may_read(self, node: str, parts: tuple[str, ...]) -> bool:
        """Whether a job that was sent to the node, and is neither over there nor cancelled, tells it to sync that."""
        return any(
            parts[: len(folder)] == folder for folders in self._syncs.get(node, {}).values() for folder in folders
        )

    def revoked(self, owner: str) -> None:
        """The broker has done what is to be done when the key of somebody counts no more."""
        self._barred.update(name for name, asked in self.jobs.items() if asked.owner == owner)

    def leaves(self, node: str, job: str) -> None:
        """A job leaves the broker for a node."""
        hold(what_is_barred_is_not_sent, job in self._barred, node, job)

    def registered(self, node: str, cancelled: Container[str], told: Sequence[str]) -> None:
        """The broker has answered an agent that has come, and told it that these jobs are cancelled."""
        running = [
            job
            for (where, job), steps in self._steps.items()
            if where == node and job in cancelled and steps[-1].fate is Fate.RUNS and not steps[-1].is_killed
        ]
        hold(who_comes_back_hears_what_was_cancelled, running, told, node)

    def begins(self, node: str, job: str, step: int) -> Execution:
        """A step begins on a node."""
        steps = self._steps.setdefault((node, job), [])
        hold(nothing_runs_twice, step < len(steps), node, job, step)
        hold(what_is_over_does_not_begin, self._ends.get((node, job)), node, job)
        hold(only_operators_command, self.jobs[job].owner if job in self.jobs else None, self._operators, node)
        steps.append(Execution())
        self._reached.reach("job_ran")
        return steps[-1]

    def ended(self, node: str, job: str, end: End) -> None:
        """The broker has kept how a job ended on a node."""
        before = self._ends.get((node, job))
        hold(an_end_stays, before and before.state, end.state, node, job)
        if before is None:
            self._ends[node, job] = end
            self._syncs.get(node, {}).pop(job, None)
            steps = self._steps.get((node, job), [])
            hold(states_tell_the_truth, end, steps, len(self.jobs[job].steps), node)
            self._reached.reach(f"job_{end.state.value.replace('-', '_')}")
            if end.is_truncated:
                self._reached.reach("job_output_missed")
        elif end.late:
            self._reached.reach("job_answered_late")

    def shown(self, watcher: str, life: str, job: str, node: str, state: State) -> None:
        """Somebody sees a result."""
        hold(no_result_is_shown_twice, (watcher, life, job, node) in self._shown, node, job)
        self._shown[watcher, life, job, node] = state
        hold(an_end_stays, self._ends[node, job].state, state, node, job)

    def died(self, node: str) -> None:
        """The agent of a node is dead, and with it what it ran."""
        for (where, _), steps in self._steps.items():
            if where == node:
                for step in steps:
                    if step.fate is Fate.RUNS:
                        step.fate = Fate.DIED
