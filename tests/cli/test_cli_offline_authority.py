"""An authority on a machine that is never online: whatever it decides reaches its network by file, and any node publishes it.

The network is real but for the wire: nodes that run, and a registry in a file.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
import trio
from etcd_network import RealHost

from holloway.actors import Endpoint, ListenConfig, Node, load_config, open_node
from holloway.actors.enrolled import identity_in
from holloway.actors.joining import join
from holloway.actors.registry import open_registry
from holloway.actors.state_directory import StateDirectory
from holloway.protocols.enrolment import NONCE_BYTES
from holloway.protocols.identity import ENTROPY_BYTES
from holloway.protocols.invitations import parse_token
from holloway.protocols.joiner import Granted, Joiner
from holloway.simulations.network import SimulatedNetwork

Holloway = Callable[..., Any]
PATIENCE_S = 20.0
KEPT_OFFLINE = ("authority.key", "authority.pem", "invitation.key", "ledger.json", "issued.crl")
BEHIND = "192.168.5.0/24"


class Site:
    """Nodes a and b, and the office where the authority is."""

    def __init__(self, holloway: Holloway, let_in: Callable[..., None], folder: Path) -> None:
        self.folder, self._holloway, self._wire = folder, holloway, SimulatedNetwork()
        assert holloway("init", "home", "--name", "a", *self.at("a")).code == 0
        let_in(self.at("a"), "b")
        (folder / "office").mkdir(mode=0o700)
        for name in (*KEPT_OFFLINE, "authorities.json", "network.json"):
            shutil.copy2(folder / "a" / name, folder / "office" / name)
        for name in KEPT_OFFLINE:
            (folder / "a" / name).unlink()

    def at(self, name: str) -> tuple[str, str]:
        """The words that name a folder."""
        return "--state", str(self.folder / name)

    @property
    def url(self) -> str:
        return f"sqlite://{self.folder / 'a' / 'registry.db'}"

    async def run(self, *words: str, to: str | None = None) -> Any:
        """`holloway WORDS...`, while nodes go on. What it prints goes into the file `to`."""
        outcome = await trio.to_thread.run_sync(partial(self._holloway, *words))
        if to is not None:
            assert outcome.code == 0, outcome.err
            (self.folder / to).write_text(outcome.out)
        return outcome

    async def carry(self, *words: str) -> Any:
        """Something that the authority decides, published by b."""
        out = str(self.folder / "said")
        decided = await self.run(*words, "--out", out, *self.at("office"))
        assert decided.code == 0, decided.err
        published = await self.run("authority", "publish", out, *self.at("b"))
        assert published.code == 0, published.err
        return decided

    async def answer(self) -> Any:
        """What the network asks for goes to the authority, and its answers come back."""
        requests, answers = str(self.folder / "requests"), str(self.folder / "answers")
        await self.run("authority", "collect", *self.at("a"), to="requests")
        signed = await self.run("sign", requests, *self.at("office"), to="answers")
        published = await self.run("authority", "publish", answers, *self.at("a"))
        assert published.code == 0, published.err
        return signed

    @asynccontextmanager
    async def nodes(self) -> AsyncIterator[tuple[Node, Node]]:
        """Both, running."""
        async with self._node("a", 1) as a, self._node("b", 2) as b:
            await until(lambda: "b" in a.roster.running and "a" in b.roster.running)
            yield a, b

    @asynccontextmanager
    async def _node(self, name: str, number: int) -> AsyncIterator[Node]:
        config = load_config(self.folder / name / "holloway.toml", environ={})
        outer = f"192.0.2.{number}"
        config = replace(config, listen=ListenConfig(advertise=(Endpoint(outer, 1099),)))
        async with open_node(config, ports=RealHost(self._wire, outer)) as node:
            yield node


@pytest.fixture
def site(holloway: Holloway, let_in: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setattr("holloway.actors.membership.REFRESH_S", 0.2)
    monkeypatch.setattr("holloway.actors.membership.KEEP_S", 0.1)
    return Site(holloway, let_in, tmp_path)


async def until(condition: Callable[[], bool]) -> None:
    async def is_so() -> bool:
        return condition()

    await until_done(is_so)


async def until_done(attempt: Callable[[], Awaitable[bool]]) -> None:
    with trio.fail_after(PATIENCE_S):
        while not await attempt():  # noqa: ASYNC110
            await trio.sleep(0.05)


def certified(node: Node) -> Any:
    assert node.enrolled is not None
    return node.enrolled.certificate


async def test_an_authority_that_is_never_online_certifies_lets_in_and_revokes(site: Site) -> None:
    async with site.nodes() as (a, b):
        await site.carry("certify", "b", "--prefix", BEHIND)
        await until(lambda: ip_network(BEHIND) in certified(b).prefixes)

        token = (await site.run("invite", "--registry", site.url, *site.at("office"))).out.strip()
        state = StateDirectory(site.folder / "c")
        state.create()
        joiner = Joiner(
            parse_token(token, int(time.time())),
            identity_in(state, os.urandom(ENTROPY_BYTES)),
            os.urandom(NONCE_BYTES),
            name="c",
        )
        granted: list[Granted] = []

        async def come() -> None:
            async with open_registry(site.url, wall_ns=time.time_ns) as registry:
                granted.append(await join(registry, joiner, time.time_ns, print))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(come)
            await trio.sleep(0.3)
            assert "node c is let in" in (await site.answer()).err
        assert [each.certificate.name for each in granted] == ["c"]

        await site.carry("revoke", "b")
        await until(lambda: "b" not in a.roster.running)
        again = await site.run("authority", "publish", str(site.folder / "answers"), *site.at("a"))
        assert "revocations_stale" in again.error[1]


async def test_an_authority_that_is_never_online_is_followed_by_another(site: Site) -> None:
    async with site.nodes() as (a, b):
        old = certified(a).authority
        decided = await site.carry("authority", "rollover")
        assert "--finish" in decided.err
        finish = ("authority", "rollover", "--finish", "--out", str(site.folder / "end"), *site.at("office"))
        assert "kept offline" in (await site.run(*finish)).error[1]
        await site.run("authority", "collect", *site.at("a"), to="early")
        early = await site.run(*finish, "--requests", str(site.folder / "early"))
        assert early.error[1].endswith("a, b")

        async def asked() -> bool:
            await site.run("authority", "collect", *site.at("a"), to="requests")
            entries = json.loads((site.folder / "requests").read_text())["entries"]
            return {"renew/a", "renew/b"} <= entries.keys()

        await until_done(asked)
        signed = await site.answer()
        assert "node a has another certificate" in signed.err
        await until(lambda: old not in (certified(a).authority, certified(b).authority))
        listed = json.loads((await site.run("authority", "list", "--json", *site.at("office"))).out)
        assert [each["nodes"] for each in listed["authorities"]] == [[], ["a", "b"]]

        async def finished() -> bool:
            await site.run("authority", "collect", *site.at("a"), to="requests")
            return bool((await site.run(*finish, "--requests", str(site.folder / "requests"))).code == 0)

        await until_done(finished)
        assert (await site.run("authority", "publish", str(site.folder / "end"), *site.at("b"))).code == 0
        assert a.enrolled is not None
        enrolled = a.enrolled
        await until(lambda: len(enrolled.trust.bundle.authorities) == 1)
        assert "b" in a.roster.running


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda entries: entries | {"revoked": entries["config"]}, "revocations_malformed"),
        (lambda entries: entries | {"config": entries["authorities"]}, "statement_"),
        (lambda entries: entries | {"nodes/b": "AAAA"}, "nodes/b is not believed"),
        (lambda entries: entries | {"renewed/a": entries["renewed/b"]}, "is for node b"),
        (lambda entries: entries | {"elsewhere/b": entries["renewed/b"]}, "is for node b"),
        (lambda entries: entries | {"renewed/b": "e30="}, "enrolment_malformed"),
    ],
)
def test_nothing_is_published_that_the_node_would_not_believe(
    holloway: Holloway, site: Site, spoil: Callable[[Any], Any], why: str
) -> None:
    said = site.folder / "said"
    assert holloway("certify", "b", "--prefix", BEHIND, "--out", str(said), *site.at("office")).code == 0
    document = json.loads(said.read_text())
    said.write_text(json.dumps(document | {"entries": spoil(document["entries"])}))
    outcome = holloway("authority", "publish", str(said), *site.at("b"))
    assert outcome.code == 1
    assert outcome.error[0] == "nothing was published"
    assert why in outcome.error[1]


def test_what_is_older_than_what_the_network_has_heard_is_not_published_by_a_node_that_was_away(
    holloway: Holloway, site: Site, tmp_path: Path
) -> None:
    older, newer = str(tmp_path / "older"), str(tmp_path / "newer")
    assert holloway("certify", "b", "--prefix", BEHIND, "--out", older, *site.at("office")).code == 0
    assert holloway("revoke", "b", "--out", newer, *site.at("office")).code == 0
    for _ in range(2):
        assert holloway("authority", "publish", newer, *site.at("a")).code == 0
    assert "revocations_stale" in holloway("authority", "publish", older, *site.at("a")).error[1]


def test_verbs_of_an_authority_that_is_kept_offline_say_what_they_need(
    holloway: Holloway, site: Site, tmp_path: Path
) -> None:
    office = site.at("office")
    for words in (
        ("certify", "b", "--prefix", BEHIND),
        ("revoke", "b"),
        ("release", "b"),
        ("network", "--rest", "2h"),
        ("authority", "rollover"),
    ):
        assert holloway(*words, *office).error[1:] == [
            "this authority is kept offline",
            "the same once more, with --out FILE",
        ]
        nowhere = holloway(*words, "--out", str(tmp_path / "no" / "where"), *office)
        assert "cannot write" in nowhere.error[0]
    assert "--registry URL" in holloway("invite", *office).error[2]
    assert holloway("invite", "--registry", "etc://x", *office).code == 4
    assert "a, b" in holloway("authority", "list", *office).out
    assert "rest_s" in holloway("network", *office).out
    out = str(tmp_path / "out")
    assert "rest_s          7200" in holloway("network", "--rest", "2h", "--out", out, *office).out
    assert holloway("release", "10.99.4.2", "--out", out, *office).code == 0
    assert holloway("authority", "publish", out, *site.at("a")).code == 0
    assert holloway("authority", "publish", str(tmp_path / "office" / "ledger.json"), *site.at("a")).code == 1
    assert holloway("authority", "collect", *office).code == 4
