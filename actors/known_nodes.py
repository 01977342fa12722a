"""What a node of a network with an authority keeps of the others, so that another life of it meets them with the registry away.

Records are kept as they were signed and verified again when they are read. Writing waits for the disk in a thread, so that packets
do not. Not responsible for what is known (`records`), for what the authority says (`enrolled`), nor for when to keep (`membership`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

import trio

from holloway.actors.enrolled import KNOWN, Enrolled
from holloway.actors.registry import Entry
from holloway.actors.state_directory import MAX_FILE_BYTES
from holloway.actors.wanted import MAX_PEERS
from holloway.protocols.errors import PortError
from holloway.protocols.membership import RecordProblem

if TYPE_CHECKING:
    from holloway.actors.belief import Belief
    from holloway.actors.bounded_log import BoundedLog
    from holloway.actors.records import Records

_UNKEPT = "what is known cannot be kept: %s"
_HEAD, _TAIL = '{"v":1,"records":{', "}}"


class KnownNodes:
    """The file `known.json`, and `seen.json` with it. Used by one task at a time."""

    def __init__(self, enrolled: Enrolled, belief: Belief, records: Records, log: BoundedLog) -> None:
        self._enrolled, self._belief, self._records, self._log = enrolled, belief, records, log
        self._kept: dict[str, bytes] = {}

    def recall(self) -> bool:
        """Learn again whom we knew in an earlier life. Whether there are any."""
        for name, value in _known(self._enrolled.state.read(KNOWN)).items():
            self._records.learn(name.encode(), Entry(value, 0, 0, 0, None), trio.current_time())
        self._kept = self._records.values()
        return bool(self._kept)

    async def keep_heard(self) -> None:
        """Keep what the authority has said, and the serial number of our record, if the disk takes it."""
        try:
            await self._enrolled.keep_owed()
        except PortError as error:
            self._log.warning(_UNKEPT, error)

    async def keep(self) -> None:
        """Keep what we know, if the disk takes it; whoever has left may be back while the registry is away.

        Once begun it is done to its end, also when the caller is cancelled.
        """
        with trio.CancelScope(shield=True):
            try:
                await self._enrolled.keep_owed()
                kept = self._worth_keeping()
                if kept != self._kept:
                    await self._enrolled.state.apart(partial(_write, self._enrolled, kept))
                    self._kept = kept
            except PortError as error:
                self._log.warning(_UNKEPT, error)

    def _worth_keeping(self) -> dict[str, bytes]:
        known = self._records.values()
        absent = [name for name in self._kept if name not in known]
        gone = [name for name in absent if isinstance(self._belief.read(name, self._kept[name]), RecordProblem)]
        gone += absent[: max(0, len(absent) + len(known) - MAX_PEERS)]
        return {name: value for name, value in (self._kept | known).items() if name not in gone}


def _write(enrolled: Enrolled, kept: Mapping[str, bytes]) -> None:
    """First how new they were: records without that would let older ones back in. Then as many as can be read again, of which those
    that say least come first.
    """
    enrolled.keep_seen()
    # One by one: other threads get on between two of them.
    lines = [f"{json.dumps(name)}:{json.dumps(value.decode('ascii', 'replace'))}" for name, value in kept.items()]
    room, chosen = MAX_FILE_BYTES - len(_HEAD + _TAIL), list[str]()
    for line in sorted(lines, key=len):
        room -= len(line) + 1
        if room < 0:
            break
        chosen.append(line)
    enrolled.state.write(KNOWN, _HEAD + ",".join(sorted(chosen)) + _TAIL)


def _known(kept: bytes | None) -> dict[str, bytes]:
    """The records in the file, by name; none when it is not as we write it: then the registry will tell."""
    try:
        records = json.loads(kept or b"{}").get("records", {})
        return {str(name): str(value).encode() for name, value in records.items()}
    except (ValueError, AttributeError, RecursionError):
        return {}
