"""What an agent remembers across its lives: which jobs it has begun, how they ended, and which ends the broker has.

    job/ID    begun, ended (with its end, until that is noted), or noted
    floor     no job that was issued at that time or before is begun any more: some of those are forgotten

A job is begun only when nothing is remembered of it and it is above the floor, so it is begun once, whatever the clock says and
however often it is sent. Not responsible for writing: records leave as effects.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from holloway.protocols.control_plane.effects import AgentEffect, Forget, Keep
from holloway.protocols.control_plane.fields import (
    COUNT,
    DIGEST,
    DURATION,
    ENDS,
    ERROR,
    FLAG,
    RC,
    STATE,
    TOKEN,
    WALL,
    choice,
    row,
)
from holloway.protocols.control_plane.jobs import read_record, write_record
from holloway.protocols.control_plane.messages import Done, State

REMEMBERED = 4096
"""Jobs whose end the broker has, and that are remembered so that they are not begun again."""
MAX_ENDED = 1024
"""Ends that wait for the broker; of more, the oldest are not told any more."""


class Stage(Enum):
    """What is known of a job."""

    BEGUN = "begun"
    ENDED = "ended"
    NOTED = "noted"


@dataclass(slots=True)
class Entry:
    """One job. `done` while it is ended and not noted."""

    stage: Stage
    issued_at: float
    done: Done | None = None


_DONE = row(
    Done,
    job=TOKEN,
    state=STATE,
    rc=RC,
    duration_s=DURATION,
    error=ERROR,
    steps=ENDS,
    outputs=COUNT,
    is_truncated=FLAG,
    digest=DIGEST,
)
_NO_END = {"stage": choice(Stage), "issued_at": WALL}
_WITH_END = {**_NO_END, "done": _DONE}
_FLOOR = {"issued_at": WALL}


class Journal:
    """The journal. Methods put what is to be kept into `out`."""

    def __init__(self) -> None:
        self.floor = 0.0
        self.entries: OrderedDict[str, Entry] = OrderedDict()
        self._noted: OrderedDict[str, None] = OrderedDict()
        self._ended: OrderedDict[str, None] = OrderedDict()

    def ended(self) -> list[Done]:
        """Ends that the broker has not noted yet."""
        return [done for name in self._ended if (done := self.entries[name].done) is not None]

    def begin(self, job: str, issued_at: float, out: list[AgentEffect]) -> None:
        """A job is about to begin."""
        self.entries[job] = Entry(Stage.BEGUN, issued_at)
        out.append(Keep(f"job/{job}", _write(self.entries[job])))

    def end(self, done: Done, issued_at: float, out: list[AgentEffect]) -> None:
        """A job has ended, or will never begin."""
        self.entries[done.job] = entry = Entry(Stage.ENDED, issued_at, done)
        self._ended[done.job] = None
        out.append(Keep(f"job/{done.job}", _write(entry)))
        if len(self._ended) > MAX_ENDED:
            self.note(next(iter(self._ended)), out)

    def note(self, job: str, out: list[AgentEffect]) -> bool:
        """The broker has the end; False when there is none."""
        entry = self.entries.get(job)
        if entry is None or entry.stage is not Stage.ENDED:
            return False
        del self._ended[job]
        entry.stage, entry.done = Stage.NOTED, None
        self._noted[job] = None
        out.append(Keep(f"job/{job}", _write(entry)))
        while len(self._noted) > REMEMBERED:
            oldest, _ = self._noted.popitem(last=False)
            issued_at = self.entries.pop(oldest).issued_at
            if issued_at > self.floor:
                self.floor = issued_at
                out.append(Keep("floor", write_record({"issued_at": issued_at})))
            out.append(Forget(f"job/{oldest}"))
        return True

    def restore(self, records: Iterable[tuple[str, bytes]], out: list[AgentEffect]) -> int:
        """Remember what an earlier life has kept; how many records were damaged. What it had begun and not ended has ended
        `unknown`.
        """
        bad = 0
        found: list[tuple[str, Entry]] = []
        for key, record in records:
            entry = _read(record)
            floor = read_record(record, _FLOOR) if key == "floor" else None
            if floor is not None:
                issued_at = floor[0]["issued_at"]
                assert isinstance(issued_at, float)
                self.floor = issued_at
            elif entry is None or not key.startswith("job/"):
                bad += 1
            else:
                found.append((key.removeprefix("job/"), entry))
        for job, entry in sorted(found, key=lambda pair: (pair[1].issued_at, pair[0])):
            self.entries[job] = entry
            if entry.stage is Stage.NOTED:
                self._noted[job] = None
            elif entry.done is not None:
                self._ended[job] = None
            else:
                why = "the agent stopped while it ran: it may have done its work, or some of it"
                self.end(Done(job, State.UNKNOWN, None, 0.0, why, (), 0, True, ""), entry.issued_at, out)
        return bad


def begun_in(records: Iterable[tuple[str, bytes]]) -> list[str]:
    """The jobs that an earlier life has begun and not ended."""
    found = ((key.removeprefix("job/"), _read(record)) for key, record in records if key.startswith("job/"))
    return [job for job, entry in found if entry is not None and entry.stage is Stage.BEGUN]


def _write(entry: Entry) -> bytes:
    fields: dict[str, object] = {"stage": entry.stage.value, "issued_at": entry.issued_at}
    if entry.done is not None:
        fields["done"] = _DONE.write(entry.done)
    return write_record(fields)


def _read(record: bytes) -> Entry | None:
    read = read_record(record, _WITH_END) or read_record(record, _NO_END)
    if read is None:
        return None
    fields = read[0]
    stage, issued_at, done = fields["stage"], fields["issued_at"], fields.get("done")
    assert isinstance(stage, Stage)
    assert isinstance(issued_at, float)
    if (stage is Stage.ENDED) != (done is not None):
        return None
    return Entry(stage, issued_at, done if isinstance(done, Done) else None)
