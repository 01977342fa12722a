"""Agents that the network lets in: by the daemon's word alone, as the node that it names, and no longer than that."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from control_world import NOW, ControlWorld, alone, control_world, token, until

from holloway.actors.control import control
from holloway.actors.control_plane.broker_follower import Network, follow_brokers
from holloway.actors.control_plane.client_admin import BY_NETWORK
from holloway.actors.control_plane.curve import CurvePair, new_pair
from holloway.actors.control_plane.enrolled_agents import STALE_S, EnrolledAgents, follow_agents
from holloway.actors.control_plane.key_files import with_client, without_client
from holloway.actors.control_plane.key_text import KeyFile
from holloway.actors.control_plane.roster import Roster
from holloway.protocols.broker_places import read_place
from holloway.protocols.control_plane.broker_policy import BrokerPolicy
from holloway.protocols.control_plane.effects import Principal
from holloway.protocols.control_plane.messages import Admin, Answer, Denied, Query, Role, State, Step
from holloway.protocols.control_plane.network_view import KnownBroker
from holloway.protocols.errors import BrokerError
from holloway.protocols.z85 import decode_z85
from holloway.supervisor import open_tree

HERE = ("10.99.4.1",)


class Daemon:
    """A daemon's control socket that says what a test wants said."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.agents: list[list[str]] = []
        self.brokers: list[dict[str, object]] = []
        self.named = ["a", "b"]
        self.announced: list[object] = []
        self.enrolled: list[object] = []
        self._changed = trio.Event()

    def tell(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def say(self, request: dict[str, Any]) -> dict[str, object]:
        if request["op"] == "follow-brokers":
            node = {"name": "web", "network": "home", "addresses": ["10.99.4.2"]}
            return {"node": node, "signed": True, "brokers": list(self.brokers), "named": self.named, "ignored": []}
        return {"signed": True, "obeyed": True, "agents": list(self.agents)}

    async def serve(self, request: Any) -> AsyncIterator[dict[str, object]]:
        if request["op"] == "agents":
            yield {"result": self.say(request)}
            return
        self.enrolled.append(request.get("curve_key"))
        self.announced.append(request.get("broker"))
        while True:
            changed = self._changed
            yield {"event": self.say(request)}
            await changed.wait()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        run = partial(control, path=self.path, service=self.serve)
        async with open_tree(alone("daemon", run)):
            yield


def place(world: ControlWorld, node: str = "a") -> dict[str, object]:
    return {
        "node": node,
        "address": "127.0.0.1",
        "command_port": world.port,
        "file_port": world.file_port or 1,
        "curve_key": world.server.public,
    }


@pytest.fixture
def daemon(tmp_path: Path) -> Daemon:
    return Daemon(tmp_path / "d.sock")


def test_what_the_list_says_of_a_key_or_a_name_counts_whatever_the_network_says() -> None:
    ann, bob, web, old = (new_pair().public for _ in range(4))
    keys = with_client(with_client(KeyFile(), "ann", Role.OPERATOR, ann, NOW), "gone", Role.NODE, old, NOW)
    roster = Roster(without_client(keys, "gone", NOW))
    assert roster.take_enrolled({ann: "web", bob: "ann", old: "back", web: "web2"}) == []
    assert roster.principal(ann) == Principal("ann", Role.OPERATOR, decode_z85(ann))
    assert [roster.principal(each) for each in (bob, old)] == [None, None]
    assert roster.principal(web) == Principal("web2", Role.NODE, decode_z85(web))
    assert roster.enrolled() == [roster.principal(web)]
    assert set(roster.owners()) == {"ann"}
    assert roster.take(with_client(roster.keys, "web2", Role.NODE, bob, NOW)) == ["web2"]
    assert roster.take_enrolled({}) == []


async def test_a_key_that_the_network_names_is_that_node_and_nobody_when_it_names_it_no_more(
    tmp_path: Path, daemon: Daemon
) -> None:
    async with control_world(tmp_path, policy=BrokerPolicy(heartbeat_s=0.3)) as world:
        world.enrolled = EnrolledAgents(daemon.path, HERE)
        pair = new_pair()
        async with world.broker() as tree:
            ann = world.operator(world.admit("ann", Role.ADMIN))
            with pytest.raises(BrokerError, match="does not let us in"):
                await world.operator(pair).link.connected()
            world.enrolled.take([("web", pair.public)])
            async with world.agent("web", pair):
                agents = world.listening(tree).broker.agents
                await until(lambda: agents.get("web") is not None)
                done = await ann.run(Step("echo", ("hi",)))
                assert {name: each.state for name, each in done.results.items()} == {"web": State.OK}
                # It commands nobody, and what the network says is not the admin's to change.
                refused = await world.operator(pair).run(Step("echo", ("hi",)))
                assert refused.denied is not None
                assert "a node commands nobody" in refused.denied.why
                await ann.send(Admin("1" * 32, "client-revoke", ("web",), {}))
                answer = await ann.receive()
                assert isinstance(answer, Denied)
                assert "holloway revoke web" in answer.fix
                await ann.send(Admin("2" * 32, "client-list", (), {}))
                listed = await ann.receive()
                assert isinstance(listed, Answer)
                assert [row["created"] for row in listed.document["rows"] if row["name"] == "web"] == [BY_NETWORK]  # type: ignore[attr-defined,union-attr]
                # Its node is revoked: the connection is still there, and nobody's.
                world.enrolled.take([])
                await until(lambda: agents.get("web") is None or agents.get("web").route is None)  # type: ignore[union-attr]
                after = await ann.run(Step("echo", ("hi",)), deadline_s=2)
                assert State.OK not in [each.state for each in after.results.values()]
                world.enrolled.take([("web", pair.public)])
                await until(lambda: agents.get("web") is not None and agents.get("web").route is not None)  # type: ignore[union-attr]
        trail = [json.loads(line) for line in (world.root / "broker" / "audit.jsonl").read_text().splitlines()]
        said = [(each["who"], each["what"], each["outcome"]) for each in trail if each["event"] == "network"]
        assert said == [("web", pair.public, outcome) for outcome in ("let in", "let in no more", "let in")]


async def test_in_a_network_the_first_client_is_of_this_machine_and_no_agent(tmp_path: Path, daemon: Daemon) -> None:
    """Every node learns the broker's key from its record: knowing it says nothing."""
    agent, operator = new_pair(), new_pair()

    async def is_let_in(world: ControlWorld, pair: CurvePair) -> bool:
        asking = world.operator(pair)
        try:
            await asking.link.connected()
        except BrokerError:
            return False
        await asking.send(Query(token(), "clients"))
        return isinstance(await asking.receive(), Answer)

    async with control_world(tmp_path) as world:
        world.enrolled = EnrolledAgents(daemon.path, HERE)
        world.enrolled.own = frozenset(HERE)  # so that we are another machine
        async with world.broker(first_client_s=600):
            async with daemon.running():
                assert not await is_let_in(world, operator)
            world.enrolled.own = frozenset(("127.0.0.1",))
            assert not await is_let_in(world, operator), "there is no daemon to say that it is no agent"
            async with daemon.running():
                daemon.agents = [["web", agent.public]]
                assert not await is_let_in(world, agent), "it is a node, and commands nobody"
                assert await is_let_in(world, operator)
        kept = world.keys.read()
        assert [(each.name, each.role, each.public_key) for each in kept.client_keys] == [
            ("admin", Role.ADMIN, operator.public)
        ]


async def test_an_agent_finds_its_broker_and_follows_it_when_it_moves(
    tmp_path: Path, daemon: Daemon, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        control_world(tmp_path / "one") as one,
        control_world(tmp_path / "two") as two,
        daemon.running(),
        one.broker() as first,
        two.broker() as second,
    ):
        pair = new_pair()
        for world in (one, two):
            world.keys.change(partial(with_client, name="web", role=Role.NODE, public_key=pair.public, now=NOW))
        async with one.agent("web", pair, network=Network(daemon.path)) as tree:
            agent = tree.ref("agent").get()
            await until(lambda: daemon.enrolled == [pair.public])
            await trio.sleep(0.1)
            assert not agent.is_registered
            for world, broker in ((one, first), (two, second)):
                daemon.brokers = [place(world)]
                daemon.tell()
                known = world.listening(broker).broker.agents
                await until(lambda: known.get("web") is not None)  # noqa: B023
                ann = world.operator(world.admit("ann", Role.OPERATOR))
                done = await ann.run(Step("echo", ("hi",)))
                assert [each.state for each in done.results.values()] == [State.OK]
            daemon.named, daemon.brokers = [], []
            daemon.tell()
            await until(lambda: "may not have a broker any more" in caplog.text)
            await trio.sleep(0.5)  # the broker has noticed by then that nobody is there
            done = await ann.run(Step("echo", ("hi",)))
            assert [each.state for each in done.results.values()] == [State.UNREACHABLE]
        trail = [
            json.loads(line)
            for line in (tmp_path / "one" / "agent-web" / "agent" / "audit.jsonl").read_text().splitlines()
        ]
        said = [(each["who"], each["what"].rpartition(" ")[2]) for each in trail if each["event"] == "broker"]
        assert said == [("a", one.server.public), ("a", two.server.public), ("", "none")]


async def test_an_agent_changes_its_broker_only_when_it_has_to(daemon: Daemon) -> None:
    keys = [new_pair().public for _ in range(3)]
    one, two, moved = (
        {"node": node, "address": f"10.99.4.{number}", "command_port": 1, "file_port": 2, "curve_key": key}
        for node, number, key in (("a", 1, keys[0]), ("b", 2, keys[1]), ("b", 3, keys[2]))
    )
    for wanted, said in (
        (None, [([one], "a"), ([one, two], "a"), ([], "a"), ([one], "a"), ([two], "b"), ([moved], "b")]),
        ("b", [([one], ""), ([one, two], "b"), ([one], "b")]),
    ):
        found: list[KnownBroker | None] = []
        daemon.brokers = []
        async with daemon.running(), trio.open_nursery() as nursery:
            log = logging.getLogger("holloway")
            nursery.start_soon(follow_brokers, Network(daemon.path, wanted), new_pair(), found.append, log)
            await until(lambda: bool(daemon.enrolled))
            for brokers, node in said:
                daemon.brokers = brokers
                daemon.tell()
                await until(lambda: (found[-1].node if found and found[-1] else "") == node)  # noqa: B023
                await trio.sleep(0.05)  # where nothing is to change, this is when it would
            # It may have none any more, or was revoked: then it is not obeyed, though it be there.
            daemon.named, daemon.brokers = ["a"], []
            daemon.tell()
            await until(lambda: found[-1] is None)  # noqa: B023
            nursery.cancel_scope.cancel()
        daemon.enrolled.clear()
        daemon.named = ["a", "b"]
        assert [each and each.place.curve_key for each in found] == [*(keys if wanted is None else [keys[1]]), None]


async def test_a_broker_is_announced_again_to_a_daemon_that_was_started_again(
    tmp_path: Path, daemon: Daemon, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    key = new_pair().public
    where = read_place({"address": "10.99.4.1", "command_port": 1, "file_port": 2, "curve_key": key})
    agents = EnrolledAgents(daemon.path, HERE)
    daemon.agents = [["web", key], ["thief", key]]
    run = partial(follow_agents, agents=agents, place=where)
    async with open_tree(alone("network", run)):
        for life in range(1, 3):
            async with daemon.running():
                await until(lambda: len(daemon.announced) == life)  # noqa: B023
                await until(lambda: agents.names == {key: "web"})
    assert json.loads(json.dumps(daemon.announced)) == [where.fields()] * 2
    assert agents.disputed == {key: ("thief",)}
    assert "the records of thief name the key of node web" in caplog.text
    assert "does not answer" in caplog.text


async def test_what_an_absent_daemon_said_counts_for_a_while_and_no_longer(
    tmp_path: Path, daemon: Daemon, autojump_clock: trio.testing.MockClock
) -> None:
    agents = EnrolledAgents(daemon.path, HERE)  # nobody is there
    agents.take([("web", new_pair().public)])
    heard: list[int] = []
    with agents.heard_by(lambda: heard.append(len(agents.names))):
        async with open_tree(alone("network", partial(follow_agents, agents=agents, place=None))):
            await trio.sleep(STALE_S - 1)
            assert len(agents.names) == 1
            await trio.sleep(STALE_S / 5)
            assert (len(agents.names), heard) == (0, [1, 0])
