"""What befalls an etcd, while nodes talk: quick versions of `integration/test_etcd_outages`, in one process, over an etcd of their own
whose logins run out after a second.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from etcd_network import PREFIX, EtcdNetwork, Talk, until
from etcd_servers import EtcdServer, etcd_server, needs_etcd

pytestmark = needs_etcd

HEALED_S = 5.0
TOKEN_S = 1
USER, PASSWORD = "mesh", "of the nodes"


@pytest.fixture(scope="module")
def server() -> Iterator[EtcdServer]:
    with etcd_server("--auth-token=simple", f"--auth-token-ttl={TOKEN_S}") as made:
        made.enable_users({USER: (PASSWORD, "/")})
        made.administrator = "root", "root"
        yield made


async def test_nobody_loses_a_packet_and_all_are_back_soon(
    tmp_path: Path, server: EtcdServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holloway.actors.membership.RETRY_S", 0.2)
    monkeypatch.setattr("holloway.actors.membership.RETRY_MAX_S", 0.4)
    password = tmp_path / "password"
    password.touch(mode=0o600)
    password.write_text(PASSWORD)
    async with (
        EtcdNetwork(tmp_path, server=server, user=USER, password_file=password) as net,
        trio.open_nursery() as nursery,
    ):
        await net.joined("b", "c")
        talk = Talk(net, "a", "b")
        nursery.start_soon(talk.go_on)

        # Leases that somebody ended: everybody has another one.
        before = server.leases()
        server.revoke_all()
        await until(lambda: net.is_whole() and not server.leases() & before, HEALED_S)

        # A crash; no login from before is known any more.
        server.kill()
        await until(lambda: not any(net.registry_of(name)["in_touch"] for name in net.nodes))
        await trio.to_thread.run_sync(server.start)
        await until(net.is_whole, HEALED_S)

        # Logins that have run out: what is watched is told, and what has to be said is said.
        await trio.sleep(2.5 * TOKEN_S)
        assert net.is_whole()
        net.delete(PREFIX + b"nodes/c")
        await until(lambda: not net.registry_of("c")["in_touch"])
        await until(net.is_whole, HEALED_S)
        await net.joined("d")
        assert await talk.lost() == 0
        nursery.cancel_scope.cancel()
