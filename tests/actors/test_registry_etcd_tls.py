"""The registry in etcd over TLS: who is believed, who we are, and what is said when it does not work."""

from __future__ import annotations

import datetime
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio
from etcd_certificates import Authority
from etcd_servers import EtcdServer, etcd_server, needs_etcd, shared_server

from holloway.actors.registry.etcd import open_etcd
from holloway.actors.registry.etcd_url import parse_etcd_url
from holloway.protocols.errors import RegistryError

pytestmark = needs_etcd


@dataclass
class Secured:
    """A server that wants client certificates of `authority`; their common name is the user."""

    server: EtcdServer
    folder: Path
    authority: Authority

    def url(self, user: str | None = "alice", host: str = "127.0.0.1", prefix: str = "/a/", **query: Any) -> str:
        if user is not None:
            stem = self.folder / user
            if not stem.with_suffix(".key").exists():
                self.authority.issue(stem, common_name=user)
            query |= {"cert": stem.with_suffix(".crt"), "key": stem.with_suffix(".key")}
        if "skip_verify" not in query:
            query = {"ca": self.authority.path} | query
        settings = "&".join(f"{key}={value}" for key, value in query.items())
        return f"etcd://{host}:{self.server.port}{prefix}?{settings}"


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("tls")
    authority = Authority(folder)
    with etcd_server(authority=authority) as server:
        server.enable_users({"alice": (None, "/a/"), "bob": ("sesame", "/b/")})
        yield Secured(server, folder, authority)


async def put(url: str) -> None:
    with trio.fail_after(10):
        async with open_etcd(parse_etcd_url(url)) as registry:
            assert (await registry.put(b"k", b"v")).succeeded
            async with registry.watch(b"", 0) as watch:
                assert (await watch.receive())[0].key == b"k"


async def refusal(url: str) -> RegistryError:
    with trio.fail_after(10), pytest.raises(RegistryError) as caught:
        await put(url)
    assert all((caught.value.what, caught.value.why, caught.value.fix))
    return caught.value


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_certificate_is_who_we_are(secured: Secured, host: str) -> None:
    await put(secured.url(host=host))


async def test_several_hosts_are_held_to_the_one_name(secured: Secured) -> None:
    url = secured.url(server_name="localhost").replace("etcd://", "etcd://127.0.0.1:9,")
    await put(url)
    assert "for another name" in (await refusal(secured.url(server_name="example.org"))).why


async def test_server_of_another_authority_is_not_believed(secured: Secured, tmp_path: Path) -> None:
    error = await refusal(secured.url(ca=Authority(tmp_path, "stranger").path))
    assert "TLS failed: its certificate is not believed (unable to get local issuer" in error.why
    assert "ca=FILE" in error.fix
    error = await refusal(secured.url().replace(f"ca={secured.authority.path}", "tls=yes"))
    assert "TLS failed: its certificate is not believed" in error.why


async def test_client_certificate_that_is_missing_foreign_or_old_is_named_as_the_cause(
    secured: Secured, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path, "stranger")
    foreign = stranger.issue(tmp_path / "foreign", common_name="alice")
    old = secured.authority.issue(tmp_path / "old", common_name="alice", age=datetime.timedelta(days=3))
    for url in (
        secured.url(None),
        secured.url(None, cert=foreign[0], key=foreign[1]),
        secured.url(None, cert=old[0], key=old[1]),
    ):
        error = await refusal(url)
        assert "TLS failed: it wants a client certificate" in error.why
        assert "cert=FILE" in error.fix


async def test_one_side_without_tls_is_named_as_the_cause(secured: Secured) -> None:
    error = await refusal(f"etcd://127.0.0.1:{secured.server.port}/a/")
    assert "perhaps it wants TLS" in error.why
    assert "ca=FILE" in error.fix
    error = await refusal(secured.url().replace(f":{secured.server.port}/", f":{shared_server().port}/"))
    assert "TLS failed: it does not speak TLS" in error.why


async def test_keys_elsewhere_and_unknown_users_are_denied(secured: Secured) -> None:
    for url in (secured.url(prefix="/b/"), secured.url("mallory")):
        error = await refusal(url)
        assert error.kind == "denied"
        assert "permission denied" in error.why
    async with open_etcd(parse_etcd_url(secured.url(prefix="/b/"))) as registry:
        for call in (lambda: registry.snapshot(b""), lambda: registry.create(b"k", b""), lambda: registry.delete(b"k")):
            with pytest.raises(RegistryError, match="permission denied") as caught:
                await call()
            assert caught.value.kind == "denied"
        async with registry.watch(b"", 1) as watch:
            with pytest.raises(RegistryError, match="permission denied") as caught:
                await watch.receive()
            assert caught.value.kind == "denied"


async def test_password_goes_before_the_certificate(secured: Secured, tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.touch(0o600)
    password.write_text("sesame\n")
    await put(secured.url("alice", prefix="/b/", user_="").replace("user_=", f"user=bob&password_file={password}"))


# Without verification.


@pytest.mark.parametrize("user", ["alice"])
async def test_skip_verify_believes_what_it_is_shown_and_says_so(
    secured: Secured, user: str, caplog: pytest.LogCaptureFixture
) -> None:
    await put(secured.url(user, skip_verify="yes"))
    (told,) = [record for record in caplog.records if "skip_verify" in record.getMessage()]
    assert told.levelno == logging.WARNING
    assert "is believed" in told.getMessage()


async def test_skip_verify_still_notices_a_server_that_is_swapped_later(secured: Secured, tmp_path: Path) -> None:
    """Another server takes its place between two calls, with a certificate of its own."""
    stranger = Authority(tmp_path, "stranger")
    impostor = stranger.issue(tmp_path / "impostor", names=["localhost"], addresses=["127.0.0.1"])

    async def port_of(target: dict[str, int]) -> trio.SocketListener:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")

        async def relay(client: trio.SocketStream) -> None:
            async with (
                client,
                await trio.open_tcp_stream("127.0.0.1", target["port"]) as server,
                trio.open_nursery() as both,
            ):

                async def copy(source: trio.SocketStream, to: trio.SocketStream) -> None:
                    try:
                        async for data in source:
                            await to.send_all(data)
                    except trio.BrokenResourceError:
                        pass
                    both.cancel_scope.cancel()

                both.start_soon(copy, client, server)
                both.start_soon(copy, server, client)

        nursery.start_soon(trio.serve_listeners, relay, [listener])
        return listener

    with etcd_server(authority=secured.authority) as other:
        arguments = [each for each in other.arguments if not each.startswith(("--cert-file", "--key-file"))]
        await trio.to_thread.run_sync(other.kill)
        other.arguments = [*arguments, f"--cert-file={impostor[0]}", f"--key-file={impostor[1]}"]
        await trio.to_thread.run_sync(other.start)
        async with trio.open_nursery() as nursery:
            target = {"port": secured.server.port}
            listener = await port_of(target)
            port = listener.socket.getsockname()[1]
            url = secured.url(skip_verify="yes").replace(f":{secured.server.port}/", f":{port}/")
            async with open_etcd(parse_etcd_url(url)) as registry:
                target["port"] = other.port
                with pytest.raises(RegistryError, match="TLS failed: its certificate is not believed"):
                    await registry.put(b"k", b"v")
            nursery.cancel_scope.cancel()


async def test_skip_verify_without_a_server_says_why(secured: Secured) -> None:
    port = shared_server().port
    error = await refusal(secured.url(skip_verify="yes").replace(f":{secured.server.port}/", f":{port}/"))
    assert f"127.0.0.1 port {port}: " in error.why
    assert "openssl s_client" in error.fix
