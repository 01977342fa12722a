"""Jobs from request to end, through a broker and its agents: what runs, how often, and what is said of it."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from control_site import BOB, WALL, Site, ask, request

from holloway.protocols.control_plane import job_table
from holloway.protocols.control_plane import messages as m
from holloway.protocols.control_plane.agent import AgentPolicy
from holloway.protocols.control_plane.wire import encode


def test_everybody_who_is_meant_runs_it_once_and_the_end_counts_them() -> None:
    site = Site("web1", "web2", "db1")
    job = site.run(ask(1, "exec", "uptime", target="web*"))
    assert [site.nodes[name].started[0].step.arguments for name in ("web1", "web2")] == [("uptime",)] * 2
    assert not site.nodes["db1"].started
    site.end("web1", job, 0, output=b"up 3 days\n")
    site.end("web2", job, 3)
    assert site.results() == {"web1": "ok", "web2": "failed"}
    assert site.finished() == {"ok": 1, "failed": 1}
    shown = site.shown[b"ann"]
    [output] = [each for each in shown if isinstance(each, m.NodeOutput)]
    assert (output.node, output.body) == ("web1", b"up 3 days\n")
    [failed] = [each for each in shown if isinstance(each, m.Result) and each.node == "web2"]
    assert (failed.rc, failed.is_truncated) == (3, False)
    [good] = [each for each in shown if isinstance(each, m.Result) and each.node == "web1"]
    assert good.digest == hashlib.sha256(b"up 3 days\n").hexdigest()


def test_steps_run_in_order_until_one_is_not_ok_and_give_one_end() -> None:
    site = Site("a")
    steps = (m.Step("echo", ("1",)), m.Step("exec", ("false",)), m.Step("echo", ("3",)))
    job = site.run(m.Ask(request(1), steps, "all", 30.0, body=b"input"))
    node = site.nodes["a"]
    assert [(start.number, start.body) for start in node.started] == [(0, b"input")]
    site.end("a", job, 0)
    assert [(start.number, start.step.command, start.body) for start in node.started[1:]] == [(1, "exec", b"")]
    assert site.results() == {}
    site.end("a", job, 1)
    assert len(node.started) == 2
    [result] = [each for each in site.shown[b"ann"] if isinstance(each, m.Result)]
    assert [(step.state.value, step.rc) for step in result.steps] == [("ok", 0), ("failed", 1)]
    assert (result.state, result.rc) == (m.State.FAILED, 1)


def test_what_cannot_be_started_has_failed_and_says_why() -> None:
    site = Site("a")
    job = site.run(ask(1, "exec", "nosuchprogram"))
    site.end("a", job, None, "there is no program nosuchprogram")
    [result] = [each for each in site.shown[b"ann"] if isinstance(each, m.Result)]
    assert (result.state, result.rc, result.error) == (m.State.FAILED, None, "there is no program nosuchprogram")


def test_the_same_request_again_is_the_same_job() -> None:
    site = Site("a")
    job = site.run(ask(1, "exec", "true"))
    again = site.say(ask(1, "exec", "true"))
    assert [each.job for each in again if isinstance(each, m.Expect)] == [job]
    assert site.run(ask(2, "exec", "true")) != job
    assert len(site.nodes["a"].started) == 2
    assert site.run(ask(1, "exec", "true"), BOB) not in (job, "")


def test_nobody_fits_is_said_at_once() -> None:
    site = Site("a")
    [denied] = site.say(ask(1, "exec", "true", target="nosuch"))
    assert isinstance(denied, m.Denied)
    assert "no agent fits nosuch" in denied.why
    assert denied.fix == "holloway clients"


def test_a_dry_run_names_the_nodes_and_runs_nothing() -> None:
    site = Site("a", "b")
    [expect] = site.say(ask(1, "exec", "true", target="!b", is_dry_run=True))
    assert expect == m.Expect(request(1), "", site.broker.life, ("a",))
    assert not site.nodes["a"].started
    assert not [key for key in site.disk if not key.startswith("agent/")]


# Time.


def test_an_agent_stops_what_takes_too_long() -> None:
    site = Site("a")
    job = site.run(ask(1, "exec", "sleep", deadline_s=5.0))
    site.wait(4.9)
    assert not site.nodes["a"].killed
    site.wait(0.2)
    assert site.nodes["a"].killed == [job]
    site.end("a", job, -9)
    assert site.results() == {"a": "timed-out"}
    site.wait(100)
    assert site.nodes["a"].killed == [job]


def test_whoever_says_nothing_by_the_deadline_is_unknown_because_it_may_have_run() -> None:
    site = Site("a", "b")
    job = site.run(ask(1, "exec", "true", deadline_s=5.0))
    site.end("b", job)
    site.nodes["a"].is_cut = True
    site.wait(60 + 5 + 15 - 0.1)
    assert site.finished() is None
    site.wait(0.2)
    assert site.results() == {"a": "unknown", "b": "ok"}


def test_whoever_gave_no_sign_of_life_is_unreachable_at_once() -> None:
    site = Site("a")
    site.nodes["a"].is_cut = True
    site.wait(31)
    site.run(ask(1, "exec", "true"))
    assert site.results() == {"a": "unreachable"}
    assert site.finished() == {"unreachable": 1}


def test_what_could_not_leave_is_unreachable() -> None:
    site = Site("a")
    node = site.nodes["a"]
    node.is_cut = True
    job = site.run(ask(1, "exec", "true"))
    site.of_broker(site.broker.undelivered(site.moment, node.route, encode(m.Noted(job))))
    assert site.results() == {}
    site.of_broker(site.broker.undelivered(site.moment, node.route, encode(m.Noted(job))))
    table = site.broker.jobs
    run = encode(table.run_message(table.jobs[job].asked, WALL))
    known = site.broker.agents.get("a")
    assert known is not None
    assert known.route is None
    site.broker.agents.register(site.moment, "a", node.route, known.register)
    site.of_broker(site.broker.undelivered(site.moment, node.route, run))
    assert site.results() == {"a": "unreachable"}


def test_a_command_is_in_the_trail_as_it_was_typed_and_lists_show_its_beginning() -> None:
    site = Site("a")
    word = "x" * 3000
    job = site.run(ask(1, "exec", word))
    [asked] = [entry for entry in site.audit if entry.event == "asked"]
    assert asked.what == f"exec {word}"
    assert len(site.broker.jobs.jobs[job].summary) == 200


def test_everybody_in_a_wave_is_sent_the_same_message_which_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[m.Message] = []
    encode_one = job_table.encode
    monkeypatch.setattr(job_table, "encode", lambda message: (made.append(message), encode_one(message))[1])
    site = Site(*(f"n{number}" for number in range(40)))
    site.run(ask(1, "exec", "true"))
    assert all(len(node.started) == 1 for node in site.nodes.values())
    assert sum(isinstance(message, m.Run) for message in made) == 1


def test_an_end_that_comes_after_it_was_given_up_is_written_beside_and_changes_nothing() -> None:
    site = Site("a")
    node = site.nodes["a"]
    job = site.run(ask(1, "exec", "true", deadline_s=5.0))
    node.is_cut = True
    site.end("a", job, 0)
    site.wait(81)
    assert site.results() == {"a": "unknown"}
    node.is_cut = False
    site.wait(61)
    assert site.results() == {"a": "unknown"}
    [answer] = site.say(m.Query(request(9), "job", {"job": job}))
    assert isinstance(answer, m.Answer)
    assert answer.document["rows"][1]["late"] == "ok"  # type: ignore[index]
    assert [entry.outcome for entry in site.audit if entry.event == "late"] == ["ok"]
    assert not node.agent._journal.ended()


def test_a_job_that_comes_too_late_by_the_clock_of_the_node_is_refused_and_never_runs() -> None:
    site = Site("a", agents=AgentPolicy(clock_tolerance_s=10.0))
    node = site.nodes["a"]
    run = m.Run("cd" * 16, (m.Step("exec", ("true",)),), "ann", m.Role.OPERATOR, "all", WALL, WALL + 5, 9.0)
    for issued_at in (WALL + 100 - 16, WALL + 100 + 11):
        late = replace(run, job=f"{int(issued_at):032x}", issued_at=issued_at, expires_at=issued_at + 5)
        site.of_agent(node, node.agent.receive(site.moment, encode(late)))
        site.now += 0.0
    assert not node.started
    assert [entry.event for entry in node.audit] == ["refused", "refused"]


# Cuts, crashes, and what is sent again.


def test_a_job_that_was_lost_on_the_way_is_sent_again_when_the_agent_comes_back() -> None:
    site = Site("a")
    node = site.nodes["a"]
    node.is_cut = True
    job = site.run(ask(1, "exec", "true"))
    assert not node.started
    node.is_cut = False
    site.of_agent(node, node.agent.connected(site.moment))
    assert len(node.started) == 1
    site.of_agent(node, node.agent.connected(site.moment))
    site.restart_broker()
    site.wait(11)
    assert len(node.started) == 1
    site.end("a", job)
    site.say(m.Attach(request(2), job))
    assert site.results() == {"a": "ok"}


def test_an_agent_that_dies_while_a_job_runs_says_that_nobody_knows() -> None:
    site = Site("a")
    job = site.run(ask(1, "exec", "true"))
    node = site.restart_agent("a")
    assert site.results() == {"a": "unknown"}
    assert len(node.started) == 1
    [result] = [each for each in site.shown[b"ann"] if isinstance(each, m.Result)]
    assert "stopped while it ran" in result.error
    assert job in node.agent._journal.entries


def test_an_agent_without_its_journal_gets_nothing_again() -> None:
    site = Site("a")
    site.run(ask(1, "exec", "true"))
    node = site.restart_agent("a", journal="cd" * 16, is_wiped=True)
    assert site.results() == {"a": "unknown"}
    assert len(node.started) == 1


def test_an_end_is_repeated_until_it_is_noted_and_shown_once() -> None:
    site = Site("a")
    node = site.nodes["a"]
    job = site.run(ask(1, "exec", "true"))
    node.is_cut = True
    site.end("a", job)
    site.wait(20)
    assert site.results() == {}
    node.is_cut = False
    site.wait(60)
    assert site.results() == {"a": "ok"}
    assert node.agent._journal.ended() == []
    effects = node.agent.tick(site.moment)
    assert not [each for each in effects if b'"done"' in getattr(each, "frames", [b"", b""])[1]]


def test_a_broker_that_was_killed_goes_on_and_nothing_runs_twice() -> None:
    site = Site("a", "b", "c")
    job = site.run(ask(1, "exec", "true"))
    site.end("a", job)
    site.restart_broker()
    site.end("b", job)
    site.wait(11)
    site.end("c", job, 7)
    assert all(len(node.started) == 1 for node in site.nodes.values())
    del site.shown[b"ann"]
    site.say(m.Attach(request(3), job, "ff" * 16, 99))
    assert site.results() == {"a": "ok", "b": "ok", "c": "failed"}
    assert site.finished() == {"ok": 2, "failed": 1}
    site.restart_broker()
    del site.shown[b"ann"]
    site.say(m.Attach(request(3), job))
    assert site.finished() == {"ok": 2, "failed": 1}
    assert len([entry for entry in site.audit if entry.event == "finished"]) == 1


def test_damaged_records_are_left_out_and_counted() -> None:
    site = Site("a")
    job = site.run(ask(1, "exec", "true"))
    site.disk |= {
        "job/xx": b"{}",
        f"end/{job}/a": b"\xff",
        "sent/x/y": b"",
        "agent/b": b"[]",
        "agent//": site.disk["agent/a"],
    }
    site.restart_broker()
    assert site.broker.counts["control_bad_record"] == 5
    site.nodes["a"].disk["job/zz"] = b"nothing"
    node = site.restart_agent("a")
    assert node.agent.counts["control_bad_record"] == 1
    assert job in site.broker.jobs.jobs


def test_a_replayed_run_is_answered_and_not_run_however_old() -> None:
    site = Site("a")
    node = site.nodes["a"]
    job = site.run(ask(1, "exec", "true"))
    table = site.broker.jobs
    run = encode(table.run_message(table.jobs[job].asked, site.moment.wall))
    for _ in range(3):
        site.of_agent(node, node.agent.receive(site.moment, run))
        site.end("a", job) if job in node.agent.running else None
    site.restart_agent("a")
    site.of_agent(node, node.agent.receive(site.moment, run))
    assert len(node.started) == 1
    assert site.results() == {"a": "ok"}


def test_what_the_journal_has_forgotten_is_below_its_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holloway.protocols.control_plane.agent_journal.REMEMBERED", 3)
    site = Site("a")
    node = site.nodes["a"]
    runs = []
    for number in range(6):
        job = site.run(ask(number, "exec", "true"))
        table = site.broker.jobs
        runs.append(encode(table.run_message(table.jobs[job].asked, site.moment.wall)))
        site.end("a", job)
        site.wait(1)
    assert len([key for key in node.disk if key.startswith("job/")]) == 3
    site.restart_agent("a")
    for run in runs:
        site.of_agent(node, node.agent.receive(site.moment, run))
    assert len(node.started) == 6


# Not everybody at once.


def test_batches_follow_each_other_and_the_next_waits_for_the_last() -> None:
    site = Site(*"abcde")
    job = site.run(ask(1, "exec", "true", rollout=m.Rollout(batch=40, is_percent=True)))
    begun = lambda: [name for name, node in site.nodes.items() if node.started]
    assert begun() == ["a", "b"]
    site.end("a", job)
    assert begun() == ["a", "b"]
    site.end("b", job, 1)
    assert begun() == ["a", "b", "c", "d"]
    site.end("c", job)
    site.end("d", job)
    site.end("e", job)
    assert site.finished() == {"ok": 4, "failed": 1}


def test_a_canary_that_is_not_ok_stops_the_rest() -> None:
    site = Site(*"abc")
    job = site.run(ask(1, "exec", "true", rollout=m.Rollout(canary=1)))
    site.end("a", job, 1)
    assert site.finished() == {"failed": 1, "cancelled": 2}
    [result] = [each for each in site.shown[b"ann"] if isinstance(each, m.Result) and each.node == "b"]
    assert "1 of the first 1 were not ok" in result.error


def test_too_many_failures_stop_the_rest() -> None:
    site = Site(*"abcd")
    job = site.run(ask(1, "exec", "true", rollout=m.Rollout(batch=1, max_fail=1)))
    site.end("a", job, 1)
    site.end("b", job, 1)
    assert site.finished() == {"failed": 2, "cancelled": 2}
    assert not site.nodes["c"].started


def test_a_rollout_goes_on_after_a_restart_unless_the_broker_was_away_too_long() -> None:
    for away_s, started in ((20.0, 1), (1000.0, 0)):
        site = Site(*"ab")
        job = site.run(ask(1, "exec", "true", rollout=m.Rollout(batch=1)))
        for node in site.nodes.values():
            node.is_cut = True
        site.end("a", job)
        disk = dict(site.disk)
        site.now += away_s
        site.disk = disk
        site.restart_broker()
        for node in site.nodes.values():
            node.is_cut = False
        site.wait(60)
        assert len(site.nodes["b"].started) == started
        assert len(site.nodes["a"].started) == 1


def test_a_retry_is_for_those_that_were_not_ok() -> None:
    site = Site(*"abc")
    job = site.run(ask(1, "exec", "true"))
    [denied] = site.say(ask(2, target="", retry=job))
    assert isinstance(denied, m.Denied)
    assert "not finished" in denied.why
    for name, rc in (("a", 0), ("b", 1), ("c", 0)):
        site.end(name, job, rc)
    again = site.run(ask(3, target="", retry=job))
    assert [len(site.nodes[name].started) for name in "abc"] == [1, 2, 1]
    assert site.nodes["b"].started[1].step.arguments == ("true",)
    site.end("b", again)
    [denied] = site.say(ask(4, target="", retry=again))
    assert isinstance(denied, m.Denied)
    assert "no node of it failed" in denied.why
    assert isinstance(site.say(ask(5, target="", retry=job), BOB)[0], m.Denied)
