"""What goes between an authority that is kept offline and its network, as files.

    request     by `holloway join`, of one machine        grant      the answer to it, by `holloway sign`
    requests    by `holloway authority collect`, of all    answers    to them, and what the authority says besides; by `holloway sign`,
                                                                     and by `--out` of the verbs that decide something

All are as hostile as what lies in a registry, and are proven in the same way (docs/protocol.md, sections 13 to 15). Not responsible for
deciding or believing.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from holloway.cli.failures import CommandFailedError
from holloway.protocols.membership import NAME, network_prefix

REQUEST_SCHEMA = "holloway.request/1"
GRANT_SCHEMA = "holloway.grant/1"
REQUESTS_SCHEMA = "holloway.requests/1"
ANSWERS_SCHEMA = "holloway.answers/1"
MAX_FILE_BYTES = 1 << 20
MAX_ENTRIES_BYTES = 64 << 20
"""Of requests and answers: a large network, and its records."""


@dataclass(frozen=True, slots=True)
class PaperRequest:
    """A request to be let in. `invitation`: 16 bytes. `value`: as it would lie in the registry."""

    network: str
    invitation: bytes
    value: bytes

    def text(self) -> str:
        """As it is written into a file."""
        fields = {"network": self.network, "invitation": self.invitation.hex(), "value": _encode(self.value)}
        return json.dumps({"schema": REQUEST_SCHEMA, **fields}) + "\n"


@dataclass(frozen=True, slots=True)
class PaperGrant:
    """The answer, and the newest revocation list (DER)."""

    answer: bytes
    revoked: bytes

    def text(self) -> str:
        """As it is printed."""
        return json.dumps({"schema": GRANT_SCHEMA, "answer": _encode(self.answer), "revoked": _encode(self.revoked)})


@dataclass(frozen=True, slots=True)
class PaperRequests:
    """Requests and records as they lie in the registry of a network, by registry key."""

    network: str
    entries: Mapping[bytes, bytes] = field(repr=False)

    def text(self) -> str:
        """As it is printed."""
        return _entries_text(REQUESTS_SCHEMA, self.network, self.entries)


@dataclass(frozen=True, slots=True)
class PaperAnswers:
    """What an authority has published, by registry key."""

    network: str
    entries: Mapping[bytes, bytes] = field(repr=False)

    def text(self) -> str:
        """As it is printed."""
        return _entries_text(ANSWERS_SCHEMA, self.network, self.entries)


def read_paper(path: Path) -> PaperRequest | PaperRequests:
    """What `holloway sign` answers. Raises `CommandFailedError` for a file that holds neither."""
    try:
        fields = _read(path, REQUEST_SCHEMA, REQUESTS_SCHEMA)
        if fields["schema"] == REQUESTS_SCHEMA:
            return PaperRequests(*_entries(fields))
        return PaperRequest(str(fields["network"]), bytes.fromhex(fields["invitation"]), _decode(fields["value"]))
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise _refused(path, "request", "holloway join TOKEN --request FILE") from error


def read_paper_requests(path: Path) -> PaperRequests:
    """Raises `CommandFailedError` for a file that holds no requests."""
    try:
        return PaperRequests(*_entries(_read(path, REQUESTS_SCHEMA)))
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise _refused(path, "requests", "holloway authority collect > FILE") from error


def read_paper_answers(path: Path) -> PaperAnswers:
    """Raises `CommandFailedError` for a file that holds no answers."""
    try:
        return PaperAnswers(*_entries(_read(path, ANSWERS_SCHEMA)))
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise _refused(path, "answers", "holloway sign REQUESTS > ANSWERS") from error


def check_paper(path: Path) -> None:
    """Raises `CommandFailedError` when the file cannot be written: better before something is decided."""
    _write(path, "", "a")


def write_paper(path: Path, text: str) -> None:
    """Raises `CommandFailedError` when it cannot be written."""
    _write(path, text, "w")


def _write(path: Path, text: str, mode: str) -> None:
    try:
        with path.open(mode, encoding="ascii") as file:
            file.write(text)
    except OSError as error:
        raise CommandFailedError(f"cannot write {path}", error.strerror or str(error), "name another file") from error


def read_paper_grant(path: Path) -> PaperGrant:
    """Raises `CommandFailedError` for a file that holds no grant."""
    try:
        fields = _read(path, GRANT_SCHEMA)
        return PaperGrant(_decode(fields["answer"]), _decode(fields["revoked"]))
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise _refused(path, "grant", "holloway sign REQUEST > GRANT") from error


def _read(path: Path, *schemas: str) -> dict[str, str]:
    is_large = any(schema in (REQUESTS_SCHEMA, ANSWERS_SCHEMA) for schema in schemas)
    limit = MAX_ENTRIES_BYTES if is_large else MAX_FILE_BYTES
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise CommandFailedError(f"cannot read {path}", error.strerror or str(error), "name the file") from error
    fields = json.loads(data) if len(data) <= limit else None
    if not isinstance(fields, dict) or fields.get("schema") not in schemas:
        raise ValueError(f"not {' or '.join(schemas)}")
    return fields


def _entries_text(schema: str, network: str, entries: Mapping[bytes, bytes]) -> str:
    at = len(network_prefix(network))
    found = {key[at:].decode("ascii"): _encode(value) for key, value in entries.items()}
    return json.dumps({"schema": schema, "network": network, "entries": found})


def _entries(fields: Mapping[str, object]) -> tuple[str, dict[bytes, bytes]]:
    network, found = fields["network"], fields["entries"]
    if not isinstance(network, str) or not NAME.match(network) or not isinstance(found, dict):
        raise ValueError("no network, or no entries")
    prefix = network_prefix(network)
    return network, {prefix + key.encode("ascii"): _decode(value) for key, value in found.items()}


def _refused(path: Path, what: str, how: str) -> CommandFailedError:
    return CommandFailedError(f"{path} holds no {what}", "it is damaged, or is another file", f"make one: {how}")


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _decode(text: object) -> bytes:
    if not isinstance(text, str):
        raise TypeError("not a text")
    return base64.b64decode(text, validate=True)
