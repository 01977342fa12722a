"""Any order of requests, ends, cuts, crashes and cancellations: nothing runs twice, and what is said once stays."""

from __future__ import annotations

from collections import Counter

from control_site import ANN, Site, ask, request
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from holloway.protocols.control_plane import messages as m
from holloway.protocols.control_plane.jobs import Phase

NODES = ("a", "b", "c")
nodes = st.sampled_from(NODES)


class Lives(RuleBasedStateMachine):
    """A broker and three agents."""

    @initialize()
    def begin(self) -> None:
        self.site = Site(*NODES)
        self.asked = 0
        self.jobs: list[str] = []
        self.said: dict[tuple[str, str], m.State] = {}
        self.begun: Counter[tuple[str, str, int]] = Counter()

    @rule(
        meant=st.sampled_from(["all", "a", "!a", "a,b"]),
        batch=st.integers(0, 2),
        max_fail=st.integers(-1, 1),
        count=st.integers(1, 2),
    )
    def ask_for_a_job(self, meant: str, batch: int, max_fail: int, count: int) -> None:
        self.asked += 1
        rollout = m.Rollout(batch=batch, max_fail=max_fail)
        message = m.Ask(request(self.asked), (m.Step("exec", ("true",)),) * count, meant, 20.0, rollout)
        answer, *_ = self.site.say(message)
        if isinstance(answer, m.Expect):
            self.jobs.append(answer.job)

    @precondition(lambda self: self.asked > 0)
    @rule()
    def ask_again(self) -> None:
        message = ask(self.asked, "exec", "true")
        before = len(self.site.broker.jobs.jobs)
        known = self.site.broker.jobs.by_request("ann", message.request)
        if known is not None:
            self.site.say(message)
            assert len(self.site.broker.jobs.jobs) == before

    @rule(name=nodes, rc=st.sampled_from([0, 0, 1, None]), output=st.binary(max_size=3))
    def end_something(self, name: str, rc: int | None, output: bytes) -> None:
        running = self.site.nodes[name].agent.running
        if running:
            self.site.end(name, running[0], rc, "" if rc is not None else "not there", output)

    @rule(name=nodes)
    def cut(self, name: str) -> None:
        self.site.nodes[name].is_cut = True

    @rule(name=nodes)
    def reconnect(self, name: str) -> None:
        node = self.site.nodes[name]
        node.is_cut = False
        self.site.of_agent(node, node.agent.connected(self.site.moment))

    @rule(name=nodes)
    def kill_an_agent(self, name: str) -> None:
        self.site.restart_agent(name)

    @rule()
    def kill_the_broker(self) -> None:
        self.site.restart_broker()

    @rule(seconds=st.sampled_from([1.0, 11.0, 40.0, 120.0]))
    def wait(self, seconds: float) -> None:
        self.site.wait(seconds)

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self.site.say(m.CancelJob(request(0), data.draw(st.sampled_from(self.jobs))))

    @invariant()
    def a_step_begins_once_on_a_node(self) -> None:
        if not hasattr(self, "site"):
            return
        for name, node in self.site.nodes.items():
            begun = Counter((name, start.job, start.number) for start in node.started)
            assert not begun or max(begun.values()) == 1

    @invariant()
    def an_end_stays_and_a_running_job_has_a_deadline(self) -> None:
        if not hasattr(self, "site"):
            return
        for job in self.site.broker.jobs.jobs.values():
            for part in job.parts.values():
                if part.end is not None:
                    key = (job.asked.job, part.node)
                    assert self.said.setdefault(key, part.end.state) is part.end.state
                elif part.phase is not Phase.WAITING:
                    assert part.due < float("inf")
            assert (job.finished_at is not None) == all(part.end is not None for part in job.parts.values())
            assert job.under_way == sum(part.phase in (Phase.SENT, Phase.TAKEN) for part in job.parts.values())

    def teardown(self) -> None:
        if not hasattr(self, "site"):
            return
        for name in NODES:
            self.reconnect(name)
        self.site.wait(400.0)
        for name, node in self.site.nodes.items():
            for job in list(node.agent.running):
                self.site.end(name, job, -9)
            assert node.agent._journal.ended() == []
        assert not self.site.broker.jobs.running
        for job in self.jobs:
            shown = self.site.say(m.Attach(request(0), job, "00" * 16), ANN)
            results = [each.node for each in shown if isinstance(each, m.Result)]
            assert len(results) == len(set(results))
            assert isinstance(shown[-1], m.Finished)


TestLives = Lives.TestCase
TestLives.settings = settings(max_examples=15, stateful_step_count=20, deadline=None)
