"""Whoever owns the registry of a simulated network, and means harm: deletes, replays, swaps, alters, forges.

He remembers everything that ever stood in the store, has another authority of his own, and knows an insider with a certificate.
He has no key of anybody else. Each time he does one thing, which his dice choose. Not responsible for when he acts, nor for
what comes of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, ip_interface

from holloway.protocols.broker_places import BrokerPlace
from holloway.protocols.envelopes import seal_text
from holloway.protocols.keys import StaticKey
from holloway.protocols.membership import NodeRecord, Prefix, encode_record, nodes_prefix
from holloway.protocols.signed_records import LABEL
from holloway.protocols.trust import revoked_key
from holloway.protocols.z85 import encode_z85
from holloway.simulations.faults import Fault
from holloway.simulations.identities import NETWORK4, NETWORK6, PORT
from holloway.simulations.office import INSIDER, Elsewhere, Member, Office
from holloway.simulations.streams import below, stream

VERSIONS = 64
"""What he remembers of each key; later ones are forgotten."""
RESTS_NS = 6 * 10**9
"""How long he leaves a name alone after he has put a forgery there: longer than nodes take to believe a new key."""
HUGE_BYTES = 60_000
GARBAGE_BYTES = 400
LATER_VERSION = 99
_BITS = {4: NETWORK4.prefixlen, 6: NETWORK6.prefixlen}
_PLACE = ("203.0.113.66", PORT)

Held = Mapping[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Attack:
    """What he does to the store: in one step, and in another at once after it."""

    what: str
    puts: dict[bytes, bytes] = field(default_factory=dict)
    deletes: tuple[bytes, ...] = ()
    then: dict[bytes, bytes] = field(default_factory=dict)


class StoreAttacker:
    """One fault `store_attacker`."""

    def __init__(
        self,
        fault: Fault,
        seed: int,
        office: Office,
        elsewhere: Elsewhere,
        nodes: Iterable[str],
        *,
        in_clear: bool = False,
    ) -> None:
        """`nodes`: whose records he attacks. `in_clear`: some of them offer plain text, so he changes offers, too."""
        self.fault = fault
        self._dice = stream(seed, fault.name, "store attacker")
        self._office, self._elsewhere = office, elsewhere
        self._names = tuple(nodes)
        self._prefix = nodes_prefix(office.network)
        self._statements = tuple(sorted(elsewhere.published))
        self._key = StaticKey(stream(seed, fault.name, "key").randbytes(32)).public
        self._curve_key = encode_z85(self._key)
        self._seen: dict[bytes, dict[bytes, None]] = {}
        self._made: dict[bytes, None] = {}
        self._rests: dict[str, int] = {}
        """Names under which a forgery is to stand undisturbed, and until when."""
        self._on_records: tuple[Callable[[str, Held], Attack], ...] = (
            self._delete,
            self._garbage,
            self._huge,
            self._replay,
            self._swap,
            self._strip,
            self._downgrade,
            self._later,
            self._alter,
            self._foreign,
            self._insider_as,
            self._insider_under,
            self._insider_with,
        )
        if in_clear:
            self._on_records += (self._strip_offers, self._add_offers) * 3
        self._forgeries = (self._alter, self._insider_as, self._alter, self._foreign)

    def remember(self, held: Held) -> None:
        """What stands in the store now, but for what he put there himself."""
        for key, value in held.items():
            if value in self._made:
                continue
            versions = self._seen.setdefault(key, {})
            if len(versions) < VERSIONS:
                versions.setdefault(value)

    def act(self, held: Held, outcasts: Iterable[str], now_ns: int) -> Attack:
        """The next thing he does, with the store as it is. He would like to bring back `outcasts`, who were revoked."""
        self.remember(held)
        outcasts = tuple(outcasts)
        if outcasts and self._draw(2):
            attack = self._bring_back(outcasts)
        elif self._draw(4) == 0:
            attack = self._on_statement(self._statements[self._draw(len(self._statements))])
        else:
            attack = self._on_record(held, now_ns)
        for value in attack.puts.values():
            if not any(value in versions for versions in self._seen.values()):
                self._made[value] = None
        return attack

    def _on_record(self, held: Held, now_ns: int) -> Attack:
        """A forgery is left to stand; he would rather speak for those who are away, because they do not object."""
        names = [name for name in self._names if self._rests.get(name, 0) <= now_ns]
        if not names:
            return Attack("waits")
        if self._draw(2):
            pool = [name for name in names if self._node(name) not in held] or names
            name = pool[self._draw(len(pool))]
            self._rests[name] = now_ns + RESTS_NS
            return self._forgeries[self._draw(len(self._forgeries))](name, held)
        return self._on_records[self._draw(len(self._on_records))](names[self._draw(len(names))], held)

    def _draw(self, limit: int) -> int:
        return below(self._dice.getrandbits(64), limit)

    def _node(self, name: str) -> bytes:
        return self._prefix + name.encode()

    # What the authority says.

    def _on_statement(self, key: bytes) -> Attack:
        where = key.rsplit(b"/", 1)[-1].decode("ascii")
        match self._draw(4):
            case 0:
                return Attack(f"deletes {where}", deletes=(key,))
            case 1:
                return Attack(f"garbage under {where}", {key: self._dice.randbytes(GARBAGE_BYTES)})
            case 2:
                return Attack(f"another authority's {where}", {key: self._elsewhere.published[key]})
            case _:
                return Attack(f"an old {where}", self._old(key))

    def _bring_back(self, outcasts: Iterable[str]) -> Attack:
        """The oldest revocation list, and everybody whom newer ones name."""
        records = {self._node(name): self._last(name) for name in outcasts}
        return Attack(
            "brings back whoever was revoked",
            self._old(revoked_key(self._office.network)),
            then={key: value for key, value in records.items() if value},
        )

    def _old(self, key: bytes) -> dict[bytes, bytes]:
        versions = self._seen.get(key)
        return {key: next(iter(versions))} if versions else {}

    # Records.

    def _delete(self, name: str, held: Held) -> Attack:
        return Attack(f"deletes the record of {name}", deletes=(self._node(name),))

    def _garbage(self, name: str, held: Held) -> Attack:
        return self._put(name, "garbage", self._dice.randbytes(GARBAGE_BYTES))

    def _huge(self, name: str, held: Held) -> Attack:
        return self._put(name, "a huge value", b"{" + b" " * HUGE_BYTES + b"}")

    def _replay(self, name: str, held: Held) -> Attack:
        versions = list(self._seen.get(self._node(name), ()))
        return self._put(name, "an old value", versions[self._draw(len(versions))] if versions else None)

    def _swap(self, name: str, held: Held) -> Attack:
        other = self._names[self._draw(len(self._names))]
        one, two = self._node(name), self._node(other)
        puts = {place: held[value] for place, value in ((one, two), (two, one)) if value in held}
        return Attack(f"swaps the records of {name} and {other}", puts)

    def _strip(self, name: str, held: Held) -> Attack:
        text = self._fields(name, held).get(LABEL)
        return self._put(name, "the record without its signature", text.encode() if isinstance(text, str) else None)

    def _downgrade(self, name: str, held: Held) -> Attack:
        return self._put_fields(name, "version 1", self._fields(name, held), {"v": 1})

    def _later(self, name: str, held: Held) -> Attack:
        return self._put_fields(name, "a later version", self._fields(name, held), {"v": LATER_VERSION})

    def _alter(self, name: str, held: Held) -> Attack:
        """The record with another key, under the old signature."""
        fields = self._read(self._last(name))
        serial = self._read(str(fields.get(LABEL, "")).encode()).get("serial")
        text = self._text(name, self._office.genuine[name].allowed, serial + 1 if isinstance(serial, int) else 1)
        return self._put_fields(name, "an altered record", fields, {LABEL: text})

    def _strip_offers(self, name: str, held: Held) -> Attack:
        return self._offers(name, "without its offers", ())

    def _add_offers(self, name: str, held: Held) -> Attack:
        return self._offers(name, "with more offers", ("session", "none"))

    def _offers(self, name: str, what: str, security: tuple[str, ...]) -> Attack:
        """The newest record of the node with other offers, once under its old signature and once without any."""
        fields = self._read(self._last(name))
        text = self._read(str(fields.get(LABEL, "")).encode())
        if not text:
            return Attack("finds nothing to alter")
        altered = json.dumps({**text, "security": list(security)}, separators=(",", ":"))
        if self._draw(2):
            return self._put(name, f"the bare record {what}", altered.encode())
        return self._put_fields(name, f"the record {what}", fields, {LABEL: altered})

    def _foreign(self, name: str, held: Held) -> Attack:
        allowed = self._office.genuine[name].allowed
        address = next(each.network_address for each in allowed if isinstance(each.network_address, IPv4Address))
        member = self._elsewhere.member(name, address)
        return self._put(name, "another authority's record", _sign(self._text(name, allowed, 1), member))

    def _insider_as(self, name: str, held: Held) -> Attack:
        """The insider says that he is somebody else, at his own addresses."""
        text = self._text(name, self._office.genuine[INSIDER].allowed, 1)
        return self._put(name, "the insider under that name", _sign(text, self._office.insider))

    def _insider_under(self, name: str, held: Held) -> Attack:
        """The insider's own record, under somebody else's name."""
        text = self._text(INSIDER, self._office.genuine[INSIDER].allowed, 1)
        return self._put(name, "the insider's own record", _sign(text, self._office.insider))

    def _insider_with(self, name: str, held: Held) -> Attack:
        """The insider, with somebody else's addresses."""
        text = self._text(INSIDER, self._office.genuine[name].allowed, 1)
        value = _sign(text, self._office.insider)
        return Attack(f"the insider with the addresses of {name}", {self._node(INSIDER): value})

    # Making them.

    def _put(self, name: str, what: str, value: bytes | None) -> Attack:
        return Attack(f"{what} under {name}", {} if value is None else {self._node(name): value})

    def _put_fields(self, name: str, what: str, fields: Mapping[str, object], change: Mapping[str, object]) -> Attack:
        value = json.dumps({**fields, **change}, separators=(",", ":")).encode() if fields else None
        return self._put(name, what, value)

    def _fields(self, name: str, held: Held) -> dict[str, object]:
        """The envelope that stands there, or nothing."""
        return self._read(held.get(self._node(name), b""))

    def _last(self, name: str) -> bytes:
        """The newest record that the node itself put there, or nothing."""
        return next(reversed(self._seen.get(self._node(name), {b"": None})))

    def _read(self, value: bytes) -> dict[str, object]:
        try:
            fields = json.loads(value)
        except ValueError:
            return {}
        return fields if isinstance(fields, dict) else {}

    def _text(self, name: str, allowed: Iterable[Prefix], serial: int) -> str:
        """A record of that name, with the attacker's own keys, place and broker."""
        hosts = sorted((each.network_address for each in allowed), key=lambda each: (each.version, int(each)))
        record = NodeRecord(
            name=name,
            public_key=self._key,
            endpoints=(_PLACE,),
            addresses=tuple(ip_interface(f"{each}/{_BITS[each.version]}") for each in hosts),
            serial=serial,
            curve_key=self._curve_key,
            broker=BrokerPlace(hosts[0], PORT, PORT + 1, self._curve_key),
        )
        return encode_record(record).decode("ascii")


def _sign(text: str, member: Member) -> bytes:
    return seal_text(LABEL, text, member.signer, member.certificate)
