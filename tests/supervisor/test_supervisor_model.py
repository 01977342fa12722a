"""A supervisor against a model of it: any script of crashes, calls, failing starts and waits, and every race of two.

Hypothesis writes the script; it runs inside one `trio.run` under MockClock. The model below shares no code with the
supervisor. Where a crash and a call meet, either may come first, so it follows all orders and drops those that what is
observed rules out. When none is left the supervisor has done something that no order explains.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import hypothesis.strategies as st
import trio
import trio.testing
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from holloway.supervisor import (
    Backoff,
    Child,
    Intensity,
    IntensityExceeded,
    Restart,
    Strategy,
    Supervisor,
    SupervisorError,
    open_tree,
)

NAMES = "abcdef"
INITIAL, FACTOR, MAXIMUM, RESET_AFTER = 1.0, 2.0, 4.0, 3.0
PERIOD = 8.0


# The model


@dataclass
class ModelChild:
    restart: str
    state: str = "stopped"
    incarnation: int = 0
    restarts: int = 0
    due: float = 0.0
    delay: float = 0.0
    up_since: float | None = None
    last_reason: str = ""


@dataclass
class Model:
    strategy: str
    allowed: int
    children: dict[str, ModelChild] = field(default_factory=dict)
    failing: dict[str, int] = field(default_factory=dict)
    spent: list[float] = field(default_factory=list)
    now: float = 0.0
    is_dead: bool = False

    def copy(self):
        children = {name: replace(child) for name, child in self.children.items()}
        return replace(self, children=children, failing=dict(self.failing), spent=list(self.spent))

    def view(self):
        if self.is_dead:
            return "dead"
        return [(name, c.state, c.incarnation, c.restarts) for name, c in self.children.items()]

    # What happens to children

    def take_away(self, name, reason):
        child = self.children[name]
        child.last_reason = reason
        child.state, child.delay = "stopped", 0.0
        if child.restart == "temporary":
            del self.children[name]

    def begin(self, name):
        """True if the child is up."""
        child = self.children[name]
        child.incarnation += 1
        child.up_since = None
        if self.failing.get(name, 0):
            self.failing[name] -= 1
            return False
        child.state, child.up_since = "running", self.now
        return True

    def end(self, name, failed, dying=()):
        """An end that nobody asked for. Those of `dying` end in the same tick."""
        child = self.children[name]
        if child.state == "running":
            child.last_reason = "failed" if failed else "returned"
        if child.restart == "temporary" or (child.restart == "transient" and not failed):
            self.take_away(name, child.last_reason)
            return
        self.spent = [at for at in self.spent if at >= self.now - PERIOD] + [self.now]
        if len(self.spent) > self.allowed:
            self.is_dead = True
            return
        if child.up_since is not None and self.now - child.up_since >= RESET_AFTER:
            child.delay = 0.0
        child.delay = min(MAXIMUM, child.delay * FACTOR) if child.delay else INITIAL
        names = list(self.children)
        if self.strategy == "one_for_one":
            group = [name]
        elif self.strategy == "one_for_all":
            group = names
        else:
            group = names[names.index(name) :]
        for each in reversed(group):
            other = self.children[each]
            if each == name or other.state == "running":
                if each in dying:
                    other.last_reason = "failed" if failed else "returned"
                elif each != name:
                    other.last_reason = "stopped"
                if other.restart == "temporary":
                    del self.children[each]
                else:
                    other.state, other.due = "waiting", self.now + child.delay

    def next_in_line(self):
        waiting = [name for name, child in self.children.items() if child.state == "waiting"]
        if not waiting or self.is_dead:
            return None
        if self.strategy == "one_for_one":
            return min(waiting, key=lambda name: self.children[name].due)
        return waiting[0]

    def restart_who_is_due(self):
        while (name := self.next_in_line()) is not None and self.children[name].due <= self.now:
            self.children[name].restarts += 1
            if not self.begin(name):
                self.end(name, failed=True)

    # What the script does. Each returns the result that its caller sees.

    def ends(self, names, failed):
        for name in [each for each in self.children if each in names]:
            if not self.is_dead and name in self.children and self.children[name].state == "running":
                self.end(name, failed, names)

    def advance(self, seconds):
        until = self.now + seconds
        while (name := self.next_in_line()) is not None and self.children[name].due <= until:
            self.now = max(self.now, self.children[name].due)
            self.restart_who_is_due()
        self.now = until

    def call(self, verb, name, reason="stopped"):
        """A call. `reason` is how the child ends if it is stopped by it."""
        if self.is_dead:
            return "ActorDown"
        child = self.children.get(name)
        if verb == "start":
            if child is not None:
                return "SpecError"
            self.children[name] = ModelChild("permanent")
            if self.begin(name):
                return "up"
            del self.children[name]
            return "ChildStartError"
        if child is None:
            return "SpecError"
        if verb == "stop":
            if child.state == "running":
                self.take_away(name, reason)
            elif child.state == "waiting":
                self.take_away(name, child.last_reason)
            return child.last_reason
        if verb == "remove":
            if child.state != "stopped":
                return "SpecError"
            del self.children[name]
            return "removed"
        if child.state == "running":
            child.last_reason = reason
        child.delay = 0.0
        if self.begin(name):
            return "up"
        self.take_away(name, child.last_reason)
        return "ChildStartError"


def outcomes(model, step):
    """Every (model, result) that a step may lead to."""
    match step:
        case ("ends", names, failed):
            tries = [lambda m: m.ends(names, failed)]
        case ("failing", name, times):
            tries = [lambda m: m.failing.update({name: times})]
        case ("advance", seconds):
            tries = [lambda m: m.advance(seconds)]
        case ("call", verb, name):
            tries = [lambda m: m.call(verb, name)]
        case ("race", victim, verb, name, _):

            def death_first(m):
                m.ends([victim], failed=True)
                return m.call(verb, name)

            def call_first(m, reason="stopped"):
                before = m.children[victim].incarnation if victim in m.children else None
                result = m.call(verb, name, reason)
                if victim in m.children and m.children[victim].incarnation == before:
                    m.ends([victim], failed=True)
                return result

            tries = [death_first, call_first]
            if victim == name:  # found dead when it was to be stopped
                tries.append(lambda m: call_first(m, "failed"))
    for attempt in tries:
        after = model.copy()
        result = attempt(after)
        after.restart_who_is_due()
        yield after, result


# The real thing


class Actors:
    """Actors by name that crash or return when told, and fail to start as often as told."""

    def __init__(self):
        self.failing = {}
        self.orders = {}

    def child(self, name, restart=Restart.PERMANENT):
        async def run(ctx, *, task_status):
            if self.failing.get(name, 0):
                self.failing[name] -= 1
                raise OSError
            told, failed = self.orders[name] = trio.Event(), []
            task_status.started()
            await told.wait()
            if failed[0]:
                raise ValueError

        backoff = Backoff(initial=INITIAL, factor=FACTOR, maximum=MAXIMUM, reset_after=RESET_AFTER, jitter=0)
        return Child(name=name, run=run, restart=restart, backoff=backoff)

    def end(self, name, failed):
        told, how = self.orders.get(name, (trio.Event(), []))
        how.append(failed)
        told.set()


class Reality:
    def __init__(self, supervisor, actors):
        self.supervisor = supervisor
        self.actors = actors
        self.is_dead = False

    def view(self):
        if self.is_dead:
            return "dead"
        return [(info.name, info.state.value, info.incarnation, info.restarts) for info in self.supervisor.children()]

    async def live(self, *, task_status):
        try:
            async with open_tree(self.supervisor):
                task_status.started()
                await trio.sleep_forever()
        except IntensityExceeded:
            self.is_dead = True

    async def call(self, verb, name):
        try:
            match verb:
                case "start":
                    await self.supervisor.start(self.actors.child(name))
                    return "up"
                case "stop":
                    return (await self.supervisor.stop(name)).reason
                case "remove":
                    self.supervisor.remove(name)
                    return "removed"
                case _:
                    await self.supervisor.restart(name)
                    return "up"
        except SupervisorError as error:
            return type(error).__name__

    async def do(self, step):
        match step:
            case ("ends", names, failed):
                for name in names:
                    self.actors.end(name, failed)
            case ("failing", name, times):
                self.actors.failing[name] = times
            case ("advance", seconds):
                await trio.sleep(seconds)
            case ("call", verb, name):
                return await self.call(verb, name)
            case ("race", victim, verb, name, ticks):
                self.actors.end(victim, failed=True)
                for _ in range(ticks):
                    await trio.lowlevel.checkpoint()
                return await self.call(verb, name)
        return None


async def compare(models, script, reality):
    async with trio.open_nursery() as nursery:
        await nursery.start(reality.live)
        for position, step in enumerate(script):
            result = await reality.do(step)
            await trio.testing.wait_all_tasks_blocked()
            seen = (reality.view(), result)
            expected = [(after, said) for model in models for after, said in outcomes(model, step)]
            models = list({repr(after): after for after, said in expected if (after.view(), said) == seen}.values())
            assert models, (script[: position + 1], "saw", seen, "of", [(m.view(), said) for m, said in expected])
        nursery.cancel_scope.cancel()


# Mostly the children that are there from the beginning, and mostly calls that find something to do.
names = st.sampled_from([*NAMES[:4], *NAMES])
verbs = st.sampled_from(["restart", "stop", "restart", "start", "remove"])


class SupervisorMachine(RuleBasedStateMachine):
    """Rules write the script; it is played at the end, in one run."""

    @initialize(
        strategy=st.sampled_from(Strategy),
        allowed=st.sampled_from([100, 4, 2, 1, 0]),
        restarts=st.lists(st.sampled_from([Restart.PERMANENT, *Restart]), min_size=3, max_size=4),
    )
    def begin(self, strategy, allowed, restarts):
        self.script = []
        self.strategy = strategy
        self.allowed = allowed
        self.restarts = restarts

    @rule(names=st.sets(names, min_size=1, max_size=3), failed=st.booleans())
    def children_end(self, names, failed):
        self.script.append(("ends", sorted(names, reverse=True), failed))

    @rule(name=names, times=st.integers(1, 2))
    def next_starts_fail(self, name, times):
        self.script.append(("failing", name, times))

    @rule(halves=st.sampled_from([1, 2, 3, 4, 6, 8, 12, 16]))
    def time_passes(self, halves):
        self.script.append(("advance", halves / 2))

    @rule(verb=verbs, name=names)
    def call(self, verb, name):
        self.script.append(("call", verb, name))

    @rule(victim=names, verb=verbs, ticks=st.integers(0, 6))
    def child_dies_while_it_is_called_about(self, victim, verb, ticks):
        self.script.append(("race", victim, verb, victim, ticks))

    @rule(victim=names, verb=verbs, name=names, ticks=st.integers(0, 6))
    def child_dies_while_another_is_called_about(self, victim, verb, name, ticks):
        self.script.append(("race", victim, verb, name, ticks))

    def teardown(self):
        if not getattr(self, "script", None):
            return
        model = Model(self.strategy.value, self.allowed)
        actors = Actors()
        specs = []
        for name, restart in zip(NAMES, self.restarts, strict=False):
            model.children[name] = ModelChild(restart.value)
            model.begin(name)
            specs.append(actors.child(name, restart))
        supervisor = Supervisor(
            specs, name="root", strategy=self.strategy, intensity=Intensity(restarts=self.allowed, period=PERIOD)
        )
        trio.run(
            compare,
            [model],
            self.script,
            Reality(supervisor, actors),
            clock=trio.testing.MockClock(autojump_threshold=0),
        )


SupervisorMachine.TestCase.settings = settings(deadline=None, max_examples=150, stateful_step_count=40)


class TestSupervisorDoesWhatItsModelDoes(SupervisorMachine.TestCase):
    """Any script, any interleaving of a crash with a call: an order of the two explains what is seen."""
