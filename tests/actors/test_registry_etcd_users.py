"""The registry in etcd with users and passwords: logging in, staying logged in, and being turned away."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from etcd_back_end import until_done
from etcd_servers import EtcdServer, etcd_server, needs_etcd, shared_server
from registry_back_ends import gather

from holloway.actors.registry import RegistryPort
from holloway.actors.registry.etcd import open_etcd
from holloway.actors.registry.etcd_errors import Refusal, refusal
from holloway.actors.registry.etcd_url import parse_etcd_url
from holloway.protocols.errors import RegistryError

pytestmark = needs_etcd

TOKEN_S = 1


@pytest.fixture(scope="module")
def guarded() -> Iterator[EtcdServer]:
    with etcd_server(f"--auth-token-ttl={TOKEN_S}") as server:
        server.enable_users({"alice": ("sesame", "/a/"), "bob": ("open", "/b/")})
        yield server


@pytest.fixture
def password(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "password"
        path.touch(0o600)
        path.write_text(text)
        return path

    return write


@asynccontextmanager
async def opened(server: EtcdServer, prefix: str = "/a/", **query: object) -> AsyncIterator[RegistryPort]:
    async with open_etcd(parse_etcd_url(server.url(prefix, **query))) as registry:
        yield registry


async def test_token_that_expires_is_renewed_and_nobody_notices(
    guarded: EtcdServer, password: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where a watch is told, as by older releases, that its permission is denied."""

    def as_before(code: str, details: str, where: str) -> Refusal:
        return refusal(code, "etcdserver: permission denied" if code == "CANCELLED" else details, where)

    monkeypatch.setattr("holloway.actors.registry.etcd_client.refusal", as_before)
    async with opened(guarded, user="alice", password_file=password("sesame\n")) as registry:
        lease = await registry.grant(30.0)
        start = (await registry.put(b"k", b"0", lease=lease.id)).revision
        async with registry.watch(b"", start) as old:
            await trio.sleep(TOKEN_S + 1.2)  # etcd looks once a second
            await registry.keep_alive(lease.id)
            async with registry.watch(b"", start - 1) as fresh:
                assert [change.revision for change in await fresh.receive()] == [start]
            last = (await registry.put(b"k", b"1", lease=lease.id)).revision
            assert [change.revision for change in await gather(old, last)] == [last]
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(registry.put, b"%d" % number, b"")
        await registry.revoke(lease.id)


async def test_restart_forgets_all_tokens_and_nobody_notices(password: Callable[[str], Path]) -> None:
    who = {"user": "alice", "password_file": password("sesame")}
    with etcd_server() as server:
        server.enable_users({"alice": ("sesame", "/a/")})
        async with opened(server, **who) as registry, opened(server, **who) as other:
            start = (await registry.put(b"k", b"")).revision
            await other.snapshot(b"")
            await trio.to_thread.run_sync(server.kill)
            await trio.to_thread.run_sync(server.start)
            last = await until_done(other, b"again")
            with trio.fail_after(20):
                while True:
                    try:
                        async with registry.watch(b"", start) as watch:
                            assert [change.revision for change in await watch.receive()] == [last]
                        break
                    except RegistryError as error:
                        if error.kind != "unavailable":
                            raise
                        await trio.sleep(0.05)


@pytest.mark.parametrize(
    ("user", "text", "prefix", "why", "fix"),
    [
        ("alice", "simsim", "/a/", "the user or the password is wrong", "user passwd"),
        ("nobody", "sesame", "/a/", "the user or the password is wrong", "password_file"),
        ("alice", "sesame", "/b/", "permission denied", "grant-permission"),
        (None, "", "/a/", "it wants to know the user", "user=NAME"),
    ],
)
async def test_who_may_not_is_denied_with_the_cause(
    guarded: EtcdServer, password: Callable[[str], Path], user: str | None, text: str, prefix: str, why: str, fix: str
) -> None:
    query = {} if user is None else {"user": user, "password_file": password(text)}
    async with opened(guarded, prefix, **query) as registry:

        async def follow() -> None:
            async with registry.watch(b"", 1) as watch:
                await watch.receive()

        calls = [lambda: registry.put(b"k", b""), lambda: registry.snapshot(b""), follow]
        for call in calls if user is not None else calls[:2]:
            with trio.fail_after(10), pytest.raises(RegistryError) as caught:
                await call()
            assert (caught.value.kind, why in caught.value.why, fix in caught.value.fix) == ("denied", True, True)
            assert text not in str(caught.value) or not text


async def test_server_that_knows_no_users_says_so(password: Callable[[str], Path]) -> None:
    async with opened(shared_server(), user="alice", password_file=password("sesame")) as registry:
        with pytest.raises(RegistryError, match="authentication is not enabled") as caught:
            await registry.put(b"k", b"")
        assert caught.value.kind == "denied"


async def test_password_that_goes_out_in_the_clear_is_warned_about(
    password: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    file = password("sesame")
    for host, times in (("127.0.0.1:9", 0), ("192.0.2.1", 1)):
        async with open_etcd(parse_etcd_url(f"etcd://{host}/?user=alice&password_file={file}")):
            told = [record for record in caplog.records if "without TLS" in record.getMessage()]
            assert [record.levelno for record in told] == [logging.WARNING] * times
