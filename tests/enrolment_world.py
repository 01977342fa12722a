"""An authority at work, and machines that it invites: for the tests of both sides.

    world = World()
    granted = world.let_in("node-a", addresses=v4("10.99.0.5"))       # invitation, request, grant
    world.refusal(Joiner(world.invite(name="node-a"), identity("b")))  # why not

Responsible for the way from an invitation to an answer; not for what either side makes of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from typing import Any

from authority_world import DAY, NETWORK, NOW, Network, authority, entropy, identity, serial

from holloway.protocols.enrolment import (
    EnrolProblem,
    Refused,
)
from holloway.protocols.hostile_json import compact
from holloway.protocols.identity import Identity
from holloway.protocols.invitations import Invitation, Terms, invite
from holloway.protocols.issuer import Decision, Issuer
from holloway.protocols.issuing import Authority
from holloway.protocols.joiner import Granted
from holloway.protocols.joiner import Joiner as RealJoiner
from holloway.protocols.ledger import Ledger
from holloway.protocols.ledger_text import write_ledger
from holloway.protocols.network_settings import NetworkSettings, encode_settings
from holloway.protocols.statements import SETTINGS, make_statement

KEY = entropy("invitation key", 32)
SETTINGS_OF_NETWORK = NetworkSettings(
    network=IPv4Network("10.99.0.0/24"),
    network6=IPv6Network("fd99:0:0:1::/64"),
    static_range=IPv4Network("10.99.0.0/27"),
    floating_range=IPv4Network("10.99.0.32/27"),
)


class Joiner(RealJoiner):
    """A machine that wants to be let in, and draws the same nonce every time, unless it is told another."""

    def __init__(self, invitation: Invitation, key: Identity, nonce: bytes = bytes(16), **wish: Any) -> None:
        super().__init__(invitation, key, nonce, **wish)


class World:
    """An authority at work, and the invitations that it makes."""

    def __init__(self, owner: Authority | None = None, ledger: Ledger | None = None, **changes: Any) -> None:
        self.owner = owner or authority()
        self.network = Network(self.owner)
        text = encode_settings(SETTINGS_OF_NETWORK).decode()
        self.settings = make_statement(SETTINGS, NETWORK, text, [self.owner])
        parameters: dict[str, Any] = {
            "bundle": self.network.bundle,
            "settings": SETTINGS_OF_NETWORK,
            "signed_settings": self.settings,
        }
        self.issuer = Issuer(self.owner, KEY, ledger or Ledger(NETWORK), **parameters | changes)
        self._serials: Iterator[bytes] = (serial(number) for number in range(10_000))
        self._ids: Iterator[bytes] = (entropy(("id", number), 16) for number in range(10_000))

    @property
    def ledger(self) -> Ledger:
        return self.issuer.ledger

    def invite(self, key: bytes = KEY, **terms: Any) -> Invitation:
        made = Terms(**{"network": NETWORK, "id": next(self._ids), "expires": NOW + DAY} | terms)
        return invite(made, key, registry="etcd://x", authority=self.owner.identity.public.fingerprint)

    def enrol(self, joiner: Joiner, now: int = NOW, value: bytes | None = None) -> Decision:
        id_ = bytes.fromhex(joiner.request_key.rpartition(b"/")[2].decode())
        return self.issuer.enrol(id_, value or joiner.request(), now, next(self._serials))

    def join(self, joiner: Joiner, now: int = NOW) -> Granted | Refused | EnrolProblem:
        decision = self.enrol(joiner, now)
        assert decision.answer is not None, decision.reason
        return joiner.read(decision.answer, now)

    def let_in(self, name: str, key: Identity | None = None, now: int = NOW, **terms: Any) -> Granted:
        granted = self.join(Joiner(self.invite(name=name, **terms), key or identity(name)), now)
        assert isinstance(granted, Granted), granted
        return granted

    def refusal(self, joiner: Joiner, now: int = NOW) -> EnrolProblem:
        before = write_ledger(self.ledger)
        decision = self.enrol(joiner, now)
        assert decision.answer is not None
        assert joiner.read(decision.answer, now) == Refused(decision.reason or EnrolProblem.UNKNOWN)
        assert not decision.has_changed
        assert write_ledger(self.ledger) == before
        assert decision.reason is not None
        return decision.reason


def v4(*texts: str) -> tuple[IPv4Address, ...]:
    return tuple(IPv4Address(each) for each in texts)


class Greedy(Joiner):
    """A machine with an invitation that asks for something else."""

    def __init__(self, invitation: Invitation, key: Identity, **fields: Any) -> None:
        super().__init__(replace(invitation, terms=replace(invitation.terms, name=None)), key, name="greedy")
        self._invitation = invitation
        self._request = compact(json.loads(self._request) | fields)
