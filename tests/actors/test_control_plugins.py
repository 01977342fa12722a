"""Commands of plugins in a broker and an agent: what they answer, and that those that fail or hang concern nobody else."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from control_world import REAL, Operator, control_world, token, until

from holloway.actors.control_plane import broker_commands
from holloway.actors.control_plane.plugins import BrokerCall, BrokerCommand, NodeCommand, Plugin, Plugins
from holloway.protocols.control_plane.agent import Agent
from holloway.protocols.control_plane.messages import (
    Admin,
    Answer,
    Ask,
    CancelJob,
    Denied,
    Expect,
    Message,
    Result,
    Role,
    State,
    Step,
    Stream,
)

RELEASE = threading.Event()


@pytest.fixture(autouse=True)
def _nothing_hangs_for_ever() -> Iterator[None]:
    RELEASE.clear()
    yield
    RELEASE.set()


class SpeechlessError(ValueError):
    def __str__(self) -> str:
        raise KeyboardInterrupt


def argv(arguments: Sequence[str], options: Mapping[str, str | int | float | bool]) -> Sequence[str]:
    if not arguments:
        raise ValueError("it takes a word")
    if arguments[0] == "hang":
        RELEASE.wait(60)
    if arguments[0] == "speechless":
        raise SpeechlessError
    if arguments[0] == "fail":
        raise RuntimeError("oops")
    return [] if arguments[0] == "nothing" else ["/bin/sh", "-c", "echo $HOLLOWAY_FILES; exit $0", *arguments]


def rows(call: BrokerCall) -> Sequence[Mapping[str, object]]:
    match call.arguments:
        case ("hang",):
            RELEASE.wait(60)
        case ("speechless",):
            raise SpeechlessError
        case ("interrupt",):
            raise KeyboardInterrupt
        case ("fail",):
            raise RuntimeError("oops")
        case ("refuse",):
            raise ValueError("not today")
        case ("odd",):
            return [{"x": object()}]
        case ("large",):
            return [{"x": "y" * 100_000}]
    return [{"caller": call.caller, "role": call.role.value, "body": call.body.decode()}]


PLUGINS = Plugins(
    {
        "p": Plugin("P.", "", (NodeCommand("run", argv),), (BrokerCommand("rows", rows),)),
        "q": Plugin("Q.", "", (), (BrokerCommand("rows", rows, frozenset({Role.ADMIN})),)),
    }
)


async def call(operator: Operator, *words: str, body: bytes = b"") -> Message:
    await operator.send(Admin(token(), words[0], words[1:], {}, body))
    return await operator.receive()


async def test_commands_on_the_broker_answer_fail_and_hang_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = replace(broker_commands.PLUGIN_THREADS, run_s=0.3)
    monkeypatch.setattr(broker_commands, "PLUGIN_THREADS", quick)
    async with control_world(tmp_path, plugins=PLUGINS) as world, world.broker(), world.agent("web1"):
        ann = world.operator(world.admit("ann", Role.OPERATOR))
        bob = world.operator(world.admit("bob", Role.OPERATOR))
        answer = await call(ann, "p.rows", body=b"x")
        assert isinstance(answer, Answer)
        assert answer.document == {"rows": [{"caller": "ann", "role": "operator", "body": "x"}]}
        for word, why in (
            ("refuse", "p.rows refuses: not today"),
            ("fail", "the plugin behind p.rows failed: RuntimeError: oops"),
            ("speechless", "p.rows refuses: it does not say why"),
            ("interrupt", "the plugin behind p.rows failed: KeyboardInterrupt"),
            ("odd", "what p.rows answers cannot be sent"),
            ("large", "what p.rows answers cannot be sent"),
        ):
            denied = await call(ann, "p.rows", word)
            assert isinstance(denied, Denied)
            assert denied.why.startswith(why)
        assert isinstance(await call(ann, "q.rows"), Denied), "the role may not"
        assert isinstance(await call(ann, "p.none"), Denied)
        await ann.send(Admin(token(), "p.rows", ("hang",)))
        assert (await bob.run(Step("echo", ("hi",)))).outputs == {("web1", Stream.STDOUT): b"hi\n"}
        late = await ann.receive()
        assert isinstance(late, Denied)
        assert late.why.startswith("p.rows took more than 0.3 s")


async def test_a_command_on_nodes_is_a_program_and_steps_stop_at_the_first_that_is_not_ok(tmp_path: Path) -> None:
    async with control_world(tmp_path, plugins=PLUGINS) as world, world.broker(), world.agent("web1"):
        ann = world.operator(world.admit("ann", Role.OPERATOR))
        both = await ann.run(Step("p.run", ("0",)), Step("echo", ("then",)))
        assert both.results["web1"].state is State.OK
        assert [each.state for each in both.results["web1"].steps] == [State.OK, State.OK]
        assert both.outputs["web1", Stream.STDOUT] == f"{tmp_path / 'agent-web1' / 'files'}\nthen\n".encode()
        first = await ann.run(Step("p.run", ("4",)), Step("echo", ("never",)))
        assert (first.results["web1"].state, first.results["web1"].rc) == (State.FAILED, 4)
        assert len(first.results["web1"].steps) == 1
        for words, why in (
            ((), "it takes a word"),
            (("fail",), "RuntimeError: oops"),
            (("nothing",), "no program"),
            (("speechless",), "does not say why"),
        ):
            failed = (await ann.run(Step("p.run", words))).results["web1"]
            assert (failed.state, failed.rc) == (State.FAILED, None)
            assert why in failed.error


async def test_a_node_without_the_plugin_refuses_its_commands(tmp_path: Path) -> None:
    async with control_world(tmp_path, plugins=PLUGINS) as world, world.broker():
        world.plugins = Plugins()
        async with world.agent("web1"):
            ann = world.operator(world.admit("ann", Role.OPERATOR))
            refused = (await ann.run(Step("p.run", ("0",)))).results["web1"]
            assert refused.state is State.REFUSED


async def test_a_plugin_that_hangs_on_a_node_ends_with_its_job_and_with_its_agent(tmp_path: Path) -> None:
    async with control_world(tmp_path, plugins=PLUGINS) as world, world.broker():
        ann = world.operator(world.admit("ann", Role.OPERATOR))
        async with world.agent("web1") as tree:
            late = (await ann.run(Step("p.run", ("hang",)), deadline_s=0.3)).results["web1"]
            assert (late.state, late.rc) == (State.TIMED_OUT, None)
            assert late.error == "p.run was stopped: it had not come to what is to run"

            job = token()
            await ann.send(Ask(job, (Step("p.run", ("hang",)),), "all", 60.0))
            taken = await ann.receive()
            assert isinstance(taken, Expect)
            agent = tree.ref("agent").get()
            assert isinstance(agent, Agent)
            await until(lambda: agent.running == [taken.job])
            await ann.send(CancelJob(token(), taken.job))
            cancelled = await ann.receive()
            while not isinstance(cancelled, Result):
                cancelled = await ann.receive()
            assert (cancelled.state, cancelled.rc) == (State.CANCELLED, None)
            bob = world.operator(world.admit("bob", Role.OPERATOR))
            assert (await bob.run(Step("p.run", ("0",)))).results["web1"].state is State.OK, "others go on"

            await ann.send(Ask(token(), (Step("p.run", ("hang",)),), "all", 60.0))
            await until(lambda: bool(agent.running))
            before = trio.current_time()
        assert trio.current_time() - before < REAL, "an agent that is told to stop does"
