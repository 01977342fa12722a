"""`docs/protocol.md` says what the code does: lengths, constants, the diagram of states, and bytes that anybody can
check."""

from __future__ import annotations

import importlib
import re
from dataclasses import replace
from pathlib import Path

import pytest
from session_world import sealed

from holloway.actors.udp_binding import SPARSE_DSCP
from holloway.protocols import compression, path_mtu, reassembly, too_big
from holloway.protocols.arrivals import lone
from holloway.protocols.cookies import COOKIE_REPLY_BYTES, MacChecker, MacWriter
from holloway.protocols.demux import RESET_BYTES, Demux, index_secret
from holloway.protocols.events import DropReason
from holloway.protocols.indices import IndexTable
from holloway.protocols.journal import Journal
from holloway.protocols.keyring import framing
from holloway.protocols.keys import StaticKey
from holloway.protocols.noise import Initiator, OpenedInitiation, initiation_bytes, response_bytes
from holloway.protocols.offers import Security, Terms
from holloway.protocols.path_mtu import Probe, ProbeAck
from holloway.protocols.record_keys import REJECT_AFTER_BYTES, REKEY_AFTER_BYTES, SPARSE_WINDOW
from holloway.protocols.record_size import (
    MAX_MISSING,
    MEMORY,
    RECORD_S,
    REPORT_LIFETIME_S,
    REPORT_S,
    TOLERATED_LOSS,
    WORTH_REPORTING,
    Report,
)
from holloway.protocols.record_wire import (
    CLEAR_MARK,
    FIRST_COUNTER_BYTES,
    MAX_DATAGRAMS,
    PACKED_MARK,
    SPARSE_MARK,
    RecordKind,
    first_counter,
)
from holloway.protocols.staging import STAGED_BYTES, STAGED_PACKETS
from holloway.protocols.states import TRANSITIONS, State
from holloway.protocols.suites import AES_GCM, SUITES, WIREGUARD, MessageType, Suite
from holloway.protocols.timers import Timers
from holloway.protocols.transport import MIN_TRANSPORT_BYTES
from holloway.protocols.tunnel import OVERHEAD_BYTES, TOO_BIG_INTERVAL_S

DOCUMENT = (Path(__file__).resolve().parent.parent.parent / "docs" / "protocol.md").read_text(encoding="utf-8")
BLOCKS: list[tuple[str, str]] = re.findall(r"^```(\w*)\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)


def section(heading: str) -> str:
    """The text under a heading, up to the next one."""
    found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", DOCUMENT, re.MULTILINE | re.DOTALL)
    assert found is not None, heading
    return found[1]


def tables(text: str) -> list[list[str]]:
    """The rows of the tables in a text, without heads and rules."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return [row for row in rows if not set(row[0]) <= {"-"}]


def layout(heading: str) -> dict[str, int]:
    """The sums of the columns of a message's table, the open length left out; checked against the sentence above it."""
    text = section(heading)
    head, *rows = tables(text)
    sums = {
        name.strip("`"): sum(int(row[column]) for row in rows if row[column] != "n")
        for column, name in enumerate(head[:-1])
    }
    stated = {name: int(length) for name, length in re.findall(r"`([\w-]+)` (\d+) bytes", text.split("\n|")[0])}
    assert stated == sums, heading
    return sums


def test_lengths_of_messages() -> None:
    assert layout("Initiation") == {name: initiation_bytes(suite) for name, suite in SUITES.items()}
    assert layout("Response") == {name: response_bytes(suite) for name, suite in SUITES.items()}
    assert layout("Cookie reply") == dict.fromkeys(SUITES, COOKIE_REPLY_BYTES)
    assert layout("Reset") == {"aes-gcm": RESET_BYTES}
    assert layout("`aes-gcm`") == {"aes-gcm": MIN_TRANSPORT_BYTES}
    assert layout("`wireguard`") == {"wireguard": MIN_TRANSPORT_BYTES}


def test_kinds_of_records() -> None:
    found = tables(section("Kinds of records"))
    end = next(number for number, row in enumerate(found) if row[0] == "mark")
    rows, marks = found[1:end], found[end + 1 :]
    assert {int(number, 0): name.strip("`") for number, name, _ in marks} == {
        PACKED_MARK: "PACKED",
        CLEAR_MARK: "CLEAR",
        SPARSE_MARK: "SPARSE",
    }
    stated = {int(number): name.strip("`") for number, name, _ in rows}
    assert stated == {kind.value: kind.name for kind in RecordKind}


def test_the_layout_of_a_report() -> None:
    rows = tables(section("Reports"))[1:]
    assert [name.split("`")[1] for _, name in rows] == list(Report._fields)
    lengths = [int(length) for length, _ in rows]
    assert sum(lengths) == len(Report(0, 0, 0, 0).encode())
    at = 0
    for field, length in zip(Report._fields, lengths, strict=True):
        report = Report(0, 0, 0, 0)._replace(**{field: 0x0403_0201})
        assert report.encode()[at : at + length] == b"\1\2\3\4"
        at += length


def test_the_layout_of_a_probe() -> None:
    rows = tables(section("How long a datagram may be"))[1:]
    assert [length for length, _ in rows] == ["4", "2", "n"]
    assert [name.split("`")[1] for _, name in rows[:2]] == list(Probe._fields)
    assert Probe(0x0403_0201, 40).encode() == b"\1\2\3\4" + b"\x28\0" + bytes(2)
    assert ProbeAck(0x0403_0201, 40).encode() == Probe(0x0403_0201, 40).encode()[:6]


def test_what_is_said_of_terms_marks_and_compressed_records() -> None:
    terms, compressed, agreed = (
        re.sub(r"\s+", " ", section(heading))
        for heading in ("Terms", "Compressed records", "20. What a pair agrees on")
    )
    assert f": {Terms.CLEAR:d}, records in clear; {Terms.LZ4:d}, compressed records; nothing else" in terms
    assert f"at most {compression.MOST_EXPANSION} times" in compressed
    assert f"at most {compression.MAX_UNPACKED_BYTES} bytes" in compressed
    assert f"(`{DropReason.UNPACKING_REFUSED.value}`)" in compressed
    assert f"below {compression.MIN_PACKED_BYTES} bytes" in compressed
    assert " < ".join(each.word for each in Security) in agreed
    kinds = section("Kinds of records")
    assert f"`{DropReason.PLAINTEXT_REFUSED.value}`" in kinds
    assert f"`{DropReason.NOT_AGREED.value}`" in kinds


def power(number: int) -> str:
    assert number.bit_count() == 1
    return f"2^{number.bit_length() - 1}"


def test_numbers_in_the_prose_about_records() -> None:
    collecting, reports, sparse, sizes, lengths, narrow, rules = (
        re.sub(r"\s+", " ", section(heading))
        for heading in (
            "Collecting records",
            "Reports",
            "The sparse lane",
            "How many datagrams a record may have",
            "How long a datagram may be",
            "Narrow paths",
            "5. Rules",
        )
    )
    for text, phrases in (
        (
            re.sub(r"\s+", " ", section("`aes-gcm`")),
            [f"into 1 to {MAX_DATAGRAMS} datagrams", "or 2^25 or more above it"],
        ),
        (
            collecting,
            [
                f"at most {power(reassembly.HORIZON)} above",
                f"for {reassembly.LIFETIME_S:g} s from",
                f"at most {reassembly.MAX_RECORDS} records and {power(reassembly.MAX_BYTES)} bytes under one key",
            ],
        ),
        (
            reports,
            [
                f"missing for {REPORT_S * 1000:g} ms while",
                f"; {MAX_MISSING} missing counters",
                f"{WORTH_REPORTING} datagrams within {REPORT_S * 1000:g} ms",
            ],
        ),
        (
            sparse,
            [
                f"and {power(AES_GCM.rekey_after_messages)} records at the most under a key",
                f"carries the DSCP {SPARSE_DSCP} ",
            ],
        ),
        (
            sizes,
            [
                f"up to {MAX_DATAGRAMS}.",
                f"stay within {TOLERATED_LOSS:g}",
                f"weighs {MEMORY:g} of",
                f"at most {RECORD_S * 1000:g} ms",
                f"for {REPORT_LIFETIME_S:g} s the number is 1",
            ],
        ),
        (
            lengths,
            [
                f"within {path_mtu.PROBE_LIFETIME_S:g} s (`{DropReason.PROBE_UNKNOWN.value}`)",
                f"(`{DropReason.PROBE_MALFORMED.value}`)",
                f"The size is {path_mtu.BASE_DATAGRAM_BYTES}, what",
                f"the MTU of the tunnel and {OVERHEAD_BYTES}.",
                f"less than {path_mtu.GAP_BYTES} bytes lie between",
                f"when {path_mtu.MAX_PROBES} probes of it",
                f"round trips, {path_mtu.MIN_TIMEOUT_S:g} s at least and {path_mtu.MAX_TIMEOUT_S:g} s at most",
                f"confirmed every {path_mtu.CONFIRM_S:g} s; once a confirmation is overdue, every {path_mtu.SUSPECT_S:g} s",
                f"When {path_mtu.MAX_CONFIRMATIONS} in a row are lost the size is {path_mtu.BASE_DATAGRAM_BYTES} at once",
                f"anew after {path_mtu.RAISE_S:g} s",
            ],
        ),
        (
            narrow,
            [
                f"one in {TOO_BIG_INTERVAL_S:g} s",
                f"at least {too_big.MIN_MTU_IPV4} bytes in IPv4 and {too_big.MIN_MTU_IPV6} in IPv6",
            ],
        ),
        (
            rules,
            [
                f"after {power(AES_GCM.rekey_after_messages)} records or {power(REKEY_AFTER_BYTES)} bytes of plaintext",
                f"more than {power(AES_GCM.reject_after_messages)} records",
                f"after {power(REJECT_AFTER_BYTES)} bytes",
                f"greatest of its key; in the sparse lane, {SPARSE_WINDOW}.",
                f"the newest {STAGED_PACKETS} of them and {power(STAGED_BYTES)} bytes",
            ],
        ),
    ):
        for phrase in phrases:
            assert phrase in text, phrase


def test_message_types() -> None:
    rows = tables(section("1. Datagrams"))[1:]
    stated = {(int(word, 0), kind, suite.strip("`")) for word, kind, suite in rows if " " not in word}
    expected = set()
    for suite in SUITES.values():
        expected |= {(int(suite.initiation), "initiation", suite.name), (int(suite.response), "response", suite.name)}
        expected.add((int(suite.cookie_reply), "cookie reply", suite.name))
    expected |= {(4, "transport", "wireguard"), (0x24, "reset", "aes-gcm"), (0xD7, "DTLS", "")}
    assert stated == expected
    assert len(expected) == len(MessageType)


def test_suites() -> None:
    rows = tables(DOCUMENT.split("## 1.")[0])[1:]
    stated = {row[0].strip("`"): (row[1].strip("`"), row[2].strip("`")) for row in rows}
    assert stated == {name: (suite.noise_name.decode(), suite.prologue.decode()) for name, suite in SUITES.items()}


CONSTANTS = tables(section("9. Constants"))[1:]


@pytest.mark.parametrize(("name", "value"), [(row[0].strip("`"), row[1]) for row in CONSTANTS])
def test_constants(name: str, value: str) -> None:
    module, *path = name.split(".")
    thing = importlib.import_module(f"holloway.protocols.{module}")
    for step in path:
        thing = getattr(thing, step)
        if thing is Timers:
            thing = Timers()
    assert thing == sum(
        sign * float(base) ** float(power or 1) if "." in base else sign * int(base) ** int(power or 1)
        for sign, base, power in (
            (-1 if minus else 1, base, power) for minus, base, power in re.findall(r"(- )?([\d.]+)(?:\^(\d+))?", value)
        )
    )


def diagram() -> str:
    """The states and their arrows as Mermaid draws them."""
    lines = ["stateDiagram-v2", "    [*] --> IDLE"]
    for before, arrows in TRANSITIONS.items():
        lines += [f"    {before.name} --> {after.name}: {why}" for after, why in arrows.items()]
    lines.append("    CLOSED --> [*]")
    lines += [f"    note right of {state.name} : {state.value}" for state in State]
    return "\n".join(lines) + "\n"


def test_diagram_of_states() -> None:
    (drawn,) = [text for kind, text in BLOCKS if kind == "mermaid"]
    assert drawn == diagram()


def counted(first: int) -> bytes:
    return bytes(range(first, first + 32))


def vectors(suite: Suite) -> str:
    """Everything on the wire that follows from the keys named in the document."""
    a, b, ephemeral_a, ephemeral_b = (StaticKey(counted(first)) for first in (0x00, 0x20, 0x40, 0x60))
    preshared, timestamp = counted(0x80), bytes.fromhex("4000000068a1b2c30a000000")
    half = bytes.fromhex("0201")
    indices_a: IndexTable[None] = IndexTable(index_secret(counted(0x00)), lambda n: half)
    indices_b: IndexTable[None] = IndexTable(index_secret(counted(0x20)), lambda n: half)
    index_a, index_b = indices_a.allocate(None), indices_b.allocate(None)
    token_a, token_b = indices_a.token(index_a), indices_b.token(index_b)
    initiator = Initiator(
        suite,
        a,
        b.public,
        preshared,
        shared=a.exchange(b.public),
        ephemeral=ephemeral_a,
        local_index=index_a,
        timestamp=timestamp,
        token=token_a[: suite.token_bytes],
        terms=Terms.CLEAR | Terms.LZ4,
    )
    initiation = MacWriter(b.public).append(initiator.message, 0.0)
    opened = OpenedInitiation(suite, b, initiation)
    _, remote_token = opened.authenticate(b.exchange(a.public))
    body, _ = opened.respond(
        preshared,
        ephemeral=ephemeral_b,
        local_index=index_b,
        remote_token=remote_token,
        token=token_b[: suite.token_bytes],
        terms=Terms.LZ4,
    )
    response = MacWriter(a.public).append(body, 0.0)
    derived = initiator.read_response(response)
    keys = framing(suite)(suite, derived, Journal(), is_initiator=True, created_at=0.0, expires_at=180.0, epoch=1)
    packet = bytes.fromhex("4500001800000000 40fd0000 0a000001 0a000002 cafef00d")
    in_clear = framing(suite)(
        suite,
        replace(derived, terms=Terms.CLEAR),
        Journal(),
        is_initiator=True,
        created_at=0.0,
        expires_at=180.0,
        epoch=1,
    )
    lines = {
        "suite": suite.name,
        "public key of a": a.public.hex(),
        "public key of b": b.public.hex(),
        "timestamp": timestamp.hex(),
        "index of a": index_a.to_bytes(4, "little").hex(),
        "index of b": index_b.to_bytes(4, "little").hex(),
        "initiation": initiation.hex(),
        "response": response.hex(),
        "key a to b": derived.send.hex(),
        "key b to a": derived.receive.hex(),
        "packet": packet.hex(),
        "datagram 0": sealed(keys, [packet], 1420, 0.0)[0].hex(),
        "datagram 1": sealed(keys, [b""], 1420, 0.0)[0].hex(),
    }
    if suite is AES_GCM:
        first, second = sealed(keys, [packet], 20, 0.0)
        lines["datagram 2"], lines["datagram 3"] = first.hex(), second.hex()
        sparse = keys.seal_sparse(packet)
        assert sparse is not None
        lines["datagram 0 of the sparse lane"] = sparse.hex()
        lines["datagram 0 in clear"] = sealed(in_clear, [packet], 1420, 0.0)[0].hex()
        for direction, key in (("a to b", derived.send), ("b to a", derived.receive)):
            lines[f"first counter {direction}"] = first_counter(key).to_bytes(FIRST_COUNTER_BYTES, "little").hex()
    if suite.token_bytes:
        lines["token of a"], lines["token of b"] = token_a.hex(), token_b.hex()
        restarted: Demux[None] = Demux(b, secret=index_secret(counted(0x20)), entropy=bytes)
        ((reset, _),) = restarted.sort([lone(bytes.fromhex(lines["datagram 1"]), ("192.0.2.7", 1099))], 0.0).replies
        lines["reset by b"] = reset.hex()
    cookies = MacChecker(b.public, lambda n: b"\xc0" * n)
    reply = cookies.cookie_reply(MessageType(suite.cookie_reply), initiation, ("192.0.2.7", 1099), 0.0)
    lines["cookie reply by b (secret and nonce all c0, source 192.0.2.7 port 1099)"] = reply.hex()
    return "".join(f"{name}: {value}\n" for name, value in lines.items())


@pytest.mark.parametrize(("suite", "position"), [(AES_GCM, 0), (WIREGUARD, 1)], ids=["aes-gcm", "wireguard"])
def test_vectors(suite: Suite, position: int) -> None:
    printed = [text for kind, text in BLOCKS if kind == "text"]
    assert printed[position] == vectors(suite)


def test_numbers_in_the_prose_of_the_rules() -> None:
    rules = re.sub(r"\s+", " ", section("5. Rules"))
    durations = Timers()
    for phrase in (
        f"when its key is {durations.rekey_after_s:g} s old",
        f"when it is {durations.rekey_on_receive_s:g} s old",
        f"at {durations.rekey_as_responder_s:g} s of age",
        f"from {durations.reject_after_s:g} s of age on",
        f"repeated after {durations.rekey_timeout_s:g} s",
        f"given up after {durations.rekey_attempt_s:g} s",
        f"nothing sent for {durations.keepalive_timeout_s:g} s",
        f"received for {durations.silence_s:g} s",
    ):
        assert phrase in rules
