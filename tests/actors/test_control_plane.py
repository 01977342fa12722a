"""Broker, agents and operators together: what is asked runs once, where it may, and the answers are true."""

from __future__ import annotations

from pathlib import Path

from control_world import control_world

from holloway.protocols.control_plane.messages import Role, State, Step, Stream


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
