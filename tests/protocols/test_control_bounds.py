"""What a control plane holds at most: output that nobody reads, jobs, viewers, and the longest messages."""

from __future__ import annotations

from dataclasses import replace

import pytest
from control_site import ANN, BOB, ROOT, Site, ask, request

from holloway.protocols.control_plane import job_log, output_flow
from holloway.protocols.control_plane import messages as m
from holloway.protocols.control_plane.agent import BUSY, AgentPolicy
from holloway.protocols.control_plane.broker_policy import BrokerPolicy
from holloway.protocols.control_plane.wire import MAX_HEADER_BYTES, encode
from holloway.protocols.errors import LocalError

# Output.


def test_an_operator_who_does_not_read_costs_no_more_than_the_bound_and_the_job_goes_on() -> None:
    site = Site("a")
    node = site.nodes["a"]
    job = site.run(ask(1, "exec", "yes"))
    total = 0
    for _ in range(200):
        total += 64 * 1024
        site.of_agent(node, node.agent.output(site.moment, job, m.Stream.STDOUT, bytes(64 * 1024)))
    assert not node.paused
    log = site.broker.jobs.logs[job]
    assert log.held_bytes <= job_log.HELD_BYTES < total
    shown = [each for each in site.shown[b"ann"] if isinstance(each, m.NodeOutput)]
    assert len(shown) == job_log.WINDOW
    site.end("a", job)
    while site.finished() is None:
        site.say(m.Seen(job, site.shown[b"ann"][-1].position))  # type: ignore[union-attr]
    positions = [each.position for each in site.shown[b"ann"] if isinstance(each, m.NodeOutput)]
    assert positions == sorted(positions)
    assert len(positions) < positions[-1], "a gap is seen"
    assert site.results() == {"a": "ok"}


def test_output_of_all_jobs_together_is_bounded() -> None:
    site = Site("a", policy=BrokerPolicy(held_bytes=100_000))
    jobs = [site.run(ask(number, "exec", "yes")) for number in range(4)]
    node = site.nodes["a"]
    for job in jobs:
        site.of_agent(node, node.agent.output(site.moment, job, m.Stream.STDOUT, bytes(60_000)))
    held = [site.broker.jobs.logs[job].held_bytes for job in jobs]
    assert sum(held) <= 100_000
    assert held[0] == 0
    assert held[-1] > 60_000
    assert site.broker.jobs._held_bytes == sum(held)


def test_small_pieces_cost_as_much_as_they_take() -> None:
    site = Site("a", policy=BrokerPolicy(held_bytes=20_000))
    job = site.run(ask(1, "exec", "yes"))
    node = site.nodes["a"]
    for _ in range(1000):
        site.of_agent(node, node.agent.output(site.moment, job, m.Stream.STDOUT, b"y"))
    assert site.broker.jobs.logs[job].held_outputs <= 20_000 // job_log.PIECE_COST_BYTES


def test_an_end_as_long_as_may_be_is_shown_all_the_same() -> None:
    site = Site("a")
    job = site.run(m.Ask(request(1), (m.Step("exec", ("true",)),) * 16, "all", 30.0))
    node = site.nodes["a"]
    step = m.StepEnd(m.State.FAILED, 1, 1.0, "\U0001f600" * 220)
    done = m.Done(job, m.State.FAILED, 1, 1.0, "", (step,) * 16, 0, False, "")
    room = (MAX_HEADER_BYTES - len(encode(done)[1])) // 12
    done = replace(done, error="\U0001f600" * min(room, 2000))
    site.of_broker(site.broker.receive(site.moment, replace(ANN, name="a", role=m.Role.NODE), node.route, encode(done)))
    assert site.results() == {"a": "failed"}
    site.restart_broker()
    site.shown.clear()
    site.say(m.Attach(request(2), job))
    assert site.results() == {"a": "failed"}


def test_a_process_waits_when_the_broker_is_away_and_goes_on_when_it_is_back() -> None:
    site = Site("a")
    node = site.nodes["a"]
    job = site.run(ask(1, "exec", "yes"))
    node.is_cut = True
    written = b""
    while not node.paused:
        piece = bytes([len(written) % 251]) * 10_000
        written += piece
        site.of_agent(node, node.agent.output(site.moment, job, m.Stream.STDERR, piece))
        assert len(written) <= output_flow.FULL_BYTES + 10_000
    node.is_cut = False
    site.wait(6)
    assert not node.paused
    site.end("a", job)
    while site.finished() is None:
        site.say(m.Seen(job, site.shown[b"ann"][-1].position))  # type: ignore[union-attr]
    shown = [each for each in site.shown[b"ann"] if isinstance(each, m.NodeOutput)]
    assert b"".join(each.body for each in shown) == written
    [result] = [each for each in site.shown[b"ann"] if isinstance(each, m.Result)]
    assert not result.is_truncated


def test_output_beyond_the_limit_is_thrown_away_and_marked() -> None:
    site = Site("a", agents=AgentPolicy(max_output_bytes=10))
    job = site.run(ask(1, "exec", "yes"))
    site.end("a", job, output=b"x" * 11)
    [result] = [each for each in site.shown[b"ann"] if isinstance(each, m.Result)]
    [output] = [each for each in site.shown[b"ann"] if isinstance(each, m.NodeOutput)]
    assert result.is_truncated
    assert output.body == b"x" * 10


def test_output_that_a_dead_broker_took_with_it_is_missed() -> None:
    site = Site("a")
    node = site.nodes["a"]
    job = site.run(ask(1, "exec", "yes"))
    site.of_agent(node, node.agent.output(site.moment, job, m.Stream.STDOUT, b"lost"))
    site.restart_broker()
    site.wait(11)
    site.say(m.Attach(request(2), job))
    site.end("a", job, output=b"kept")
    assert [each.body for each in site.shown[b"ann"] if isinstance(each, m.NodeOutput)][-1] == b"kept"
    [result] = [each for each in site.shown[b"ann"] if isinstance(each, m.Result)]
    assert result.is_truncated


def test_who_attaches_is_shown_what_he_has_not_seen() -> None:
    site = Site("a")
    job = site.run(ask(1, "exec", "yes"))
    node = site.nodes["a"]
    for number in range(3):
        site.of_agent(node, node.agent.output(site.moment, job, m.Stream.STDOUT, bytes([number])))
    expect, *shown = site.say(m.Attach(request(2), job, site.broker.life, 2), route=b"another")
    assert isinstance(expect, m.Expect)
    assert [each.body for each in shown if isinstance(each, m.NodeOutput)] == [bytes([2])]
    _, *shown = site.say(m.Attach(request(2), job), ROOT)
    assert len(shown) == 3


def test_viewers_are_few() -> None:
    site = Site("a")
    job = site.run(ask(1, "exec", "true"))
    viewers = site.broker.jobs.logs[job].viewers
    for number in range(2, 21):
        [expect] = site.say(m.Attach(request(number), job), route=b"%d" % number)
        assert isinstance(expect, m.Expect)
    assert len(viewers) == job_log.MAX_VIEWERS
    assert list(viewers)[-1] == b"20"
    _, told = site.shown[b"2"]
    assert isinstance(told, m.Denied)
    assert told.request == request(2)
    assert job in told.fix
    assert "of ann" in told.why


def test_one_who_is_too_many_is_refused_by_the_names_of_those_who_watch() -> None:
    site = Site("a")
    job = site.run(ask(1, "exec", "true"))
    for number in range(2, 9):
        site.say(m.Attach(request(number), job), route=b"%d" % number)
    before = dict(site.broker.jobs.logs[job].viewers)
    [denied] = site.say(m.Attach(request(20), job), ROOT)
    assert isinstance(denied, m.Denied)
    assert denied.why == "8 watch this job already: ann"
    assert site.audit[-1].what == "attach"
    assert site.broker.jobs.logs[job].viewers == before


def test_who_comes_back_takes_his_own_place_and_who_has_seen_the_end_has_none() -> None:
    site = Site("a")
    job = site.run(ask(1, "exec", "true"))
    viewers = site.broker.jobs.logs[job].viewers
    site.say(m.Attach(request(1), job), route=b"ann, connected again")
    assert list(viewers) == [b"ann, connected again"]
    site.end("a", job)
    for number in range(2, 12):
        *_, finished = site.say(m.Attach(request(number), job), ROOT, route=b"root %d" % number)
        assert isinstance(finished, m.Finished)
        site.say(m.Seen(job, finished.position), ROOT, route=b"root %d" % number)
    assert list(viewers) == [b"ann, connected again"]


def test_a_log_with_a_wide_gap_is_walked_as_fast_as_one_without() -> None:
    log = job_log.JobLog()
    for _ in range(200_000):
        log.add(m.NodeOutput("", 0, "a", 0, m.Stream.STDOUT, b""))
    log.add(m.Finished("", 0, {}))
    kept = log.held_outputs
    shown: list[int] = []
    log.watch(b"ann", "ann", "", 0)
    steps = 0
    while items := log.due():
        steps += 1
        shown += [item.position for _, item in items]
        log.confirm(b"ann", shown[-1])
    assert shown == [*range(200_001 - kept, 200_002)]
    assert log._after(0) == 200_001 - kept


# Bounds.


def test_jobs_are_bounded_in_all_and_each() -> None:
    site = Site("a", policy=BrokerPolicy(max_jobs=4, max_running_each=2, max_running=3))
    jobs = [site.run(ask(number, "exec", "true")) for number in range(2)]
    [denied] = site.say(ask(2, "exec", "true"))
    assert isinstance(denied, m.Denied)
    assert "too many" in denied.why
    site.run(ask(3, "exec", "true"), BOB)
    assert isinstance(site.say(ask(4, "exec", "true"), ROOT)[0], m.Denied)
    assert site.broker.counts["control_too_many"] == 2
    for job in jobs:
        site.end("a", job)
    for number in range(5, 9):
        site.end("a", site.run(ask(number, "exec", "true")))
    assert len(site.broker.jobs.jobs) <= 4
    assert jobs[0] not in site.broker.jobs.jobs
    assert not [key for key in site.disk if jobs[0] in key]


def test_finished_jobs_are_forgotten_in_time() -> None:
    site = Site("a", policy=BrokerPolicy(keep_s=100.0))
    job = site.run(ask(1, "exec", "true"))
    site.end("a", job)
    site.wait(300)
    assert site.broker.jobs.jobs == {}
    assert list(site.disk) == ["agent/a"]
    node = site.nodes["a"]
    late = m.Done(job, m.State.OK, 0, 1.0, "", (), 0, False, "")
    site.say(late, replace(ANN, name="a", role=m.Role.NODE), node.route)
    assert site.broker.counts["control_forgotten_job"] == 1


def test_a_node_runs_no_more_at_once_than_it_may() -> None:
    site = Site("a", agents=AgentPolicy(max_parallel=1))
    site.run(ask(1, "exec", "true"))
    site.run(ask(2, "exec", "true"))
    [result] = [each for each in site.shown[b"ann"] if isinstance(each, m.Result)]
    assert (result.state, result.error) == (m.State.REFUSED, BUSY)


def test_telling_of_a_step_that_does_not_run_is_a_mistake() -> None:
    site = Site("a")
    with pytest.raises(LocalError, match="no step"):
        site.nodes["a"].agent.ended(site.moment, "ab" * 16, 0)
    job = site.run(ask(1, "exec", "true"))
    with pytest.raises(LocalError, match="no code"):
        site.nodes["a"].agent.ended(site.moment, job, 768)
    assert site.nodes["a"].agent.running == [job]
