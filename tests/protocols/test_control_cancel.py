"""Cancelling: whoever runs a job that was cancelled hears of it, however late, and what is said of it stays true."""

from __future__ import annotations

import pytest
from control_site import Site, ask, request

from holloway.protocols.control_plane import messages as m
from holloway.protocols.control_plane.broker_policy import BrokerPolicy


def test_cancelling_stops_what_runs_and_what_has_not_begun() -> None:
    site = Site("a", "b", "c")
    job = site.run(ask(1, "exec", "sleep", rollout=m.Rollout(batch=2)))
    [answer] = [each for each in site.say(m.CancelJob(request(2), job)) if isinstance(each, m.Answer)]
    assert answer.document == {"job": job, "is": "cancelling"}
    assert [site.nodes[name].killed for name in "abc"] == [[job], [job], []]
    site.end("a", job, -15)
    site.end("b", job, -15)
    assert site.finished() == {"cancelled": 3}
    assert not site.nodes["c"].started
    [answer] = site.say(m.CancelJob(request(3), job))
    assert isinstance(answer, m.Answer)
    assert answer.document["is"] == "finished"


def test_a_job_that_is_cancelled_before_it_arrives_never_begins() -> None:
    site = Site("a")
    node = site.nodes["a"]
    node.is_cut = True
    job = site.run(ask(1, "exec", "sleep"))
    node.is_cut = False
    site.say(m.CancelJob(request(2), job))
    site.of_agent(node, node.agent.connected(site.moment))
    assert not node.started
    assert site.results() == {"a": "cancelled"}


def test_an_agent_that_does_not_stop_in_time_is_unknown() -> None:
    site = Site("a")
    job = site.run(ask(1, "exec", "sleep"))
    site.nodes["a"].is_cut = True
    site.say(m.CancelJob(request(2), job))
    site.wait(site.policy.cancel_within_s + 0.1)
    assert site.results() == {"a": "unknown"}


@pytest.mark.parametrize("is_another_life", [False, True])
def test_who_was_away_when_a_job_was_cancelled_is_told_when_he_is_back_however_late(is_another_life: bool) -> None:
    site = Site("a", "b")
    node = site.nodes["a"]
    job = site.run(ask(1, "exec", "sleep", deadline_s=3600.0))
    node.is_cut = True
    site.say(m.CancelJob(request(2), job))
    site.end("b", job, -15)
    site.wait(60.0)
    assert site.finished() == {"unknown": 1, "cancelled": 1}
    if is_another_life:
        site.restart_broker()
    node.is_cut = False
    site.of_agent(node, node.agent.connected(site.moment))
    assert node.killed == [job]
    site.end("a", job, -15)
    part = site.broker.jobs.jobs[job].parts["a"]
    assert part.end is not None
    assert (part.end.state.value, part.end.late) == ("unknown", "cancelled")
    assert site.nodes["b"].killed == [job]
    [*_, answer] = site.say(m.CancelJob(request(3), job))
    assert isinstance(answer, m.Answer)
    assert answer.document["is"] == "finished"


def test_a_job_that_was_given_up_can_be_cancelled_and_again_until_the_node_has_said_how_it_ended() -> None:
    site = Site("a", policy=BrokerPolicy(start_within_s=5.0, grace_s=1.0))
    node = site.nodes["a"]
    job = site.run(ask(1, "exec", "sleep", deadline_s=60.0))
    node.is_cut = True
    site.wait(70.0)
    assert site.finished() == {"unknown": 1}
    assert node.killed == [job], "stopped at its deadline, by the agent itself"
    cancels = [each for each in site.say(m.CancelJob(request(2), job)) if isinstance(each, m.Answer)]
    site.say(m.CancelJob(request(3), job))
    assert [each.document["is"] for each in cancels] == ["cancelling"]
    assert [each.event for each in site.audit].count("cancelled") == 1
    node.is_cut = False
    heard = len(node.audit)
    site.say(m.CancelJob(request(4), job))
    assert len(node.audit) == heard
    site.end("a", job, -15)
    site.say(m.CancelJob(request(5), job))
    [*_, answer] = site.say(m.CancelJob(request(6), job))
    assert isinstance(answer, m.Answer)
    assert answer.document["is"] == "finished"


def test_a_cancel_of_what_has_ended_on_a_node_is_answered_with_what_that_knows() -> None:
    site = Site("a")
    job = site.run(ask(1, "exec", "sleep"))
    site.restart_agent("a")
    assert site.results() == {"a": "unknown"}
    site.restart_broker()  # which does not know who said so
    site.of_agent(site.nodes["a"], site.nodes["a"].agent.connected(site.moment))
    answers = [site.say(m.CancelJob(request(number), job))[-1] for number in (2, 3)]
    assert [each.document["is"] for each in answers if isinstance(each, m.Answer)] == ["cancelling", "finished"]
    part = site.broker.jobs.jobs[job].parts["a"]
    assert part.end is not None
    assert part.end.late == ""
    assert site.nodes["a"].killed == []


def test_an_agent_without_its_journal_is_not_told_of_what_was_cancelled_before() -> None:
    site = Site("a")
    job = site.run(ask(1, "exec", "sleep"))
    site.nodes["a"].is_cut = True
    site.say(m.CancelJob(request(2), job))
    site.wait(20.0)
    site.nodes["a"].is_cut = False
    node = site.restart_agent("a", journal="cd" * 16, is_wiped=True)
    assert not node.agent._journal.entries


def test_a_cancelled_job_is_cancelled_after_a_restart_too() -> None:
    site = Site("a")
    node = site.nodes["a"]
    job = site.run(ask(1, "exec", "sleep"))
    node.is_cut = True
    site.say(m.CancelJob(request(2), job))
    site.restart_broker()
    node.is_cut = False
    site.of_agent(node, node.agent.connected(site.moment))
    assert node.killed == [job]
