"""Who may do what: roles, targets, and what a broker refuses, counts and writes down."""

from __future__ import annotations

from dataclasses import replace

import pytest
from control_site import ANN, BOB, ROOT, WALL, Site, ask, request
from hypothesis import given, settings
from hypothesis import strategies as st

from holloway.protocols.control_plane import messages as m
from holloway.protocols.control_plane.access import DEFAULT_ACCESS, AccessProblem, Place, Rule
from holloway.protocols.control_plane.agent import AgentPolicy
from holloway.protocols.control_plane.effects import Audit, Principal, Send
from holloway.protocols.control_plane.messages import Message, Role
from holloway.protocols.control_plane.targets import MAX_PATTERNS, AgentRecord, Term, narrowed, of_names, read_target
from holloway.protocols.control_plane.wire import MAX_HEADER_BYTES, encode
from holloway.protocols.errors import LocalError

NODE = Principal("a", Role.NODE)
STEP = m.Step("exec", ("id",))
AGENTS = [
    AgentRecord("web1", "pantry", "test", ("web", "cache")),
    AgentRecord("web2", "pantry2", "test", ("web",)),
    AgentRecord("db1", "pantry", "live", ("db",)),
    AgentRecord("bare"),
]


@pytest.mark.parametrize(
    ("target", "meant"),
    [
        ("all", ["web1", "web2", "db1", "bare"]),
        ("web1", ["web1"]),
        ("web", []),
        ("web*", ["web1", "web2"]),
        ("web?", ["web1", "web2"]),
        ("web[!1]", ["web2"]),
        ("app=pantry", ["web1", "db1"]),
        ("app=pantry*", ["web1", "web2", "db1"]),
        ("role=web", ["web1", "web2"]),
        ("role=web role=cache", ["web1"]),
        ("role=web and app=pantry", ["web1"]),
        ("role=web !web2", ["web1"]),
        ("!role=web", ["db1", "bare"]),
        ("web1,db1", ["web1", "db1"]),
        ("app=pantry env=test, bare", ["web1", "bare"]),
        ("!all", []),
    ],
)
def test_a_target_means_exactly_these(target: str, meant: list[str]) -> None:
    read = read_target(target)
    assert [agent.name for agent in AGENTS if read.fits(agent)] == meant


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("", "empty"),
        ("a,,b", "empty"),
        ("and", "empty"),
        ("web*,!web3", "web\\* !web3"),
        ("host=a", "nothing is called"),
        ("app=", "no glob"),
        ("a;b", "no glob"),
        ("*****", "no glob"),
        ("a" * 40_000, "characters"),
    ],
)
def test_what_is_no_target_says_why(target: str, why: str) -> None:
    with pytest.raises(LocalError) as caught:
        read_target(target)
    assert why.replace("\\", "") in caught.value.why + caught.value.fix


def test_names_are_looked_up_and_everything_else_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"n{number}" for number in range(2000)]
    held = 0
    fits = Term.fits

    def counted(term: Term, agent: AgentRecord) -> bool:
        nonlocal held
        held += 1
        return fits(term, agent)

    monkeypatch.setattr(Term, "fits", counted)
    target = read_target(narrowed(",".join([*names, "web*"]), "shop"))
    assert all(target.fits(AgentRecord(name, "shop")) for name in names)
    assert not target.fits(AgentRecord("other", "shop"))
    assert held <= 2 * len(names) + 1
    assert read_target(",".join(f"g{number}*" for number in range(MAX_PATTERNS))).patterns == MAX_PATTERNS
    assert read_target(" ".join(["web*"] * 1000)).patterns == 1
    with pytest.raises(LocalError, match="128"):
        read_target(",".join(f"g{number}*" for number in range(MAX_PATTERNS + 1)))


def test_options_narrow_every_alternative() -> None:
    assert narrowed("web*, db1", "pantry", "", ("web", "cache")) == (
        "web* app=pantry role=web role=cache,db1 app=pantry role=web role=cache"
    )
    assert narrowed("all", environment="live") == "all env=live"
    with pytest.raises(LocalError):
        narrowed("all", "a b")


def test_names_from_a_list_mean_exactly_those() -> None:
    assert of_names(["web1", "db1", "web1"]) == "web1,db1"
    for wrong in ([], ["a b"], ["web*"], ["!a"]):
        with pytest.raises(LocalError):
            of_names(wrong)


@given(st.text(max_size=60) | st.text("ab*?[]!,= androlepp", max_size=40))
@settings(max_examples=200, deadline=None)
def test_any_text_is_a_target_or_says_why_not(text: str) -> None:
    try:
        read = read_target(text)
    except LocalError:
        return
    for agent in AGENTS:
        assert read.fits(agent) in (True, False)


def test_no_rule_lets_nodes_call_and_no_plugin_takes_a_command_over() -> None:
    with pytest.raises(LocalError, match="nodes"):
        Rule(frozenset({Role.NODE}), Place.NODES)
    rule = Rule(frozenset({Role.ADMIN}), Place.NODES)
    with pytest.raises(LocalError, match="two rules"):
        DEFAULT_ACCESS.with_rules({"exec": rule})
    table = DEFAULT_ACCESS.with_rules({"deploy": rule})
    assert table.problem(Role.ADMIN, "deploy", Place.NODES) is None
    assert table.problem(Role.OPERATOR, "deploy", Place.NODES) is AccessProblem.WRONG_ROLE
    assert table.problem(Role.ADMIN, "deploy", Place.BROKER) is AccessProblem.WRONG_PLACE
    assert DEFAULT_ACCESS.problem(Role.ADMIN, "deploy", Place.NODES) is AccessProblem.NO_COMMAND


# What a broker refuses.


@pytest.mark.parametrize(
    "message",
    [
        ask(1, "exec", "id"),
        m.Admin(request(1), "client-create"),
        m.Query(request(1), "clients"),
        m.CancelJob(request(1), request(2)),
        m.Attach(request(1), request(2)),
        m.Seen(request(1), 1),
        m.Run(request(1), (STEP,), "ann", Role.ADMIN, "all", WALL, WALL, 1.0),
        m.Noted(request(1)),
        m.NodeOutput(request(1), 1, "a", 0, m.Stream.STDOUT, b""),
    ],
)
def test_a_node_commands_nobody(message: Message) -> None:
    site = Site("a", "b")
    before = dict(site.disk)
    site.say(message, NODE, b"evil")
    assert site.broker.counts == {"control_wrong_sender": 1}
    assert [(entry.event, entry.who) for entry in site.audit[-1:]] == [("refused", "a")]
    assert site.disk == before
    assert not any(node.started for node in site.nodes.values())


@pytest.mark.parametrize(
    "message", [m.Heartbeat(), m.Taken(request(1)), m.Done(request(1), m.State.OK, 0, 0.0, "", (), 0, False, "")]
)
def test_an_operator_is_no_agent(message: Message) -> None:
    site = Site("a")
    site.say(message)
    assert site.broker.counts == {"control_wrong_sender": 1}


def test_a_key_that_is_not_in_the_list_gets_nothing() -> None:
    site = Site("a")
    assert site.say(ask(1, "exec", "id"), None, b"route") == []
    assert site.broker.counts == {"control_no_key": 1}
    assert not site.nodes["a"].started


def test_what_a_node_says_of_a_job_of_others_is_refused() -> None:
    site = Site("a", "b", "c")
    job = site.run(ask(1, "exec", "true", target="!c", rollout=m.Rollout(batch=1)))
    done = m.Done(job, m.State.OK, 0, 0.0, "", (), 0, False, "")
    for name in "bc":  # b's turn has not come, c has nothing to do with it
        site.say(done, replace(NODE, name=name), b"evil")
        site.say(m.Output(job, 0, m.Stream.STDOUT, 1, b"forged"), replace(NODE, name=name), b"evil")
    assert site.broker.counts == {"control_foreign_job": 4}
    assert site.results() == {}
    site.say(replace(done, state=m.State.UNREACHABLE), NODE, site.nodes["a"].route)
    assert site.results() == {}


def test_nobody_sees_or_cancels_the_job_of_another_but_an_admin() -> None:
    site = Site("a")
    job = site.run(ask(1, "exec", "true"))
    for message in (m.Attach(request(2), job), m.CancelJob(request(3), job), m.Query(request(4), "job", {"job": job})):
        [denied] = site.say(message, BOB)
        assert isinstance(denied, m.Denied)
        assert "not yours" in denied.why
    [missing] = site.say(m.Attach(request(5), request(99)), BOB)
    assert isinstance(missing, m.Denied)
    assert missing.why == denied.why
    [answer] = site.say(m.Query(request(6), "jobs"), BOB)
    assert isinstance(answer, m.Answer)
    assert answer.document == {"rows": []}
    [answer] = site.say(m.Query(request(6), "jobs"), ROOT)
    assert isinstance(answer, m.Answer)
    assert answer.document["rows"][0]["command"] == "exec true"  # type: ignore[index]
    site.end("a", job, output=b"secret")
    assert site.shown.get(b"bob") is not None
    assert not [each for each in site.shown[b"bob"] if isinstance(each, m.NodeOutput | m.Result)]


def test_only_who_has_the_role_manages() -> None:
    site = Site()
    [denied] = site.say(m.Admin(request(1), "client-create", ("mallory",)))
    assert isinstance(denied, m.Denied)
    assert "role operator" in denied.why
    assert not site.served
    site.say(m.Admin(request(1), "client-create", ("carol",)), ROOT)
    assert [serve.request.arguments for serve in site.served] == [("carol",)]
    [denied] = site.say(m.Admin(request(1), "exec", ("id",)), ROOT)
    assert isinstance(denied, m.Denied)


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (ask(1, "format-disk"), "may not call format-disk"),
        (ask(1, "clients"), "may not call clients"),
        (ask(1, "exec", "true", target="a;b"), "cannot be read"),
        (ask(1, "exec", "true", deadline_s=100_000.0), "deadline"),
        (ask(1), "nothing to run"),
        (m.Query(request(1), "edit"), "no question"),
        (m.Query(request(1), "nothing"), "may not call"),
        (m.Query(request(1), "clients", {"target": "a;b"}), "cannot be read"),
    ],
)
def test_what_cannot_be_is_denied_with_its_reason(message: Message, why: str) -> None:
    site = Site("a")
    [denied] = site.say(message)
    assert isinstance(denied, m.Denied), denied
    assert why in denied.why
    assert site.audit[-1].event == "refused"
    assert sum(site.broker.counts.values()) == 1


def test_a_request_that_fits_and_a_job_that_does_not_is_denied() -> None:
    site = Site("a")
    steps = (m.Step("exec", ("x" * 30_000,)), m.Step("exec", ("y" * 30_000,)))
    room = MAX_HEADER_BYTES - len(encode(m.Ask(request(1), (*steps, m.Step("exec", ("",))), "all", 1.0))[1])
    longest = m.Ask(request(1), (*steps, m.Step("exec", ("z" * room,))), "all", 1.0)
    [denied] = site.say(longest, replace(ANN, name="n" * 63))
    assert isinstance(denied, m.Denied)
    assert "cannot be sent" in denied.why
    [denied] = site.say(longest)
    assert isinstance(denied, m.Denied), "at another time of day it would not fit"


def test_questions_are_answered_in_parts_that_fit() -> None:
    site = Site(*(f"n{number:03}" for number in range(40)))
    site.nodes["n000"].is_cut = True
    site.wait(31)
    parts = site.say(m.Query(request(1), "clients"))
    rows = [row for part in parts for row in part.document["rows"]]  # type: ignore[union-attr, attr-defined]
    assert len(rows) == 40
    assert [part.is_last for part in parts] == [False, False, True]  # type: ignore[union-attr]
    assert [row["is"] for row in rows[:2]] == ["stale", "live"]
    [part] = site.say(m.Query(request(2), "select", {"target": "n01?,n020"}))
    assert len(part.document["rows"]) == 11  # type: ignore[union-attr, arg-type]
    site.restart_broker()
    [first, *_] = site.say(m.Query(request(3), "clients"))
    assert first.document["rows"][1]["is"] == "expected"  # type: ignore[union-attr, index]


def test_a_revoked_key_bites_on_what_is_under_way() -> None:
    site = Site("a", "b")
    job = site.run(ask(1, "exec", "true", rollout=m.Rollout(batch=1)))
    site.of_broker(site.broker.gone(site.moment, "ann"))
    site.end("a", job, output=b"late")
    assert site.shown[b"ann"][1:] == []
    assert not site.nodes["b"].started
    site.of_broker(site.broker.gone(site.moment, "b"))
    assert [agent.record.name for agent in site.broker.agents] == ["a"]
    assert "agent/b" not in site.disk


def test_a_revoked_key_bites_on_what_has_not_left() -> None:
    site = Site("a")
    site.restart_broker()
    job = site.run(ask(1, "exec", "true"))  # the agent has not come back yet
    assert site.broker.jobs.jobs[job].parts["a"].sends == 0
    site.of_broker(site.broker.gone(site.moment, "ann"))
    node = site.nodes["a"]
    site.of_agent(node, node.agent.connected(site.moment))
    assert node.agent.is_registered
    assert not node.started
    assert site.broker.jobs.jobs[job].finished_at is not None


def test_who_was_taken_out_while_no_broker_ran_has_no_jobs_that_go_on() -> None:
    site = Site("a", "b")
    job = site.run(ask(1, "exec", "true", rollout=m.Rollout(batch=1)))
    site.restart_broker()
    site.of_broker(site.broker.only(site.moment, {"ann": Role.ADMIN}))
    assert not site.broker.jobs.jobs[job].stopped
    site.of_broker(site.broker.only(site.moment, {"bob": Role.OPERATOR}))
    assert site.broker.jobs.jobs[job].stopped == "the key of who asked may not any more"


def test_who_may_less_than_when_he_asked_has_no_jobs_that_go_on() -> None:
    site = Site("a", "b")
    job = site.run(ask(1, "exec", "true", rollout=m.Rollout(batch=1)), ROOT)
    site.restart_broker()
    site.of_broker(site.broker.only(site.moment, {"root": Role.ADMIN}))
    assert not site.broker.jobs.jobs[job].stopped
    site.of_broker(site.broker.only(site.moment, {"root": Role.OPERATOR}))
    assert site.broker.jobs.jobs[job].stopped


@pytest.mark.parametrize("is_admitted_again", [False, True])
def test_what_somebody_asked_who_is_revoked_now_is_not_sent_again(is_admitted_again: bool) -> None:
    site = Site("a", "b")
    lost, ran = site.nodes["a"], site.nodes["b"]
    lost.is_cut = True  # what is sent to it is lost on the way
    job = site.run(ask(1, "exec", "true"))
    site.restart_broker()
    site.of_broker(site.broker.only(site.moment, {"bob": Role.OPERATOR}))
    if is_admitted_again:  # as somebody else with the same name, for all that is known
        site.restart_broker()
        site.of_broker(site.broker.only(site.moment, {"ann": Role.OPERATOR}))
    lost.is_cut = False
    for node in (lost, ran):
        site.of_agent(node, node.agent.connected(site.moment))
    assert not lost.started
    site.end("b", job)
    site.wait(300.0)
    ends = {part.node: part.end.state.value for part in site.broker.jobs.jobs[job].parts.values() if part.end}
    assert ends == {"a": "unknown", "b": "ok"}


def test_what_somebody_asked_who_was_revoked_is_not_sent_again_to_who_was_away() -> None:
    site = Site("a")
    node = site.nodes["a"]
    node.is_cut = True
    site.run(ask(1, "exec", "true"))
    site.of_broker(site.broker.gone(site.moment, "ann"))
    node.is_cut = False
    site.of_agent(node, node.agent.connected(site.moment))
    assert node.agent.is_registered
    assert not node.started


def test_of_two_agents_with_one_key_the_younger_counts_and_the_older_is_told() -> None:
    site = Site("a")
    old = site.nodes["a"].route
    register = m.Register("a", "", "", (), "ee" * 16, "ff" * 16, "1", ())
    site.of_broker(site.broker.receive(site.moment, NODE, b"younger", encode(register)))
    assert site.nodes["a"].audit[-1].event == "replaced"
    assert not site.nodes["a"].agent.is_registered
    site.run(ask(1, "exec", "true"))
    assert not site.nodes["a"].started
    assert any(isinstance(each, m.Run) for each in site.shown[b"younger"])
    site.of_broker(site.broker.receive(site.moment, NODE, old, encode(m.Heartbeat())))
    assert site.nodes["a"].audit[-1].event == "replaced"
    site.wait(61)
    assert site.nodes["a"].agent.is_registered


def test_an_agent_that_says_nothing_for_a_day_is_forgotten() -> None:
    site = Site("a")
    site.nodes["a"].is_cut = True
    for _ in range(25):
        site.now += 3600
        site.of_broker(site.broker.tick(site.moment))
    assert len(site.broker.agents) == 0
    assert not site.disk
    site.nodes["a"].is_cut = False
    site.of_agent(site.nodes["a"], site.nodes["a"].agent.tick(site.moment))
    assert len(site.broker.agents) == 1


def test_an_agent_looks_again_at_what_the_broker_allowed() -> None:
    policy = AgentPolicy(commands=("exec", "echo"), programs=("/usr/bin/*", "true"), max_deadline_s=60.0)
    site = Site("a", agents=policy)
    node = site.nodes["a"]
    wall = site.moment.wall
    good = m.Run(request(1), (STEP,), "ann", Role.OPERATOR, "a", wall, wall + 60, 5.0)
    wrong = [
        replace(good, role=Role.NODE),
        replace(good, target="b"),
        replace(good, target="a;b"),
        replace(good, deadline_s=61.0),
        replace(good, steps=(m.Step("sync"),)),
        replace(good, steps=(m.Step("exec", ("rm", "-rf", "/")),)),
        replace(good, steps=(m.Step("exec"),)),
        replace(good, steps=(m.Step("exec", ("true",)), m.Step("exec", ("rm",)))),
        good,
    ]
    for number, run in enumerate(wrong, 1):
        effects = node.agent.receive(site.moment, encode(replace(run, job=request(number))))
        assert [each.event for each in effects if isinstance(each, Audit)] == ["refused"], run
        site.of_agent(node, effects)
    fine = replace(good, job=request(20), steps=(m.Step("exec", ("/usr/bin/id",)),))
    site.of_agent(node, node.agent.receive(site.moment, encode(fine)))
    assert [start.job for start in node.started] == [request(20)]


@pytest.mark.parametrize(
    ("glob", "fits", "others"),
    [
        (
            "/x/tools/*",
            ["/x/tools/a"],
            ["/x/tools/../../bin/sh", "/x/tools/a/b", "/x/tools/.", "/x/tools/", "x/tools/a"],
        ),
        ("*", ["sh"], ["/bin/sh", "./sh", "..", "", "/"]),
        ("/x/*/run", ["/x/a/run"], ["/x/../run", "/x//run", "/x/a/b/run", "//x/a/run"]),
        ("*/sh", ["bin/sh"], ["/sh", "/bin/sh", "./sh"]),
        ("/x/../y", [], ["/x/../y"]),
    ],
)
def test_no_glob_of_programs_leads_across_a_slash_or_upwards(glob: str, fits: list[str], others: list[str]) -> None:
    policy = AgentPolicy(programs=(glob,))
    assert [each for each in [*fits, *others] if policy.allows(each)] == fits
    assert AgentPolicy().allows("/x/../y")
    assert not AgentPolicy().allows("")


def test_what_only_a_broker_sends_is_all_an_agent_takes() -> None:
    site = Site("a")
    agent = site.nodes["a"].agent
    for frames in ([], encode(m.Heartbeat()), encode(ask(1, "exec", "id"))):
        assert agent.receive(site.moment, frames) == []
    assert agent.counts == {"control_frame_count": 1, "control_wrong_sender": 2}
    assert agent.receive(site.moment, encode(m.Noted(request(1)))) == []
    assert agent.receive(site.moment, encode(m.Seen(request(1), 5))) == []


# Refusals.


@given(st.lists(st.tuples(st.sampled_from("ABCNX"), st.lists(st.binary(max_size=40), max_size=4)), max_size=20))
@settings(max_examples=50, deadline=None)
def test_no_frames_of_anybody_raise(sent: list[tuple[str, list[bytes]]]) -> None:
    site = Site("a")
    who = {"A": ANN, "B": BOB, "C": ROOT, "N": NODE, "X": None}
    for key, frames in sent:
        effects = site.broker.receive(site.moment, who[key], b"route", frames)
        assert not [each for each in effects if isinstance(each, Send)]
    assert sum(site.broker.counts.values()) == len(sent)
