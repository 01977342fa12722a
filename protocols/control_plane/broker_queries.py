"""What a broker answers when it is asked what it knows: rows, in parts that fit a message. Not responsible for who may ask."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from holloway.protocols.control_plane.agents import Agent, Agents
from holloway.protocols.control_plane.effects import Moment
from holloway.protocols.control_plane.jobs import Job, Phase
from holloway.protocols.control_plane.messages import Answer, Document

ROWS_A_PART = 16
"""The longest rows so often still fit the header of a message."""
_MAX_ERROR_CHARS = 200


def client_rows(now: Moment, agents: Agents, chosen: Sequence[Agent]) -> list[Document]:
    """A row for each agent: `is` live, expected (not seen since the broker began) or stale."""
    return [
        {
            "node": agent.record.name,
            "application": agent.record.application,
            "environment": agent.record.environment,
            "roles": list(agent.record.roles),
            "version": agent.register.version,
            "is": "stale" if not agents.is_live(agent, now) else "live" if agent.route is not None else "expected",
            "age_s": round(max(now.wall - agent.heard_wall, 0.0), 1),
        }
        for agent in chosen
    ]


def job_rows(now: Moment, jobs: Iterable[Job]) -> list[Document]:
    """A row for each job."""
    return [
        {
            "job": job.asked.job,
            "owner": job.asked.owner,
            "command": job.summary,
            "target": job.asked.target[:_MAX_ERROR_CHARS],
            "is": "running" if job.finished_at is None else "finished",
            "age_s": round(max(now.wall - job.asked.asked_at, 0.0), 1),
            "nodes": len(job.parts),
            "counts": {state.value: count for state, count in job.counts().items()},
        }
        for job in jobs
    ]


def part_rows(job: Job) -> list[Document]:
    """A row for each node of a job."""
    rows: list[Document] = []
    for part in job.parts.values():
        end = part.end
        row: dict[str, object] = {"node": part.node, "is": part.phase.name.lower()}
        if part.phase is Phase.ENDED and end is not None:
            row |= {
                "state": end.state.value,
                "rc": end.rc,
                "duration_s": round(end.duration_s, 3),
                "error": end.error[:_MAX_ERROR_CHARS],
                "is_truncated": end.is_truncated,
                "late": end.late,
            }
        rows.append(row)
    return rows


def answer_parts(request: str, rows: Sequence[Document]) -> list[Answer]:
    """The rows as answers, of which there is at least one."""
    starts = range(0, max(len(rows), 1), ROWS_A_PART)
    return [
        Answer(request, number, at == starts[-1], {"rows": [dict(row) for row in rows[at : at + ROWS_A_PART]]})
        for number, at in enumerate(starts, 1)
    ]
