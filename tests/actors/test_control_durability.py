"""What broker and agents keep on disk: what was said to be kept is there, whatever ended the process, and the first client is one."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import trio
from control_world import control_world, token, until

from holloway.actors.control_plane.audit_file import AUDIT_FILE, AuditFile
from holloway.actors.control_plane.curve import new_pair
from holloway.actors.control_plane.first_client import FirstClient
from holloway.actors.control_plane.key_files import ServerKeys
from holloway.actors.control_plane.link import Link
from holloway.actors.control_plane.record_store import RecordStore
from holloway.protocols.control_plane.audit_chain import verify
from holloway.protocols.control_plane.effects import Audit, Forget, Keep
from holloway.protocols.control_plane.messages import Answer, Ask, Expect, Query, Role, State, Step
from holloway.protocols.errors import BrokerError, PortError

LOG = logging.getLogger("holloway.test")


def test_records_are_there_again_and_the_file_is_ours_alone(tmp_path: Path) -> None:
    path = tmp_path / "records.db"
    with RecordStore(path) as store:
        store.commit([Keep("a", b"1"), Keep("b", b"\x00\xff"), Keep("a", b"2"), Keep("c", b""), Forget("c")])
        assert path.stat().st_mode & 0o777 == 0o600
        with pytest.raises(PortError, match="another process has it open"):
            RecordStore(path)
    with RecordStore(path) as store:
        assert store.load() == {"a": b"2", "b": b"\x00\xff"}


def test_a_batch_is_kept_whole_or_not_at_all(tmp_path: Path) -> None:
    with RecordStore(tmp_path / "records.db") as store:
        store.commit([Keep("a", b"1")])
        with pytest.raises(PortError):
            store.commit([Keep("b", b"1"), Keep("a", None)])  # type: ignore[arg-type]
        assert store.load() == {"a": b"1"}
        store.commit([Keep("b", b"2")])
        assert store.load() == {"a": b"1", "b": b"2"}


def test_a_damaged_file_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "records.db"
    path.write_bytes(b"no database at all " * 100)
    with pytest.raises(PortError, match=r"records\.db cannot be used"):
        RecordStore(path)


def entries(*texts: str) -> list[Audit]:
    return [Audit("test", "ann", text, "ok") for text in texts]


def lines(folder: Path, *names: str) -> list[bytes]:
    return [line for name in names for line in (folder / name).read_bytes().splitlines(keepends=True)]


def test_a_trail_goes_on_where_it_was_left_and_through_full_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with AuditFile(tmp_path, LOG) as trail:
        trail.write(1.0, entries("one", "two"))
    monkeypatch.setattr("holloway.actors.control_plane.audit_file.MAX_FILE_BYTES", 1)
    with AuditFile(tmp_path, LOG) as trail:
        trail.write(2.0, entries("three"))
        trail.write(3.0, entries("four"))
    monkeypatch.undo()
    with AuditFile(tmp_path, LOG) as trail:
        trail.write(4.0, entries("five"))
    verdict = verify(lines(tmp_path, "audit-3.jsonl", "audit-4.jsonl", AUDIT_FILE))
    assert (verdict.lines, verdict.first, verdict.head.number, verdict.flaw) == (5, 1, 5, None)


def test_half_a_line_is_cut_off_and_a_damaged_one_is_put_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / AUDIT_FILE
    with AuditFile(tmp_path, LOG) as trail:
        trail.write(1.0, entries("one", "two"))
    path.write_bytes(path.read_bytes() + b'{"n":3,"at":1.0,"prev')
    with AuditFile(tmp_path, LOG) as trail:
        trail.write(2.0, entries("three"))
    assert verify(lines(tmp_path, AUDIT_FILE)).head.number == 3
    assert "not written whole" in caplog.text
    path.write_bytes(path.read_bytes().replace(b'"three"', b'"thr33"'))
    with AuditFile(tmp_path, LOG) as trail:
        trail.write(3.0, entries("four"))
    assert verify(lines(tmp_path, AUDIT_FILE)).lines == 1
    [aside] = tmp_path.glob("damaged-*")
    assert verify(lines(tmp_path, aside.name)).line == 3
    assert "a new trail begins" in caplog.text


async def test_the_first_who_comes_is_admin_and_nobody_after_him(tmp_path: Path) -> None:
    async with control_world(tmp_path) as world, world.broker(first_client_s=60.0):
        pair = new_pair()
        first = world.operator(pair)
        await first.send(Query(token(), "clients"))
        assert isinstance(await first.receive(), Answer)
        client = world.keys.read().client("admin")
        assert client is not None
        assert (client.role, client.public_key) == (Role.ADMIN, pair.public)
        with Link(world.clients, world.broker_for(new_pair())) as second, pytest.raises(BrokerError):
            await second.connected()
        again = world.operator(pair)  # whoever was interrupted comes back with his key
        await again.send(Query(token(), "clients"))
        assert isinstance(await again.receive(), Answer)


async def test_without_the_window_nobody_becomes_admin(tmp_path: Path) -> None:
    async with control_world(tmp_path) as world, world.broker(first_client_s=0.0):
        with Link(world.clients, world.broker_for(new_pair())) as link, pytest.raises(BrokerError):
            await link.connected()
        assert world.keys.read().client_keys == ()
        trail = world.root / "broker" / AUDIT_FILE
        await until(lambda: b"handshake" in trail.read_bytes())  # who was refused stands in the trail


def test_the_window_is_of_the_first_start_and_an_empty_list_does_not_open_it_again(tmp_path: Path) -> None:
    keys = ServerKeys(tmp_path)
    made = keys.ensure()
    assert FirstClient(keys, 600.0).begin(made, 1000.0) == 600.0
    assert FirstClient(keys, 600.0).begin(made, 1500.0) == 100.0
    assert FirstClient(keys, 600.0).begin(made, 900.0) == 0.0  # the clock was set back
    assert FirstClient(keys, 600.0).begin(made, 1601.0) == 0.0
    first = FirstClient(keys, 600.0)
    first.begin(made, 1500.0)
    assert first.admit(new_pair().public, 1500.0, "now") is not None
    assert first.admit(new_pair().public, 1500.0, "now") is None
    keys.change(lambda _: made)  # somebody has emptied the list
    assert FirstClient(keys, 600.0).begin(made, 1501.0) == 0.0


async def test_an_agent_that_was_cut_down_does_not_begin_a_job_again(tmp_path: Path) -> None:
    count = tmp_path / "count"
    step, request = Step("exec", ("sh", "-c", f"echo x >> {count}; exec sleep 60")), token()
    async with control_world(tmp_path) as world, world.broker() as tree:
        operator = world.operator(world.admit("ann", Role.OPERATOR))
        pair = world.admit("web1", Role.NODE)
        async with trio.open_nursery() as nursery:

            async def first_life() -> None:
                async with world.agent("web1", pair):
                    await trio.sleep_forever()

            nursery.start_soon(first_life)
            await until(lambda: world.listening(tree).broker.agents.get("web1") is not None)
            await operator.send(Ask(request, (step,), "all", 30.0))
            assert isinstance(await operator.receive(), Expect)
            await until(count.exists)
            nursery.cancel_scope.cancel()  # unwinds at once: it tells nobody
        async with world.agent("web1", pair):
            answers = await operator.run(step, request=request)
        assert answers.results["web1"].state is State.UNKNOWN
    assert count.read_text() == "x\n"


async def test_a_broker_that_is_started_again_knows_its_agents_and_the_end_of_its_jobs(tmp_path: Path) -> None:
    step, request = Step("exec", ("sh", "-c", "sleep 0.5; echo done")), token()
    async with control_world(tmp_path) as world:
        async with world.broker():
            pair, node = world.admit("ann", Role.OPERATOR), world.admit("web1", Role.NODE)
        async with world.agent("web1", node):  # on the port that the broker has each time
            async with world.broker() as tree:
                await until(lambda: world.listening(tree).broker.agents.get("web1") is not None)
                operator = world.operator(pair)
                await operator.send(Ask(request, (step,), "all", 20.0))
                assert isinstance(await operator.receive(), Expect)
            async with world.broker():
                answers = await world.operator(pair).run(step, request=request)
                assert answers.results["web1"].state is State.OK
        trail = json.loads((world.root / "broker" / AUDIT_FILE).read_text().splitlines()[0])
        assert trail["n"] == 1
