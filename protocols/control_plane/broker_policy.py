"""What a broker allows, and how much of everything it holds. Not responsible for reading configuration."""

from __future__ import annotations

from dataclasses import dataclass

from holloway.protocols.control_plane.access import DEFAULT_ACCESS, AccessTable


@dataclass(frozen=True, slots=True)
class BrokerPolicy:
    """`start_within_s`: a job that no agent has begun by then does not begin any more. `grace_s`: how long after its deadline
    an answer may take. `cancel_within_s`: how long agents may take to end what was cancelled. `keep_s`, `max_jobs`: how long finished jobs are known, and how many jobs there are. `held_bytes`: output
    of all jobs together.
    """

    access: AccessTable = DEFAULT_ACCESS
    heartbeat_s: float = 10.0
    start_within_s: float = 60.0
    grace_s: float = 15.0
    cancel_within_s: float = 15.0
    max_deadline_s: float = 86_400.0
    keep_s: float = 86_400.0
    max_jobs: int = 1000
    max_running: int = 512
    max_running_each: int = 64
    held_bytes: int = 64 * 1024 * 1024
