"""Attacks on a running broker and its agents by who has a key, by who had one, and by who sends rubbish: each one fails."""

from __future__ import annotations

import json
import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio
from control_world import ControlWorld, Operator, control_world, token, until

from holloway.actors.control_plane.key_files import rotated_client, with_role, without_client
from holloway.protocols.control_plane.messages import (
    Admin,
    Answer,
    Ask,
    Attach,
    CancelJob,
    Denied,
    Done,
    Expect,
    Output,
    Query,
    Register,
    Role,
    Run,
    State,
    Step,
    Stream,
)
from holloway.protocols.control_plane.wire import MAX_BODY_BYTES, MAX_HEADER_BYTES, encode
from holloway.supervisor import Tree

QUIET_S = 0.3


@asynccontextmanager
async def one_node(folder: Path) -> AsyncIterator[tuple[ControlWorld, Tree]]:
    """A broker and the agent web1."""
    async with control_world(folder) as world, world.broker() as tree, world.agent("web1"):
        yield world, tree


async def hears_nothing(operator: Operator) -> None:
    with trio.move_on_after(QUIET_S) as patience:
        heard = await operator.link.receive()
    assert patience.cancelled_caught, heard


async def reload(world: ControlWorld, tree: Tree) -> None:
    """The broker has seen what its key file says."""
    world.listening(tree).reload()
    await trio.sleep(0.1)


def audited(world: ControlWorld, agent: str = "") -> list[dict[str, str]]:
    path = world.root / "broker" if not agent else world.root.parent / f"agent-{agent}" / "agent"
    return [json.loads(line) for line in (path / "audit.jsonl").read_text().splitlines()]


async def test_a_node_commands_nobody(tmp_path: Path) -> None:
    async with one_node(tmp_path) as (world, tree):
        evil = world.operator(world.admit("evil", Role.NODE))
        mark = tmp_path / "owned"
        for request in (
            Ask(token(), (Step("exec", ("touch", str(mark))),), "all", 10.0),
            Admin(token(), "client-create", ("evil2",), {"role": "admin", "public-key": "0" * 40}),
            Query(token(), "clients"),
        ):
            await evil.send(request)
            answer = await evil.receive()
            assert isinstance(answer, Denied)
            assert "a node commands nobody" in answer.why
        # What only a broker says is no message of a node, either.
        await evil.send(Run(token(), (Step("exec", ("touch", str(mark))),), "ann", Role.ADMIN, "all", 0.0, 9e9, 10.0))
        await hears_nothing(evil)
        broker = world.listening(tree).broker
        assert broker.counts["control_wrong_sender"] == 4
        assert not mark.exists()
        await until(lambda: sum(each["outcome"] == "control_wrong_sender" for each in audited(world)) == 4)
        assert {each["who"] for each in audited(world) if each["event"] == "refused"} == {"evil"}


async def test_who_sends_is_whose_key_it_is_whatever_the_message_says(tmp_path: Path) -> None:
    async with one_node(tmp_path) as (world, tree):
        evil = world.operator(world.admit("evil", Role.NODE))
        operator = world.operator(world.admit("ann", Role.OPERATOR))
        await evil.send(Register("evil", "web1", "web1", ("web1",), token(), token(), "1", ("exec",)))
        await until(lambda: world.listening(tree).broker.agents.get("evil") is not None)
        asking = token()
        await operator.send(Ask(asking, (Step("exec", ("sleep", "1")),), "web1", 10.0))
        expect = await operator.receive()
        assert isinstance(expect, Expect)
        assert expect.nodes == ("web1",)
        # The name of the job is known to nobody else; suppose that it were.
        await evil.send(Output(expect.job, 0, Stream.STDOUT, 1, b"forged"))
        await evil.send(Done(expect.job, State.OK, 0, 0.1, "", (), 0, False, ""))
        answers = await operator.run(Step("exec", ("sleep", "1")), target="web1", request=asking)
        assert answers.job == expect.job
        assert answers.results["web1"].duration_s > 0.5
        assert answers.outputs == {}
        assert world.listening(tree).broker.counts["control_foreign_job"] == 2


async def test_a_request_that_is_sent_again_runs_once(tmp_path: Path) -> None:
    async with one_node(tmp_path) as (world, _):
        pair = world.admit("ann", Role.OPERATOR)
        operator, again = world.operator(pair), world.operator(pair)
        count = tmp_path / "count"
        step, request = Step("exec", ("sh", "-c", f"echo x >> {count}")), token()
        first = await operator.run(step, request=request)
        second = await again.run(step, request=request)
        assert (first.job, first.results["web1"].state) == (second.job, State.OK)
        assert count.read_text() == "x\n"


async def test_nobody_hears_what_is_for_another(tmp_path: Path) -> None:
    async with one_node(tmp_path) as (world, tree):
        operator = world.operator(world.admit("ann", Role.OPERATOR))
        spy = world.operator(world.admit("spy", Role.OPERATOR))
        node = world.operator(world.admit("nosy", Role.NODE))
        await spy.send(Query(token(), "jobs"))
        assert isinstance(await spy.receive(), Answer)
        answers = await operator.run(Step("exec", ("echo", "secret")))
        await hears_nothing(spy)
        await hears_nothing(node)
        for request in (Attach(token(), answers.job), CancelJob(token(), answers.job)):
            await spy.send(request)
            denied = await spy.receive()
            assert isinstance(denied, Denied)
            assert denied.why == "there is no such job, or it is not yours"
        await spy.send(Query(token(), "jobs"))
        listed = await spy.receive()
        assert isinstance(listed, Answer)
        assert listed.document == {"rows": []}
        assert world.listening(tree).broker.counts["control_foreign_job"] == 2


async def test_a_revoked_key_is_dead_on_its_open_connection(tmp_path: Path) -> None:
    async with one_node(tmp_path) as (world, tree):
        pair = world.admit("ann", Role.OPERATOR)
        operator = world.operator(pair)
        admin = world.operator(world.admit("root", Role.ADMIN))
        assert (await operator.run(Step("echo", ("hi",)))).finished is not None
        await admin.send(Admin(token(), "client-revoke", ("ann",)))
        assert isinstance(await admin.receive(), Answer)
        await operator.send(Query(token(), "clients"))
        await hears_nothing(operator)
        broker = world.listening(tree).broker
        assert broker.counts["control_no_key"] == 1
        # By the file on the broker's machine, and a node.
        world.keys.change(lambda keys: without_client(keys, "web1", "now"))
        await reload(world, tree)
        assert broker.agents.get("web1") is None
        answers = await admin.run(Step("echo", ("hi",)))
        assert answers.denied is not None
        await until(lambda: any(each["outcome"] == "control_no_key" for each in audited(world)))
        [refused] = [
            each for each in audited(world) if each["outcome"] == "control_no_key" and pair.public in each["who"]
        ]
        assert refused["who"] == f"{pair.public} at 127.0.0.1"


async def test_what_a_revoked_key_was_being_shown_ends_at_once(tmp_path: Path) -> None:
    async with one_node(tmp_path) as (world, tree):
        operator = world.operator(world.admit("ann", Role.OPERATOR))
        go = tmp_path / "go"
        script = f"while [ ! -e {go} ]; do sleep 0.05; done; echo secret"
        await operator.send(Ask(token(), (Step("exec", ("sh", "-c", script)),), "all", 10.0))
        assert isinstance(await operator.receive(), Expect)
        world.keys.change(lambda keys: rotated_client(keys, "ann", "1" * 40, "now"))
        await reload(world, tree)
        go.touch()
        await hears_nothing(operator)


async def test_a_role_that_is_lowered_bites_on_the_open_connection(tmp_path: Path) -> None:
    async with one_node(tmp_path) as (world, tree):
        operator = world.operator(world.admit("ann", Role.ADMIN))
        await operator.send(Admin(token(), "client-list"))
        assert isinstance(await operator.receive(), Answer)
        world.keys.change(lambda keys: with_role(keys, "ann", Role.OPERATOR))
        await reload(world, tree)
        await operator.send(Admin(token(), "client-list"))
        denied = await operator.receive()
        assert isinstance(denied, Denied)
        assert denied.why.startswith("the role operator may not call client-list")
        assert (await operator.run(Step("echo", ("hi",)))).finished is not None


async def test_the_last_admin_cannot_lock_everybody_out(tmp_path: Path) -> None:
    async with one_node(tmp_path) as (world, _):
        admin = world.operator(world.admit("root", Role.ADMIN))
        for request in (
            Admin(token(), "client-revoke", ("root",)),
            Admin(token(), "client-role", ("root",), {"role": "operator"}),
        ):
            await admin.send(request)
            denied = await admin.receive()
            assert isinstance(denied, Denied)
            assert denied.why.startswith("no admin would be left")
        client = world.keys.read().client("root")
        assert client is not None
        assert client.role is Role.ADMIN


async def test_of_two_agents_with_one_key_the_younger_gets_the_jobs(tmp_path: Path) -> None:
    async with one_node(tmp_path) as (world, tree):
        pair = world.admit("web2", Role.NODE)
        operator = world.operator(world.admit("ann", Role.OPERATOR))
        older = world.operator(pair)
        await older.send(Register("web2", "", "", (), token(), token(), "1", ("echo",)))
        await older.receive()
        async with world.agent("web2", pair):
            broker = world.listening(tree).broker
            await until(lambda: (agent := broker.agents.get("web2")) is not None and agent.older is not None)
            assert type(await older.receive()).__name__ == "Replaced"
            answers = await operator.run(Step("echo", ("hi",)), target="web2")
            assert answers.results["web2"].state is State.OK
            await hears_nothing(older)


RUBBISH = 10_000


def rubbish(chance: random.Random) -> list[bytes]:
    """Frames that are no message."""
    good = encode(Query(token(), "clients"))
    if not chance.randrange(100):
        return [good[0], *chance.choice([(bytes(MAX_HEADER_BYTES + 1), b""), (good[1], bytes(MAX_BODY_BYTES + 1))])]
    match chance.randrange(6):
        case 0:
            return [chance.randbytes(chance.randrange(200)) for _ in range(chance.randrange(1, 8))]
        case 1:
            return [good[0], good[1][: chance.randrange(1, len(good[1]))], b""]
        case 2:
            return [good[0], b"[" * 5000, b""]
        case 3:
            return [good[0], json.dumps({"kind": "ask", "request": chance.random()}).encode(), b""]
        case 4:
            return [good[0], b'{"kind":"register","application":' + b'"x"' * 100 + b"}", chance.randbytes(1000)]
        case _:
            return [good[0], good[1].replace(b"clients", b"cl\\ud800"), chance.randbytes(10)]


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def test_rubbish_by_the_ten_thousand_is_counted_and_costs_nothing(tmp_path: Path) -> None:
    chance = random.Random(7)
    async with one_node(tmp_path) as (world, tree):
        evil = world.operator(world.admit("evil", Role.NODE))
        operator = world.operator(world.admit("ann", Role.OPERATOR))
        broker = world.listening(tree).broker

        async def send(count: int) -> None:
            wanted = broker.counts.total() + count
            for _ in range(count):
                await evil.link.send(rubbish(chance))
            await until(lambda: broker.counts.total() >= wanted)
            assert broker.counts.total() == wanted

        await send(RUBBISH // 5)  # what is allocated once is there now
        before = resident()
        await send(RUBBISH - RUBBISH // 5)
        assert resident() - before < 16 << 20
        reasons = {"frame_count", "version", "too_big", "not_json", "bad_field"}
        assert set(broker.counts) >= {f"control_{each}" for each in reasons}
        refused = [each for each in audited(world) if each["event"] == "refused"]
        assert 0 < len(refused) <= 60  # the trail is not flooded, either
        assert (await operator.run(Step("echo", ("still here",)))).results["web1"].state is State.OK


async def test_rubbish_before_the_handshake_harms_nobody(tmp_path: Path) -> None:
    chance = random.Random(8)
    async with one_node(tmp_path) as (world, _):
        for _ in range(100):
            stream = await trio.open_tcp_stream("127.0.0.1", world.port)
            async with stream:
                await stream.send_all(chance.randbytes(chance.randrange(1, 500)))
        operator = world.operator(world.admit("ann", Role.OPERATOR))
        assert (await operator.run(Step("echo", ("still here",)))).results["web1"].state is State.OK


async def test_who_does_not_read_costs_what_he_may_and_holds_nobody_up(tmp_path: Path) -> None:
    """Of what is written for him the broker keeps as much as it promises, and throws the rest away; the job ends."""
    written = 60_000_000
    async with one_node(tmp_path) as (world, tree):
        deaf = world.operator(world.admit("deaf", Role.OPERATOR))
        operator = world.operator(world.admit("ann", Role.OPERATOR))
        assert (await operator.run(Step("echo", ("hi",)))).results["web1"].state is State.OK
        before = resident()
        await deaf.send(Ask(token(), (Step("exec", ("head", "-c", str(written), "/dev/zero")),), "all", 60.0))
        expect = await deaf.receive()
        assert isinstance(expect, Expect)
        assert (await operator.run(Step("echo", ("hi",)))).results["web1"].state is State.OK
        jobs = world.listening(tree).broker.jobs
        await until(lambda: expect.job not in jobs.running, 60.0)
        assert resident() - before < written // 2
        [part] = jobs.jobs[expect.job].parts.values()
        assert part.end is not None
        assert (part.end.state, part.end.is_truncated) == (State.OK, False)
