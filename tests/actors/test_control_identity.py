"""Whose agent somebody is: what a node's record names is not enough, who was taken out by name stays out, and agents are never admins."""

from __future__ import annotations

import json
import logging
from functools import partial
from pathlib import Path

import pytest
import trio
from control_world import ControlWorld, alone, control_world, token, until

from holloway.actors.control import control
from holloway.actors.control_plane.broker_follower import Network, follow_brokers
from holloway.actors.control_plane.curve import new_pair
from holloway.actors.control_plane.enrolled_agents import EnrolledAgents
from holloway.protocols.control_plane.broker_policy import BrokerPolicy
from holloway.protocols.control_plane.jobs import Phase
from holloway.protocols.control_plane.messages import (
    Admin,
    Answer,
    Denied,
    Heartbeat,
    Query,
    Role,
    State,
    Step,
)
from holloway.supervisor import open_tree

QUICK = BrokerPolicy(heartbeat_s=0.3)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Agents ask again soon."""
    monkeypatch.setattr("holloway.protocols.control_plane.agent.REGISTER_EVERY_S", 0.3)


def in_network(world: ControlWorld, folder: Path) -> EnrolledAgents:
    world.enrolled = EnrolledAgents(folder / "d.sock", ("127.0.0.1",))
    return world.enrolled


async def rows_of(world: ControlWorld, ann: object, *words: str, **options: str) -> list[dict[str, str]] | Denied:
    await ann.send(Admin(token(), words[0], words[1:], options))  # type: ignore[attr-defined]
    answer = await ann.receive()  # type: ignore[attr-defined]
    if isinstance(answer, Denied):
        return answer
    assert isinstance(answer, Answer)
    return answer.document["rows"]  # type: ignore[return-value]


async def test_a_node_that_names_the_key_of_another_gets_none_of_its_jobs_and_the_other_has_it_again_at_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The record of the other is away, and the broker knows nothing of it: only the agent itself can say whose it is."""
    async with control_world(tmp_path, policy=QUICK) as world:
        network, pair = in_network(world, tmp_path), new_pair()
        async with world.broker() as tree, world.agent("c", pair):
            agents = world.listening(tree).broker.agents
            ann = world.operator(world.admit("ann", Role.OPERATOR))
            network.take([("b", pair.public)])
            await until(lambda: "takes our key" in caplog.text or "our key is called b" in caplog.text)
            denied = (await ann.run(Step("echo", ("hi",)))).denied
            assert denied is not None
            assert agents.get("b") is None
            network.take([("b", pair.public), ("c", pair.public)])
            await until(lambda: agents.get("c") is not None)
            done = await ann.run(Step("echo", ("hi",)))
            assert {name: each.state for name, each in done.results.items()} == {"c": State.OK}
            assert "is of the agent of node c" in caplog.text
        trail = [json.loads(line) for line in (world.root / "broker" / "audit.jsonl").read_text().splitlines()]
        assert ("b", "register as c") in {(each["who"], each["what"]) for each in trail if each["event"] == "refused"}
        # It is remembered, in another life of the broker and while that record is away.
        world.enrolled = again = EnrolledAgents(network.path, ("127.0.0.1",))
        async with world.broker():
            again.take([("b", pair.public)])
            assert dict(again.names) == {}
            again.take([("b", pair.public), ("c", pair.public)])
            assert dict(again.names) == {pair.public: "c"}


async def test_what_an_agent_says_of_jobs_before_it_says_whose_it_is_is_not_heard(tmp_path: Path) -> None:
    """A job goes to two nodes, and one of them names the key of the other: the end of the other's is not taken for its own."""
    async with control_world(tmp_path, policy=QUICK) as world:
        network, pairs = in_network(world, tmp_path), [new_pair(), new_pair()]
        network.take([("b", pairs[0].public), ("c", pairs[1].public)])
        async with world.broker() as tree:
            broker = world.listening(tree).broker
            ann = world.operator(world.admit("ann", Role.OPERATOR))
            async with world.agent("c", pairs[1]), world.agent("b", pairs[0]):
                await until(lambda: len(broker.agents) == 2)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(partial(ann.run, Step("exec", ("sleep", "1"))))
                    await until(lambda: bool(broker.jobs.running))
                    [job] = broker.jobs.running.values()
                    await until(lambda: all(part.phase is Phase.TAKEN for part in job.parts.values()))
                    network.take([("b", pairs[1].public)])
                    await until(lambda: broker.counts["control_not_registered"] > 0)
                    assert job.parts["b"].end is None
                    network.take([("b", pairs[0].public), ("c", pairs[1].public)])
                assert {part.end and part.end.state for part in job.parts.values()} == {State.OK}


async def test_of_two_nodes_that_hold_one_key_the_one_that_is_registered_keeps_it(tmp_path: Path) -> None:
    """A machine was copied, with its agent's key: the two do not take turns."""
    async with control_world(tmp_path, policy=QUICK) as world:
        network, pair = in_network(world, tmp_path), new_pair()
        network.take([("c", pair.public), ("b", pair.public)])
        async with world.broker() as tree, world.agent("c", pair):
            broker = world.listening(tree).broker
            await until(lambda: broker.agents.get("c") is not None)
            async with world.agent("b", pair):
                await until(lambda: broker.counts["control_other_name"] > 2)
                assert [agent.record.name for agent in broker.agents] == ["c"]
                assert dict(network.names) == {pair.public: "c"}


async def test_who_was_revoked_by_name_does_not_come_back_as_the_node_of_that_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with control_world(tmp_path, policy=QUICK) as world:
        network, pair = in_network(world, tmp_path), new_pair()
        ann_pair, _ = world.admit("ann", Role.ADMIN), world.admit("web", Role.OPERATOR)
        async with world.broker() as tree, world.agent("web", pair):
            agents = world.listening(tree).broker.agents
            ann = world.operator(ann_pair)
            network.take([("web", pair.public)])
            await until(lambda: "kept out, though the network would let it in: web" in caplog.text)
            assert "let in by the network: web" not in caplog.text
            [row] = await rows_of(world, ann, "client-revoke", "web")  # type: ignore[misc]
            assert row["node_kept_out"] == pair.public
            network.take([])
            network.take([("web", pair.public)])
            await trio.sleep(0.3)
            assert agents.get("web") is None
            # Until somebody lets it in by name.
            assert not isinstance(
                await rows_of(world, ann, "client-create", "web", role="node", **{"public-key": pair.public}), Denied
            )
            await until(lambda: agents.get("web") is not None)


async def test_a_client_is_not_called_as_a_node_that_the_network_lets_in(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with control_world(tmp_path, policy=QUICK) as world:
        network, pair = in_network(world, tmp_path), new_pair()
        network.take([("web", pair.public)])
        async with world.broker():
            ann = world.operator(world.admit("ann", Role.ADMIN))
            await until(lambda: "let in by the network: web" in caplog.text)
            refused = await rows_of(
                world, ann, "client-create", "web", role="node", **{"public-key": new_pair().public}
            )
            assert isinstance(refused, Denied)
            assert "would take its place" in refused.why
            # On the broker's disk nobody can know: the broker says it.
            world.admit("web", Role.NODE)
            await until(lambda: "kept out, though the network would let it in: web" in caplog.text)
            assert "let in no more by the network: web" in caplog.text


async def test_an_agent_is_never_the_first_client_and_hears_what_to_do(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pair, operator = new_pair(), new_pair()
    async with (
        control_world(tmp_path, policy=QUICK) as world,
        world.broker(first_client_s=600) as tree,
        world.agent("web1", pair),
    ):
        fix = f"holloway client create --role node --name web1 --public-key '{pair.public}'"
        await until(lambda: "not let in: " in caplog.text)
        assert fix in caplog.text
        assert world.keys.read().client_keys == ()
        quiet = world.operator(new_pair())
        await quiet.send(Heartbeat())
        ann = world.operator(operator)
        await ann.send(Query(token(), "clients"))
        assert isinstance(await ann.receive(), Answer)
        assert [(each.name, each.role, each.public_key) for each in world.keys.read().client_keys] == [
            ("admin", Role.ADMIN, operator.public)
        ]
        # Who asks second is too late, and the agent is let in as what it is.
        await quiet.send(Query(token(), "clients"))
        await rows_of(world, ann, "client-create", "web1", role="node", **{"public-key": pair.public})
        await until(lambda: world.listening(tree).broker.agents.get("web1") is not None)
        assert len(world.keys.read().client_keys) == 2


async def test_an_agent_says_that_another_one_of_its_node_has_taken_its_place(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pair, other = new_pair(), new_pair()
    changed = trio.Event()

    async def serve(request: object):  # type: ignore[no-untyped-def]
        for key in (pair.public, other.public):
            node = {"name": "web", "network": "home", "addresses": [], "agent": key}
            yield {"event": {"node": node, "signed": True, "brokers": [], "named": [], "ignored": []}}
            await changed.wait()
        await trio.sleep_forever()

    path = tmp_path / "d.sock"
    async with open_tree(alone("daemon", partial(control, path=path, service=serve))), trio.open_nursery() as nursery:
        log = logging.getLogger("holloway")
        nursery.start_soon(follow_brokers, Network(path), pair, lambda _: None, log)
        await until(lambda: "waiting for one" in caplog.text)
        assert "another agent of node web" not in caplog.text
        changed.set()
        await until(
            lambda: (
                f"has taken the place of this one, which gets no more jobs: its key is {other.public}" in caplog.text
            )
        )
        nursery.cancel_scope.cancel()
