"""How a job is shown while it runs and when it has ended: to people, as one JSON document, or as lines of JSON.

To people: of one node, what it writes, as it comes; of many, equal answers once with the nodes that gave them, or with `--stream`
each line behind the name of its node. Progress and sums go to stderr. Not responsible for getting any of it (`operator_session`).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TextIO

from holloway.cli.exit_codes import ExitCode
from holloway.cli.plain_text import one_line
from holloway.cli.printing import print_json, say
from holloway.protocols.control_plane.collapse import Group, NodeResult, collapse, natural
from holloway.protocols.control_plane.messages import Expect, Finished, NodeOutput, Result, State, Stream
from holloway.protocols.control_plane.plain_output import Sanitiser, sanitise

SCHEMA = "holloway.exec/1"
KEPT_BYTES = 1 << 20
"""Of one stream of one node, where all is shown at the end; `--stream` and `--jsonl` show everything."""
LINE_CHARS = 64 * 1024
"""A line that is longer is shown in pieces of about that: it may have no end."""
MAX_NAMES = 12


class JobView(Protocol):
    """Somebody who is shown a job."""

    outcome: Outcome

    def begin(self, expect: Expect) -> None:
        """The nodes; again, when the broker has begun anew."""

    def take(self, message: NodeOutput | Result | Finished, gap: int) -> None:
        """The next thing; `gap`: so many before it were thrown away, because we did not read."""


@dataclass(slots=True)
class Outcome:
    """What is known of a job."""

    job: str = ""
    nodes: tuple[str, ...] = ()
    results: dict[str, Result] = field(default_factory=dict)

    def counts(self) -> dict[State, int]:
        """How many nodes ended how; states without any are left out."""
        states = [result.state for result in self.results.values()]
        return {state: states.count(state) for state in State if state in states}

    def exit_code(self) -> int:
        """One node passes its code on; of several the worst counts."""
        if len(self.nodes) == 1 and self.results:
            only = self.results[self.nodes[0]]
            if only.rc is not None and only.state in (State.OK, State.FAILED):
                return only.rc
        states = {result.state for result in self.results.values()}
        if states <= {State.OK}:
            return ExitCode.OK
        if states <= {State.OK, State.UNREACHABLE}:
            return ExitCode.PARTIAL
        return ExitCode.TIMEOUT if states <= {State.OK, State.UNREACHABLE, State.TIMED_OUT} else ExitCode.FAILED

    def last_line(self) -> str:
        """The sums, with the names of those that were not ok."""
        parts = []
        for state, count in self.counts().items():
            names = sorted((node for node, each in self.results.items() if each.state is state), key=natural)
            parts.append(f"{count} {state.value}" + ("" if state is State.OK else f" ({_names(names)})"))
        missing = len(self.nodes) - len(self.results)
        if missing:
            parts.append(f"{missing} not ended")
        return ", ".join(parts) or "no node"


class _Kept:
    """Output that is shown at the end: the beginning of each stream of each node."""

    def __init__(self) -> None:
        self._parts: dict[tuple[str, Stream], bytearray] = {}
        self.left_out: dict[str, int] = {}

    def add(self, message: NodeOutput) -> None:
        part = self._parts.setdefault((message.node, message.stream), bytearray())
        room = max(KEPT_BYTES - len(part), 0)
        part += message.body[:room]
        if len(message.body) > room:
            self.left_out[message.node] = self.left_out.get(message.node, 0) + len(message.body) - room

    def of(self, node: str, stream: Stream) -> bytes:
        return bytes(self._parts.get((node, stream), b""))

    def clear(self) -> None:
        self._parts.clear()
        self.left_out.clear()


class _Lines:
    """The beginning of one line that has not ended yet."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._size = 0

    def feed(self, text: str) -> list[str]:
        """The lines that have ended with that."""
        *whole, rest = text.split("\n")
        if whole:
            whole[0] = self.rest() + whole[0]
        self._parts.append(rest)
        self._size += len(rest)
        if self._size > LINE_CHARS:
            whole.append(self.rest())
        return whole

    def rest(self) -> str:
        """What has no end, which is forgotten here."""
        text = "".join(self._parts)
        self._parts.clear()
        self._size = 0
        return text


class PeopleView:
    """For people. `is_streamed`: many nodes, too, as it comes."""

    def __init__(self, *, is_streamed: bool) -> None:
        self.outcome = Outcome()
        self._is_streamed = is_streamed
        self._sanitisers: dict[tuple[str, Stream], Sanitiser] = {}
        self._lines: dict[tuple[str, Stream], _Lines] = {}
        self._kept = _Kept()

    def begin(self, expect: Expect) -> None:
        if self.outcome.job:
            say("the broker has begun anew: what it has already shown may come again")
        self.outcome.job, self.outcome.nodes = expect.job, expect.nodes
        self._kept.clear()
        if len(expect.nodes) != 1 and expect.job:
            say(f"expecting {len(expect.nodes)} nodes (job {expect.job})")

    def take(self, message: NodeOutput | Result | Finished, gap: int) -> None:
        if gap and (self._is_streamed or self._is_alone):
            say(f"({gap} pieces of output were left out)")
        match message:
            case NodeOutput():
                self._output(message)
            case Result(node=node):
                self.outcome.results[node] = message
                self._flush(node)
                self._progress()
            case Finished():
                self._end()

    @property
    def _is_alone(self) -> bool:
        return len(self.outcome.nodes) == 1

    def _output(self, message: NodeOutput) -> None:
        if not self._is_alone and not self._is_streamed:
            self._kept.add(message)
            return
        out = _stream(message.stream)
        if self._is_alone and not out.isatty():  # byte for byte; to a terminal it is made safe
            out.flush()
            out.buffer.write(message.body)
            out.buffer.flush()
            return
        key = message.node, message.stream
        text = self._sanitisers.setdefault(key, Sanitiser()).feed(message.body)
        if self._is_alone:
            out.write(text)
        else:
            for line in self._lines.setdefault(key, _Lines()).feed(text):
                out.write(f"{message.node}: {line}\n")
        out.flush()

    def _flush(self, node: str) -> None:
        """The last line of a node that does not end."""
        for stream in Stream:
            lines = self._lines.pop((node, stream), None)
            if lines is not None and (rest := lines.rest()):
                _stream(stream).write(f"{node}: {rest}\n")
                _stream(stream).flush()

    def _progress(self) -> None:
        done, total = len(self.outcome.results), len(self.outcome.nodes)
        if total > 1 and sys.stderr.isatty():
            print(f"\r{done} of {total}", end="" if done < total else "\r\x1b[K", file=sys.stderr, flush=True)

    def _end(self) -> None:
        if self._is_alone:
            self._tell_one()
            return
        if not self._is_streamed:
            for group in collapse(_results(self.outcome, self._kept)):
                _print_group(group)
        for node, count in sorted(self._kept.left_out.items()):
            say(f"{node}: {count} bytes more; --stream shows all")
        sys.stdout.flush()
        say(self.outcome.last_line())

    def _tell_one(self) -> None:
        """What the output and the exit code of the one node do not say."""
        result = next(iter(self.outcome.results.values()), None)
        if result is not None and result.is_truncated:
            say(f"{result.node}: not all of its output is here")
        if result is not None and (result.error or result.rc is None):
            say(f"{result.node}: {result.state.value}{f': {one_line(result.error)}' if result.error else ''}")


class JsonView:
    """One document at the end."""

    def __init__(self) -> None:
        self.outcome = Outcome()
        self._kept = _Kept()

    def begin(self, expect: Expect) -> None:
        self.outcome.job, self.outcome.nodes = expect.job, expect.nodes
        self._kept.clear()

    def take(self, message: NodeOutput | Result | Finished, gap: int) -> None:
        match message:
            case NodeOutput():
                self._kept.add(message)
            case Result(node=node):
                self.outcome.results[node] = message
            case Finished():
                self.print()

    def print(self) -> None:
        """What is known by now."""
        rows = []
        for each in sorted(_results(self.outcome, self._kept), key=lambda each: natural(each.node)):
            left_out = each.node in self._kept.left_out or self.outcome.results[each.node].is_truncated
            rows.append(_row(each, is_truncated=left_out))
        print_json({"schema": SCHEMA, "job": self.outcome.job, "expected": len(self.outcome.nodes), "results": rows})


class JsonLinesView:
    """A line of JSON for everything, as it comes."""

    def __init__(self) -> None:
        self.outcome = Outcome()

    def begin(self, expect: Expect) -> None:
        self.outcome.job, self.outcome.nodes = expect.job, expect.nodes
        self._print({"expected": len(expect.nodes), "nodes": list(expect.nodes)})

    def take(self, message: NodeOutput | Result | Finished, gap: int) -> None:
        if gap:
            self._print({"left_out": gap})
        match message:
            case NodeOutput():
                self._print({"node": message.node, "stream": message.stream.value, "text": _text(message.body)})
            case Result(node=node):
                self.outcome.results[node] = message
                row = _row(_node_result(message, b"", b""), is_truncated=message.is_truncated)
                self._print({key: value for key, value in row.items() if key not in ("stdout", "stderr")})
            case Finished():
                self._print({"counts": {state.value: count for state, count in self.outcome.counts().items()}})

    def _print(self, fields: Mapping[str, object]) -> None:
        print(json.dumps({"schema": SCHEMA, "job": self.outcome.job, **fields}, allow_nan=False), flush=True)


def _results(outcome: Outcome, kept: _Kept) -> list[NodeResult]:
    return [
        _node_result(result, kept.of(node, Stream.STDOUT), kept.of(node, Stream.STDERR))
        for node, result in outcome.results.items()
    ]


def _node_result(result: Result, stdout: bytes, stderr: bytes) -> NodeResult:
    return NodeResult(result.node, result.state, result.rc, stdout, stderr, result.duration_s, result.error)


def _row(each: NodeResult, *, is_truncated: bool) -> dict[str, Any]:
    return {
        "node": each.node,
        "state": each.state.value,
        "rc": each.rc,
        "stdout": _text(each.stdout),
        "stderr": _text(each.stderr),
        "duration_s": round(each.duration_s, 3),
        "error": each.error,
        "is_truncated": is_truncated,
    }


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _print_group(group: Group) -> None:
    result = group.result
    state = result.state.value if result.rc in (None, 0) else f"{result.state.value}, code {result.rc}"
    print(f"{_names(group.nodes)}: {state}{f': {one_line(result.error)}' if result.error else ''}")
    for text in (sanitise(result.stdout), sanitise(result.stderr)):
        for line in text.splitlines():
            print(f"  {line}")


def _names(names: Sequence[str]) -> str:
    shown = " ".join(names[:MAX_NAMES])
    return shown if len(names) <= MAX_NAMES else f"{shown} and {len(names) - MAX_NAMES} more"


def _stream(stream: Stream) -> TextIO:
    return sys.stdout if stream is Stream.STDOUT else sys.stderr
