"""Commands of plugins in a broker and an agent: what they answer, and that those that fail or hang concern nobody else."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from control_world import Operator, control_world, token

from holloway.actors.control_plane import broker_commands
from holloway.actors.control_plane.plugins import BrokerCall, BrokerCommand, NodeCommand, Plugin, Plugins
from holloway.protocols.control_plane.messages import Admin, Answer, Denied, Message, Role, State, Step, Stream


def argv(arguments: Sequence[str], options: Mapping[str, str | int | float | bool]) -> Sequence[str]:
    if not arguments:
        raise ValueError("it takes a word")
    if arguments[0] == "fail":
        raise RuntimeError("oops")
    return [] if arguments[0] == "nothing" else ["/bin/sh", "-c", "echo $HOLLOWAY_FILES; exit $0", *arguments]


RELEASE = threading.Event()


def rows(call: BrokerCall) -> Sequence[Mapping[str, object]]:
    match call.arguments:
        case ("hang",):
            RELEASE.wait(20)
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
    monkeypatch.setattr(broker_commands, "PLUGIN_S", 0.3)
    async with control_world(tmp_path, plugins=PLUGINS) as world, world.broker(), world.agent("web1"):
        ann = world.operator(world.admit("ann", Role.OPERATOR))
        bob = world.operator(world.admit("bob", Role.OPERATOR))
        answer = await call(ann, "p.rows", body=b"x")
        assert isinstance(answer, Answer)
        assert answer.document == {"rows": [{"caller": "ann", "role": "operator", "body": "x"}]}
        for word, why in (
            ("refuse", "p.rows refuses: not today"),
            ("fail", "the plugin behind p.rows failed: RuntimeError: oops"),
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
        RELEASE.set()
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
        for words, why in (((), "it takes a word"), (("fail",), "RuntimeError: oops"), (("nothing",), "no program")):
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
