"""Broker, agents and operators together: what is asked runs once, where it may, and the answers are true."""

from __future__ import annotations

from pathlib import Path

import trio
from control_world import control_world, token, until

from holloway.protocols.control_plane.broker_policy import BrokerPolicy
from holloway.protocols.control_plane.messages import (
    Answer,
    Ask,
    CancelJob,
    Expect,
    Finished,
    Query,
    Register,
    Role,
    State,
    Step,
    Stream,
)


async def test_echo_and_exec_on_every_node_with_codes_and_output(tmp_path: Path) -> None:
    async with control_world(tmp_path) as world, world.broker():
        operator = world.operator(world.admit("ann", Role.OPERATOR))
        async with world.agent("web1"), world.agent("web2"):
            echo = await operator.run(Step("echo", ("hi", "there")))
            assert echo.nodes == ("web1", "web2")
            assert echo.outputs == {(name, Stream.STDOUT): b"hi there\n" for name in ("web1", "web2")}
            assert {each.state for each in echo.results.values()} == {State.OK}
            code = await operator.run(Step("exec", ("sh", "-c", "echo x >&2; exit 3")), target="web1")
            assert code.nodes == ("web1",)
            assert (code.results["web1"].state, code.results["web1"].rc) == (State.FAILED, 3)
            assert code.outputs == {("web1", Stream.STDERR): b"x\n"}


async def test_any_bytes_come_as_they_were_written(tmp_path: Path) -> None:
    """Every byte, also what is no UTF-8, and what would move about on a terminal: that is for whoever shows it."""
    written = bytes(range(256)) * 400 + b"\xff\xfe\033[2J\033]0;title\007\r\n\xc3"
    (tmp_path / "written").write_bytes(written)
    async with control_world(tmp_path) as world, world.broker(), world.agent("web1"):
        operator = world.operator(world.admit("ann", Role.OPERATOR))
        answers = await operator.run(Step("exec", ("cat", str(tmp_path / "written"))))
    assert answers.outputs == {("web1", Stream.STDOUT): written}
    assert not answers.results["web1"].is_truncated


def runs(pid: str) -> bool:
    """Whether there is such a process, and not only what is left of it."""
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except OSError:
        return False


async def test_a_long_job_holds_nobody_up_and_cancelled_it_leaves_no_process(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    script = f"sleep 600 & echo $$ $! > {pids}.new; mv {pids}.new {pids}; wait"
    async with control_world(tmp_path) as world, world.broker(), world.agent("web1"):
        pair = world.admit("ann", Role.OPERATOR)
        operator, other = world.operator(pair), world.operator(pair)
        await operator.send(Ask(token(), (Step("exec", ("sh", "-c", script)),), "all", 900.0))
        expect = await operator.receive()
        assert isinstance(expect, Expect)
        await until(pids.exists)
        assert (await other.run(Step("echo", ("hi",)))).results["web1"].state is State.OK
        began = trio.current_time()
        await other.send(CancelJob(token(), expect.job))
        finished = await operator.receive()
        while not isinstance(finished, Finished):
            finished = await operator.receive()
        assert finished.counts == {State.CANCELLED: 1}
        assert trio.current_time() - began < 5.0  # SIGTERM is heeded; who does not is killed after two seconds
        assert not [pid for pid in pids.read_text().split() if runs(pid)]


async def test_who_does_not_answer_is_named_when_the_time_is_over(tmp_path: Path) -> None:
    """One node stands still, and the others are not held up by it: it is unknown first, and stale soon, when nothing is sent to it."""
    policy = BrokerPolicy(heartbeat_s=0.6, start_within_s=0.5, grace_s=0.5)
    async with control_world(tmp_path, policy=policy) as world, world.broker() as tree, world.agent("web1"):
        operator = world.operator(world.admit("ann", Role.OPERATOR))
        await operator.send(Query(token(), "clients"))
        await operator.receive()
        stands_still = world.operator(world.admit("web2", Role.NODE))
        await stands_still.send(Register("web2", "", "", (), token(), token(), "1", ("echo",)))
        await until(lambda: world.listening(tree).broker.agents.get("web2") is not None)
        answers = await operator.run(Step("echo", ("hi",)), deadline_s=1.0)
        assert {name: each.state for name, each in answers.results.items()} == {
            "web1": State.OK,
            "web2": State.UNKNOWN,
        }
        assert "no answer in 2 s" in answers.results["web2"].error
        again = await operator.run(Step("echo", ("hi",)), deadline_s=1.0)
        assert again.results["web2"].state is State.UNREACHABLE
        await operator.send(Query(token(), "clients"))
        listed = await operator.receive()
        assert isinstance(listed, Answer)
        rows = listed.document["rows"]
        assert isinstance(rows, list)
        assert {row["node"]: row["is"] for row in rows} == {"web1": "live", "web2": "stale"}
