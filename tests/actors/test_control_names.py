"""Names of files that lead out, and names of commands that are for nobody, said to the broker past the command line, which would not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from control_world import Operator, control_world, token

from holloway.actors.control_plane.applications import NO_REVISION
from holloway.actors.control_plane.link import Broker, Link
from holloway.protocols.control_plane.file_messages import Abort, Offer, Want
from holloway.protocols.control_plane.messages import Admin, Answer, Ask, Denied, Message, Role, State, Step

OUT = ["../secret", "a/../../secret", "/etc/passwd", "a/../../security/curve/server_keys.yml", ".", "a//b", "a\\b", ""]


def files(root: Path) -> dict[str, bytes]:
    """Everything that a broker keeps for people, and its keys."""
    found = [each for name in ("files", "security") for each in (root / name).rglob("*")]
    return {str(each): each.read_bytes() for each in found if each.is_file()}


async def asked(operator: Operator, message: Message) -> Message:
    await operator.send(message)
    return await operator.receive()


async def test_no_name_leads_out_of_the_root_by_any_verb(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    async with control_world(tmp_path) as world, world.broker(), world.files(), world.agent("web1"):
        pair = world.admit("root", Role.ADMIN)
        (world.root / "secret").write_text("secret")
        (world.root / "files" / "a").mkdir(parents=True)
        (world.root / "files" / "a" / "kept").write_text("kept")
        admin, before = world.operator(pair), files(world.root)
        at_files = Broker("127.0.0.1", world.file_port, pair, world.server.public, "me.yml")
        transfers = Operator(world.closing.enter_context(Link(world.clients, at_files)))
        for name in OUT:
            removal = json.dumps([name]).encode()
            for admin_request in (
                Admin(token(), "edit", (name,)),
                Admin(token(), "edit", (name,), {"revision": NO_REVISION}, b"a: 1\n"),
                Admin(token(), "upload", (name,), body=b'["kept"]'),
                Admin(token(), "upload", ("a",), body=removal),
            ):
                assert isinstance(await asked(admin, admin_request), Denied), admin_request
            wanted = [Want(token(), name), Offer(token(), name, 1, "0" * 64, 0o600), Want(token(), f"{name}/")]
            for transfer in wanted if name else ():
                answer = await asked(transfers, transfer)
                assert isinstance(answer, Abort), transfer
                assert answer.why.startswith("the name does not lead to a file below the root")
            for step in (Step("sync", (name,)), Step("sync", ("a", name))):
                assert (await admin.run(step)).results["web1"].state is State.FAILED
        assert files(world.root) == before
        node = world.root.parent / "agent-web1"
        assert not [each for each in (node / "files").rglob("*") if each.is_file()]


@pytest.mark.parametrize("role", [Role.OPERATOR, Role.ADMIN])
async def test_no_command_is_reached_that_has_no_rule_or_another_place(tmp_path: Path, role: Role) -> None:
    """What the broker and the agent are made of has names, too; none of them is a command."""
    inside = ["restore", "serve", "publish", "run", "judge", "client-export", "cookbook.run", "x"]
    on_nodes, on_broker = ["echo", "exec", "sync"], ["edit", "upload", "client-create", "client-list", "jobs", "select"]
    async with control_world(tmp_path) as world, world.broker() as tree, world.agent("web1"):
        operator = world.operator(world.admit("ann", role))
        for command in (*inside, *on_nodes):
            assert isinstance(await asked(operator, Admin(token(), command, ("x",))), Denied), command
        for command in ("jobs", "select", "clients", "file-put", "download"):  # which go another way
            assert isinstance(await asked(operator, Admin(token(), command, ("x",))), Denied), command
        for command in (*inside, *on_broker):
            assert isinstance(await asked(operator, Ask(token(), (Step(command, ("x",)),), "all", 9.0)), Denied), (
                command
            )
        assert not world.listening(tree).broker.jobs.jobs
        listed = await asked(operator, Admin(token(), "client-list"))
        assert isinstance(listed, Answer if role is Role.ADMIN else Denied)
