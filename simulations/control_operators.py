"""The operators of a simulated control plane: what they ask for, what they see, and that they try again when nothing comes.

Not responsible for what becomes of what they ask for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from holloway.protocols.control_plane.effects import Principal
from holloway.protocols.control_plane.messages import (
    NO_JOB,
    Ask,
    Attach,
    CancelJob,
    Denied,
    Expect,
    Finished,
    Message,
    NodeOutput,
    Query,
    Refusal,
    Result,
    Role,
    Rollout,
    Seen,
    Step,
)
from holloway.protocols.control_plane.wire import decode, encode
from holloway.simulations.control_files import FileClient
from holloway.simulations.control_hosts import SECOND_NS, Host
from holloway.simulations.streams import below, stream

if TYPE_CHECKING:
    from holloway.simulations.control_world import ControlWorld

PATIENCE_NS = 3 * SECOND_NS
"""After so long without anything new an operator asks again."""
_TARGETS = ("all", "role=web", "role=db", "!role=db", "n1", "n*,nobody", "role=web !n1", "nobody")
_FOLDERS = ("shared", "ann", "bob")
_ROLLOUTS = (Rollout(), Rollout(), Rollout(batch=2), Rollout(batch=40, is_percent=True, max_fail=1), Rollout(canary=1))


@dataclass(slots=True)
class _Watched:
    """A job that an operator waits for. `heard_ns`: when something of it came last."""

    ask: Ask
    heard_ns: int
    job: str = NO_JOB
    life: str = ""
    position: int = 0
    is_over: bool = False


class OperatorHost(Host):
    """The machine of one operator."""

    def __init__(self, world: ControlWorld, name: str) -> None:
        super().__init__(world, name)
        self.principal = Principal(name, Role.OPERATOR)
        self.is_reading = True
        self._asked = 0
        self._watched: dict[str, _Watched] = {}
        self.files = FileClient(self)

    def begin(self) -> None:
        """See `Host`."""
        self.connection += 1

    def lose(self) -> None:
        """See `Host`. Nobody waits for what was asked for any more."""
        self._watched.clear()
        self.files.lose()

    def wake(self) -> None:
        """See `Host`."""
        self.files.wake()

    def unheard(self) -> list[str]:
        """Jobs whose end has not come."""
        return [each.job for each in self._watched.values() if each.job and not each.is_over]

    def ask(self, *, is_flood: bool = False) -> None:
        """Ask for something or other."""
        if not self.is_up() or self.paused:
            return
        self._asked += 1
        dice = stream(self.world.plan.seed, "asks", self.name, str(self._asked))
        request = dice.randbytes(16).hex()
        bits = [dice.getrandbits(64) for _ in range(5)]
        steps: tuple[Step, ...] = (Step("exec", ("true",)),)
        if bits[0] % 4 == 0:
            steps = (Step("echo", ("1",)), *steps)
        elif bits[0] % 8 == 1:
            steps = (Step("sync", (_FOLDERS[below(bits[0] >> 3, len(_FOLDERS))],)), *steps)
        target = _TARGETS[below(bits[1], len(_TARGETS))]
        ask = Ask(request, steps, target, 1.0 + below(bits[2], 9), _ROLLOUTS[below(bits[3], len(_ROLLOUTS))])
        self._watched[request] = watched = _Watched(ask, self.world.timeline.now_ns)
        self._say(ask)
        now_ns = self.world.timeline.now_ns
        self.world.timeline.at(now_ns + PATIENCE_NS, self._again, watched, self.life)
        if bits[4] % 3 == 0 and not is_flood:
            self.world.timeline.at(now_ns + 1 + below(bits[4], 3 * SECOND_NS), self._cancel, watched, self.life)

    def receive(self, frames: list[bytes]) -> None:
        """A message of the broker comes."""
        message = decode(frames)
        now_ns = self.world.timeline.now_ns
        match message:
            case Refusal():
                raise AssertionError(f"the broker sent what is no message: {message}")
            case Denied(request, _, _):
                self._watched.pop(request, None)
            case Expect():
                watched = self._watched.get(message.request)
                if watched is not None:
                    if watched.life != message.life:
                        watched.life, watched.position = message.life, 0
                    watched.job, watched.heard_ns = message.job, now_ns
            case NodeOutput() | Result() | Finished():
                for watched in self._watched.values():
                    # Within a connection nothing overtakes the Expect; where the network of the simulation has lost it, the
                    # rest is as good as lost.
                    if watched.job == message.job and watched.life == self.world.broker.broker.life:
                        self._see(watched, message)
            case _:
                pass

    def _see(self, watched: _Watched, message: NodeOutput | Result | Finished) -> None:
        """Something of a job is shown. What came before what has come already is not looked at: it was shown."""
        watched.heard_ns = self.world.timeline.now_ns
        if message.position > watched.position:
            watched.position = message.position
            if isinstance(message, Result):
                self.world.truth.shown(self.name, watched.life, message.job, message.node, message.state)
        watched.is_over = watched.is_over or isinstance(message, Finished)
        if self.is_reading:
            self._say(Seen(message.job, watched.position))

    def _again(self, watched: _Watched, life: int) -> None:
        """Nothing came for a while: ask again for what is not known, and look again at what is."""
        now_ns = self.world.timeline.now_ns
        if self.life != life or watched.is_over or watched.ask.request not in self._watched:
            return
        if now_ns - watched.heard_ns >= PATIENCE_NS and self.is_up() and not self.paused:
            if watched.job == NO_JOB:
                self._say(watched.ask)
            else:
                self._say(Attach(watched.ask.request, watched.job, watched.life, watched.position))
        self.world.timeline.at(now_ns + PATIENCE_NS, self._again, watched, life)

    def _cancel(self, watched: _Watched, life: int) -> None:
        if self.life == life and watched.job and not watched.is_over and self.is_up() and not self.paused:
            self._say(CancelJob(watched.ask.request, watched.job))
            self._say(Query(watched.ask.request, "clients"))

    def _say(self, message: Message) -> None:
        self.world.to_broker(self, self.principal, encode(message))
