"""The control socket, over real sockets and in real time: hostile, slow and many clients; whose the path is."""

from __future__ import annotations

import json
import os
import socket
import stat
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from node_world import World, config, peer, validate

from holloway.actors import control as control_module
from holloway.actors.control import MAX_CONNECTIONS, MAX_PATH_BYTES, MAX_REQUEST_BYTES, Answer, control
from holloway.actors.node_answers import NodeAnswers
from holloway.protocols.errors import HollowayError, PortError
from holloway.supervisor import Child, ChildExited, ChildStarted, ChildStartError, Event, Supervisor, Tree, open_tree


class Service:
    """Answers `echo` with itself, `count` with so many events, `refuse` with an error, `hang` never."""

    def __init__(self) -> None:
        self.running = 0

    async def __call__(self, request: Answer) -> AsyncGenerator[Answer, None]:
        self.running += 1
        try:
            match request:
                case {"op": "count", "count": int(count)}:
                    for number in range(count):
                        yield {"event": number}
                        await trio.lowlevel.checkpoint()
                    yield {"result": count}
                case {"op": "refuse"}:
                    raise HollowayError("what", "why", "fix")
                case {"op": "hang"}:
                    yield {"event": "hanging"}
                    await trio.sleep_forever()
                case {"op": "flood"}:
                    while True:
                        yield {"event": "x" * 100_000}
                case {"op": "crash"}:
                    raise RuntimeError("a bug in the service")
                case _:
                    yield {"result": request}
        finally:
            self.running -= 1


@asynccontextmanager
async def controlled(path: Path, service: Any = None) -> AsyncIterator[tuple[Tree, list[Event]]]:
    """The actor under a supervisor."""
    events: list[Event] = []

    async def run(ctx: Any, *, task_status: Any) -> None:
        await control(ctx, path, service or Service(), task_status=task_status)

    async with open_tree(Supervisor([Child(name="control", run=run)], name="root"), on_event=events.append) as tree:
        yield tree, events


async def started(events: list[Event], times: int) -> None:
    """Wait until actors have been started so many times."""
    with trio.fail_after(5):
        while len([each for each in events if isinstance(each, ChildStarted)]) < times:  # noqa: ASYNC110
            await trio.sleep(0.01)


async def ask(path: Path, *lines: object, raw: bytes | None = None) -> list[Any]:
    """Everything that is answered to one connection."""
    data = raw if raw is not None else b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    stream = await trio.open_unix_socket(path)
    async with stream:
        await stream.send_all(data)
        answer = b""
        async for chunk in stream:
            answer += chunk
    return [json.loads(line) for line in answer.splitlines()]


def is_there(path: Path) -> bool:
    return os.path.lexists(path)


def remove(path: Path) -> None:
    path.unlink()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def put_in_the_way(kind: str, path: Path) -> None:
    other = path.with_name("other.sock")
    match kind:
        case "file":
            path.write_text("precious")
        case "folder":
            path.mkdir()
        case "link":
            dead_socket(other)
            path.symlink_to(other)
        case _:
            path.symlink_to(other)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "hw0.sock"


async def test_a_request_gets_its_events_and_one_result(path: Path) -> None:
    async with controlled(path):
        assert await ask(path, {"op": "count", "count": 3}) == [{"event": 0}, {"event": 1}, {"event": 2}, {"result": 3}]
        assert await ask(path, {"op": "refuse"}) == [{"error": {"what": "what", "why": "why", "fix": "fix", "code": 1}}]
        assert await ask(path, {"a": "\n\u2028"}) == [{"result": {"a": "\n\u2028"}}]


async def test_a_connection_is_for_one_request(path: Path) -> None:
    async with controlled(path):
        assert await ask(path, {"first": 1}, {"second": 2}) == [{"result": {"first": 1}}]


@pytest.mark.parametrize(
    "raw",
    [
        b"\n",
        b"status\n",
        b"[]\n",
        b"null\n",
        b"1e999\n",
        b'"op"\n',
        b"{\n",
        b"\xff\xfe\x00\n",
        b"[" * 60_000 + b"\n",
        b"9" * 60_000 + b"\n",
        b"\x00" * 100 + b"\n",
    ],
    ids=range(11),
)
async def test_garbage_is_answered_with_an_error(raw: bytes, path: Path) -> None:
    async with controlled(path) as (_, events):
        (answer,) = await ask(path, raw=raw)
        assert answer["error"]["code"] == 2
        assert await ask(path, {"still": "there"}) == [{"result": {"still": "there"}}]
        assert not [each for each in events if isinstance(each, ChildExited)]


async def test_a_request_without_end_is_cut_off(path: Path) -> None:
    async with controlled(path):
        (answer,) = await ask(path, raw=b"x" * (MAX_REQUEST_BYTES + 1))
        assert answer["error"]["what"] == "the request is too long"


async def test_a_client_that_says_half_a_line_and_leaves_is_forgotten(path: Path) -> None:
    async with controlled(path):
        for raw in (b"", b'{"op":', b'{"op":"echo"}'):
            stream = await trio.open_unix_socket(path)
            await stream.send_all(raw or b" ")
            await stream.aclose()
        assert await ask(path, {"still": "there"}) == [{"result": {"still": "there"}}]


async def test_a_client_that_says_nothing_loses_its_place(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_module, "REQUEST_TIMEOUT_S", 0.1)
    async with controlled(path):
        assert await ask(path, raw=b'{"op":') == []


async def test_a_client_that_only_says_that_it_is_done_still_gets_its_answer(path: Path) -> None:
    async with controlled(path):
        stream = await trio.open_unix_socket(path)
        async with stream:
            await stream.send_all(b'{"op":"count","count":2000}\n')
            await stream.send_eof()
            answer = b""
            async for chunk in stream:
                answer += chunk
        assert len(answer.splitlines()) == 2001


async def test_a_client_that_hangs_up_ends_what_it_asked_for(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_module, "HANG_UP_POLL_S", 0.01)
    service = Service()
    async with controlled(path, service):
        for said in (b'{"op":"hang"}\n', b'{"op":"hang"}\nand more'):
            stream = await trio.open_unix_socket(path)
            await stream.send_all(said)
            assert await stream.receive_some(100) == b'{"event":"hanging"}\n'
            assert service.running == 1
            await stream.aclose()
            with trio.fail_after(2):
                while service.running:  # noqa: ASYNC110
                    await trio.sleep(0.01)


async def test_a_client_that_hangs_up_in_the_middle_of_an_answer_hurts_nobody(path: Path) -> None:
    service = Service()
    async with controlled(path, service) as (_, events):
        for _ in range(5):
            stream = await trio.open_unix_socket(path)
            await stream.send_all(b'{"op":"flood"}\n')
            await stream.receive_some(1)
            await stream.aclose()
        with trio.fail_after(2):
            while service.running:  # noqa: ASYNC110
                await trio.sleep(0.01)
        assert await ask(path, {"still": "there"}) == [{"result": {"still": "there"}}]
        assert not [each for each in events if isinstance(each, ChildExited)]


async def test_a_client_that_does_not_read_loses_its_place(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_module, "WRITE_TIMEOUT_S", 0.1)
    service = Service()
    async with controlled(path, service):
        stream = await trio.open_unix_socket(path)
        await stream.send_all(b'{"op":"flood"}\n')
        await stream.receive_some(1)
        with trio.fail_after(2):
            while service.running:  # noqa: ASYNC110
                await trio.sleep(0.01)
        await stream.aclose()


async def test_clients_beyond_the_places_wait_for_one(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_module, "HANG_UP_POLL_S", 0.01)
    service = Service()
    async with controlled(path, service):
        streams = []
        for _ in range(MAX_CONNECTIONS):
            streams.append(await trio.open_unix_socket(path))
            await streams[-1].send_all(b'{"op":"hang"}\n')
            await streams[-1].receive_some(100)
        answers: list[Any] = []
        async with trio.open_nursery() as nursery:

            async def late() -> None:
                answers.extend(await ask(path, {"late": True}))

            nursery.start_soon(late)
            await trio.sleep(0.05)
            assert (service.running, answers) == (MAX_CONNECTIONS, [])
            await streams.pop().aclose()
        assert answers == [{"result": {"late": True}}]
        for stream in streams:
            await stream.aclose()


async def test_a_bug_of_the_service_restarts_the_actor_and_the_socket_is_there_again(path: Path) -> None:
    async with controlled(path) as (_, events):
        assert await ask(path, {"op": "crash"}) == []
        await started(events, 2)
        assert await ask(path, {"still": "there"}) == [{"result": {"still": "there"}}]


async def test_a_node_stops_at_once_with_clients_on_its_socket(path: Path) -> None:
    service = Service()
    streams = []
    with trio.fail_after(2):
        async with controlled(path, service):
            for said in (b"", b'{"op":', b'{"op":"hang"}\n', b'{"op":"flood"}\n'):
                streams.append(await trio.open_unix_socket(path))
                if said:
                    await streams[-1].send_all(said)
            await trio.sleep(0.05)
    assert service.running == 0
    assert not is_there(path)
    for stream in streams:
        await stream.aclose()


# Whose the path is.


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
async def test_only_the_owner_may_open_the_socket_whatever_the_umask(umask: int, path: Path) -> None:
    deep = path.parent / "deep" / "er" / "hw0.sock"
    deep.parent.parent.mkdir()
    before = os.umask(umask)
    try:
        async with controlled(path):
            assert mode(path) == 0o600
        async with controlled(deep):
            assert mode(deep) == 0o600
            assert mode(deep.parent) == 0o700 & ~umask
            assert os.umask(umask) == umask
    finally:
        os.umask(before)


def dead_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()


async def test_the_socket_of_a_dead_predecessor_is_replaced(path: Path) -> None:
    dead_socket(path)
    async with controlled(path):
        assert await ask(path, {"here": 1}) == [{"result": {"here": 1}}]
    assert not is_there(path)


async def refused(path: Path) -> PortError:
    with pytest.raises(ChildStartError) as raised:
        async with controlled(path):
            pytest.fail("it started")
    cause = raised.value.__cause__
    assert isinstance(cause, PortError)
    return cause


async def test_two_nodes_cannot_share_a_socket_and_the_first_is_not_disturbed(path: Path) -> None:
    async with controlled(path):
        for _ in range(3):
            assert (await refused(path)).why == "another node answers there"
            assert await ask(path, {"first": 1}) == [{"result": {"first": 1}}]


async def test_a_socket_whose_owner_is_too_busy_to_accept_is_not_taken_for_dead(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as busy:
        busy.bind(str(path))
        busy.listen(0)
        waiting = []
        for _ in range(3):
            client = socket.socket(socket.AF_UNIX)
            client.setblocking(False)
            waiting.append(client)
            try:
                client.connect(str(path))
            except BlockingIOError:
                break
        with trio.fail_after(0.5):
            assert (await refused(path)).why == "another node answers there"
        for client in waiting:
            client.close()
    assert is_there(path)


@pytest.mark.parametrize("kind", ["file", "folder", "link", "dangling link"])
async def test_what_is_no_socket_is_left_alone(kind: str, path: Path) -> None:
    put_in_the_way(kind, path)
    before = os.lstat(path)
    error = await refused(path)
    assert (error.why, error.fix) == ("a file is in its place", f"move {path} away")
    assert os.lstat(path) == before


async def test_a_path_that_no_socket_can_have_is_an_error_that_says_so(tmp_path: Path) -> None:
    longest = tmp_path / ("x" * (MAX_PATH_BYTES - len(str(tmp_path)) - 1))
    async with controlled(longest):
        assert await ask(longest, {"here": 1}) == [{"result": {"here": 1}}]
    error = await refused(longest.with_name(longest.name + "x"))
    assert "at most 107" in error.why
    assert error.fix == "set [control] socket to a shorter path"


async def test_a_file_in_the_place_of_the_folder_is_an_error_that_says_so(tmp_path: Path) -> None:
    put_in_the_way("file", tmp_path / "folder")
    error = await refused(tmp_path / "folder" / "hw0.sock")
    assert error.what.startswith("the control socket")
    assert error.fix


async def test_a_successors_socket_outlives_us(path: Path) -> None:
    async with controlled(path):
        remove(path)
        successor = socket.socket(socket.AF_UNIX)
        successor.bind(str(path))
        successor.listen()
    assert is_there(path)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    successor.close()


async def test_a_socket_that_somebody_removed_is_no_trouble_at_the_end(path: Path) -> None:
    async with controlled(path):
        remove(path)
    assert not is_there(path)


# Through a node.


async def test_a_node_answers_by_the_published_schemas(path: Path) -> None:
    world = World()
    left, right = world.ports(1), world.ports(2, answer_pings=True)
    async with (
        world.node(config(1, peers=[peer(2)], control=path), left) as a,
        world.node(config(2, peers=[peer(1)]), right),
    ):
        with trio.fail_after(5):
            await a.connected("node-2")
        (status,) = await ask(path, {"op": "status"})
        validate("status", status["result"])
        assert status["result"]["peers"][0]["state"] == "ok"
        (peers,) = await ask(path, {"op": "peers"})
        validate("peers", peers["result"])
        (routes,) = await ask(path, {"op": "routes"})
        validate("routes", routes["result"])
        assert [(each["prefix"], each["via"], each["kind"]) for each in routes["result"]["routes"]] == [
            ("10.99.0.1/32", None, "local"),
            ("10.99.0.2/32", "node-2", "peer"),
        ]
        *events, result = await ask(path, {"op": "ping", "peer": "node-2", "count": 2, "interval_s": 0.01})
        assert [each["event"]["sequence"] for each in events] == [1, 2]
        for each in events:
            validate("ping", {"schema": "holloway.ping/1"} | each)
        validate("ping", result["result"])


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"op": "reboot"},
        {"op": ["status"]},
        {"op": "ping"},
        {"op": "ping", "peer": 7},
        {"op": "ping", "peer": "nobody"},
        {"op": "ping", "peer": "node-2", "count": 0},
        {"op": "ping", "peer": "node-2", "count": 1.5},
        {"op": "ping", "peer": "node-2", "count": True},
        {"op": "ping", "peer": "node-2", "count": "4"},
        {"op": "ping", "peer": "node-2", "count": 10**30},
        {"op": "ping", "peer": "node-2", "interval_s": -1},
        {"op": "ping", "peer": "node-2", "interval_s": float("nan")},
        {"op": "ping", "peer": "node-2", "timeout_s": float("inf")},
        {"op": "ping", "peer": "node-2", "timeout_s": None},
    ],
    ids=range(15),
)
async def test_a_request_that_makes_no_sense_is_refused_in_words(request_: Any, path: Path) -> None:
    world = World()
    async with world.node(config(1, peers=[peer(2)], control=path), world.ports(1)) as a:
        (answer,) = await ask(path, request_)
        assert answer["error"]["what"]
        assert answer["error"]["code"] == 1
        assert [info.restarts for info in a.tree.children()] == [0, 0]


async def test_a_bug_behind_the_socket_does_not_disturb_the_data_plane(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World()
    events: list[Event] = []
    async with world.node(config(1, control=path), world.ports(1), on_event=events.append) as a:

        def crash(answers: NodeAnswers) -> None:
            raise RuntimeError("a bug in status")

        monkeypatch.setattr(NodeAnswers, "status", crash)
        events.clear()
        for number in range(3):
            await started(events, number)
            assert await ask(path, {"op": "status"}) == []
        assert {each.path for each in events if isinstance(each, ChildExited)} == {"node.control.socket"}
        assert [info.restarts for info in a.tree.children()] == [0, 0]
