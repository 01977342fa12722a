"""What somebody can do who has full write access to etcd, and means harm: read, impersonate and redirect he cannot.

Real nodes over a real etcd; the attacker knows all that ever stood there, has an authority of his own and a friend among the
nodes. After each attack every node has every other one with its right key, addresses and place, no packet between a and b was
lost or could be read on the wire, and his own node, which calls itself b, has got through to nobody. `docs/security.md` lists
the attacks; those that deny something while they last say so here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, ip_network
from pathlib import Path

import pytest
import trio
from attack_stage import LAIR, Stage, stage
from etcd_network import FOUNDER, MARK, NETWORK, PORT, PREFIX, EtcdNetwork, RealHost, echo, now, until
from etcd_servers import fresh_prefix, needs_etcd, shared_server, text
from node_world import config as world_config
from node_world import name as node_name
from node_world import outer
from node_world import peer as pinned
from node_world import record as node_record

from holloway.actors import RegistryConfig, TimersConfig, open_node
from holloway.actors.enrolled import SESSION_KEY
from holloway.protocols.authorities import authorities_key, make_bundle
from holloway.protocols.enrolment import request_key
from holloway.protocols.hostile_json import compact
from holloway.protocols.keys import StaticKey, encode_key
from holloway.protocols.membership import NodeRecord, encode_record, node_key
from holloway.protocols.statements import SETTINGS, make_statement
from holloway.protocols.suites import MessageType
from holloway.protocols.trust import revoked_key
from holloway.simulations.network import SimulatedNetwork

pytestmark = needs_etcd

B, C = node_key(NETWORK, "b"), node_key(NETWORK, "c")
CONFIG, AUTHORITIES, REVOKED = PREFIX + b"config", authorities_key(NETWORK), revoked_key(NETWORK)
KEY_HOLD_S = 0.5
FLOOD_KEYS = 1500
FLOOD_AT_ONCE = 100


@pytest.fixture(scope="module")
def on(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with pytest.MonkeyPatch.context() as patch, stage(tmp_path_factory.mktemp("attacks")) as made:
        patch.setattr("holloway.actors.membership.RETRY_S", 0.1)
        patch.setattr("holloway.actors.membership.RETRY_MAX_S", 0.2)
        patch.setattr("holloway.actors.records.KEY_HOLD_S", KEY_HOLD_S)
        patch.setattr("holloway.actors.issuer.PUT_BACK_S", 0.1)
        yield made


def test_1_he_puts_another_session_key_into_a_record(on: Stage) -> None:
    async def attack(on: Stage) -> None:
        key = encode_key(StaticKey(on.mallorys_key).public)
        await on.refused("record_bad_signature", B, on.altered(public_key=key))
        mine = on.foreign(public_key=StaticKey(on.mallorys_key).public)
        await on.refused("record_foreign_authority", B, mine)
        await on.refused("record_unsigned", B, json.loads(mine)["record"].encode())
        await on.nothing_came_of_it()
        assert on.net.nodes[FOUNDER].drops()["unknown_peer"] > 0, "mallory calls"

    on.run(attack)


def test_2_he_sends_a_node_s_traffic_to_his_own_machine(on: Stage) -> None:
    async def attack(on: Stage) -> None:
        mine = [[LAIR, PORT]]
        await on.refused("record_bad_signature", B, on.altered(endpoints=mine))
        await on.refused("record_foreign_authority", B, on.foreign(endpoints=((LAIR, PORT),)))
        await on.nothing_came_of_it()

    on.run(attack)


def test_3_he_has_his_friend_take_an_address(on: Stage) -> None:
    async def attack(on: Stage) -> None:
        theirs = on.net.nodes["b"].config.interface.addresses
        await on.refused("record_address_not_certified", C, on.net.signed_by("c", addresses=theirs))
        # Or a network in which it lies, or its claim in the place where others have theirs.
        for prefix in ("10.99.4.0/24", "10.99.4.2/32"):
            value = on.net.signed_by("c", prefixes=(ip_network(prefix),))
            await on.refused("record_prefix_not_certified", C, value)
        await on.refused("address_claim_ignored", PREFIX + b"addresses/10.99.4.2", on.net.signed_by("c"))
        await on.nothing_came_of_it()

    on.run(attack)


def test_4_he_has_everything_routed_to_his_friend(on: Stage) -> None:
    async def attack(on: Stage) -> None:
        for prefix in ("0.0.0.0/0", "::/0"):
            value = on.net.signed_by("c", prefixes=(ip_network(prefix),))
            await on.refused("record_prefix_not_certified", C, value)
        await on.refused("record_bad_signature", B, on.altered(prefixes=["0.0.0.0/0"]))
        await on.nothing_came_of_it()

    on.run(attack)


def test_5_he_brings_back_a_record_from_before_the_key_was_changed(on: Stage) -> None:
    async def attack(on: Stage) -> None:
        net = on.net
        old, old_key = net.record("c"), net.nodes["c"].public_key
        await net.stop("c")
        net.state("c").write(SESSION_KEY, encode_key(os.urandom(32)) + "\n")
        await net.start("c")
        await net.all_meet()
        assert net.nodes["c"].public_key != old_key
        await on.refused("record_stale", C, old)
        # Also with the new one out of the way, and to nodes that have restarted since.
        net.delete(C)
        await on.refused("record_stale", C, old)
        await net.stop("d")
        net.put({C: old})
        await net.start("d")
        await on.nothing_came_of_it()

    on.run(attack)


def test_6_he_brings_back_a_node_that_was_revoked(on: Stage) -> None:
    async def attack(on: Stage) -> None:
        net, gone = on.net, node_key(NETWORK, "e")
        await on.refused("revocations_stale", REVOKED, on.remembered[REVOKED])
        await on.refused("record_revoked", gone, on.remembered[gone])
        net.delete(REVOKED)
        await on.refused("record_revoked", gone, on.remembered[gone])
        await on.refused("revocations_foreign_authority", REVOKED, on.elsewhere_authority.statements(now())[REVOKED])
        await on.refused("record_revoked", gone, on.remembered[gone])
        # Whoever restarts has not forgotten it either.
        await net.stop("d")
        net.put({REVOKED: on.remembered[REVOKED], gone: on.remembered[gone]})
        await net.start("d")
        await on.nothing_came_of_it()
        net.delete(gone)
        await until(lambda: net.held(REVOKED).get(REVOKED) not in (None, on.remembered[REVOKED]))

    on.run(attack)


def test_7_he_answers_for_the_authority(on: Stage) -> None:
    """A machine that joins passes over his grant. Denies: his answers may stand in the way for as long as he rewrites them."""

    async def attack(on: Stage) -> None:
        net, told = on.net, list[str]()
        joiner = net.joiner("f")
        statements = on.elsewhere_authority.statements(now())
        grant = {
            "request": "0" * 64,
            "certificate": text(on.elsewhere.certificate.der),
            "authorities": text(statements[AUTHORITIES]),
            "settings": text(statements[CONFIG]),
            "revoked": 1,
        }
        net.put({joiner.grant_key: compact({"v": 1, "grant": compact(grant), "mac": text(bytes(32))}).encode()})
        granted = await net.enrol("f", told.append, joiner)
        assert [each.partition(": ")[2] for each in told] == ["enrolment_not_authentic"]
        assert granted.bundle.authorities[0].key == net.nodes[FOUNDER].enrolled.trust.bundle.authorities[0].key
        await net.start("f")
        await on.nothing_came_of_it()
        await net.stop("f")
        net.put(net.authority.revoke("f", now()))

    on.run(attack)


def test_8_he_uses_an_invitation_of_somebody_else(on: Stage) -> None:
    async def attack(on: Stage) -> None:
        net = on.net
        victim, thief = net.joiner("g"), net.joiner("thief")
        asked = json.loads(victim.request())
        # The request with his own key in it, and the request as it is under an invitation that was for another name.
        mine = json.loads(thief.request())
        await on.refused(
            "enrolment_not_authentic", victim.request_key, compact({**asked, "request": mine["request"]}).encode()
        )
        elsewhere = request_key(NETWORK, os.urandom(16))
        await on.refused("enrolment_wrong_place", elsewhere, victim.request())
        granted = await net.enrol("g", joiner=victim)
        assert granted.certificate.key == victim._identity.public
        # The invitation itself, which he got hold of too late.
        late = net.joiner("thief", victim._invitation)
        await on.refused("enrolment_used", late.request_key, late.request())
        # And the request once more, after it was answered: there is nothing in the answer that is not the victim's.
        net.delete(victim.grant_key)
        net.put({victim.request_key: victim.request()})
        # What the thief was told may stand there for a moment.
        await until(lambda: b"certificate" in net.held(victim.grant_key).get(victim.grant_key, b""))
        answer = json.loads(json.loads(net.held(victim.grant_key)[victim.grant_key])["grant"])
        assert answer["certificate"] == text(granted.certificate.der)
        net.put(net.authority.revoke("g", now()))
        await on.nothing_came_of_it()

    on.run(attack)


def test_9_he_swaps_what_two_nodes_say(on: Stage) -> None:
    async def attack(on: Stage) -> None:
        await on.nothing_came_of_it()
        b, c = json.loads(on.net.record("b")), json.loads(on.net.record("c"))
        await on.refused("record_bad_signature", B, compact({**b, "certificate": c["certificate"]}).encode())
        await on.refused("record_wrong_name", B, compact({**b, **c}).encode())
        await on.refused("record_wrong_name", C, compact(b).encode())
        await on.nothing_came_of_it()

    on.run(attack)


def test_10_he_makes_himself_the_authority(on: Stage) -> None:
    async def attack(on: Stage) -> None:
        ours = on.net.nodes[FOUNDER].enrolled.trust.bundle
        for certificates in ([on.usurper.certificate], [ours.authorities[-1], on.usurper.certificate]):
            bundle = make_bundle(NETWORK, ours.number + 1, certificates, [on.usurper])
            await on.refused("statement_foreign_authority", AUTHORITIES, bundle.value, by="c")
        # The same with the name of the real one over a signature of his.
        fields = json.loads(bundle.value)
        (signature,) = fields["signatures"]
        signature["authority"] = ours.authorities[-1].key.fingerprint.hex()
        await on.refused("statement_bad_signature", AUTHORITIES, compact(fields).encode(), by="c")
        assert on.net.nodes["c"].enrolled.trust.bundle == ours
        await on.nothing_came_of_it()
        await until(lambda: on.net.held(AUTHORITIES)[AUTHORITIES] == ours.value)

    on.run(attack)


def test_11_he_turns_security_off(on: Stage) -> None:
    async def attack(on: Stage) -> None:
        net = on.net
        plain = '{"number":99,"network":"10.99.0.0/16","backend":"plain","security":["none"]}'
        await on.refused("statement_malformed", CONFIG, plain.encode(), by="c")
        signed = make_statement(SETTINGS, NETWORK, plain, [on.usurper])
        await on.refused("statement_foreign_authority", CONFIG, signed, by="c")
        await on.refused("record_bad_signature", B, on.altered(security=["none"]))
        bare = NodeRecord(name="b", public_key=net.nodes["b"].public_key, security=("none",))
        await on.refused("record_unsigned", B, encode_record(bare))
        await on.nothing_came_of_it()

    on.run(attack)


def test_12_he_fills_the_store(on: Stage) -> None:
    """Denies: whoever joins meanwhile waits for the authority to have looked at everything under `enrol/`."""

    async def attack(on: Stage) -> None:
        net = on.net
        before = {name: net.nodes[name].drops()["record_not_json"] for name in net.nodes}
        for first in range(0, FLOOD_KEYS, FLOOD_AT_ONCE):
            await trio.to_thread.run_sync(pour, net, first)
        await until(
            lambda: all(net.nodes[name].drops()["record_not_json"] >= before[name] + FLOOD_KEYS for name in net.nodes),
            20,
        )
        for name in net.nodes:
            refused = net.registry_of(name)["refused"]
            assert 0 < len(refused) <= 100
        await on.nothing_came_of_it()
        net.delete(PREFIX + b"nodes/flood", prefix=True)
        await until(lambda: not any("flood" in str(net.registry_of(name)["refused"]) for name in net.nodes))

    on.run(attack)


def pour(net: EtcdNetwork, first: int) -> None:
    """Some of the keys, in one transaction."""
    puts = [
        {
            "request_put": {
                "key": text(f"{net.place}{PREFIX.decode()}nodes/flood{number}".encode()),
                "value": text(b"?" * 400),
            }
        }
        for number in range(first, first + FLOOD_AT_ONCE)
    ]
    net.server.ask("/v3/kv/txn", {"success": puts})


def test_13_he_deletes_everything(on: Stage) -> None:
    """Denies: nobody finds or joins anybody whom he does not know, while nothing stays there. Sessions go on."""

    async def attack(on: Stage) -> None:
        net = on.net
        for _ in range(3):
            net.delete(PREFIX, prefix=True)
            await trio.sleep(0.1)
        for name in net.nodes:
            await until(lambda: net.registry_of(name)["in_touch"] and bool(net.record(name)))  # noqa: B023
        await until(lambda: {CONFIG, AUTHORITIES, REVOKED} <= net.held().keys())
        await on.nothing_came_of_it()

    on.run(attack)


def test_14_he_has_his_friend_name_the_session_key_of_another(on: Stage) -> None:
    """Denies: a node that has seen neither record may take the friend for the owner of the key, and does not reach b then.
    Those that know b keep it; what is sealed for that key only b can read.
    """

    async def attack(on: Stage) -> None:
        net = on.net
        # In place of its own one, which is older than d's.
        net.put({C: net.signed_by("c", public_key=net.nodes["d"].public_key)})
        await net.stop("c")
        await until(lambda: net.registry_of("d")["refused"].get("c") == "record_has_our_key")
        await until(lambda: net.registry_of(FOUNDER)["refused"].get("c") == "peer_key_taken")
        assert net.knows(FOUNDER, "d")
        await net.start("c")
        await on.nothing_came_of_it()

    on.run(attack)


async def test_2_where_keys_are_pinned_he_gets_calls_that_he_cannot_answer(tmp_path: Path) -> None:
    """Denies: a node that restarts meanwhile calls the attacker's machine in vain, until the other has put its record back."""
    wire, place = SimulatedNetwork(), fresh_prefix()[:-1]
    registry = RegistryConfig(url=shared_server().url(place), trust="pinned")
    heard: list[tuple[str, bytes]] = []
    wire.taps.append(lambda _, destination, data: heard.append((destination[0], bytes(data))))
    lair = wire.bind(LAIR, PORT)
    a, b = (
        replace(world_config(own, peers=[pinned(other, endpoint=None)]), registry=registry)
        for own, other in ((1, 2), (2, 1))
    )
    a = replace(a, session=replace(a.session, timers=TimersConfig(rekey_timeout_s=0.2)))
    async with open_node(b, ports=RealHost(wire, outer(2), answer_pings=True)):
        stolen = encode_record(replace(node_record(2), endpoints=((LAIR, PORT),)))
        shared_server().put(place.encode() + node_key("holloway", node_name(2)), stolen)
        ports = RealHost(wire, outer(1))
        async with open_node(a, ports=ports) as node:
            assert node.roster.plan.peers[node_name(2)].endpoints[0].host == LAIR
            ports.tun.inject([echo(IPv4Address("10.99.0.1"), IPv4Address("10.99.0.2"), 1)])
            with trio.fail_after(20):
                (packet,) = await ports.tun.collect()
            assert packet[20] == 0
            assert node.roster.plan.peers[node_name(2)].endpoints[0].host == outer(2)
    assert not any(MARK in data for _, data in heard)
    assert {data[0] for destination, data in heard if destination == LAIR} == {MessageType.INITIATION}
    lair.close()
