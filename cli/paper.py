"""Requests and grants as files, for an authority that is kept offline: what `holloway join` and `holloway sign` exchange.

Both are as hostile as what lies in a registry, and are proven in the same way (docs/protocol.md, section 14). Not responsible for
deciding or believing.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path

from holloway.cli.failures import CommandFailedError

REQUEST_SCHEMA = "holloway.request/1"
GRANT_SCHEMA = "holloway.grant/1"
MAX_FILE_BYTES = 1 << 20


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


def read_paper_request(path: Path) -> PaperRequest:
    """Raises `CommandFailedError` for a file that holds no request."""
    try:
        fields = _read(path, REQUEST_SCHEMA)
        return PaperRequest(str(fields["network"]), bytes.fromhex(fields["invitation"]), _decode(fields["value"]))
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise _refused(path, "request", "holloway join TOKEN --request FILE") from error


def read_paper_grant(path: Path) -> PaperGrant:
    """Raises `CommandFailedError` for a file that holds no grant."""
    try:
        fields = _read(path, GRANT_SCHEMA)
        return PaperGrant(_decode(fields["answer"]), _decode(fields["revoked"]))
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise _refused(path, "grant", "holloway sign REQUEST > GRANT") from error


def _read(path: Path, schema: str) -> dict[str, str]:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise CommandFailedError(f"cannot read {path}", error.strerror or str(error), "name the file") from error
    fields = json.loads(data) if len(data) <= MAX_FILE_BYTES else None
    if not isinstance(fields, dict) or fields.get("schema") != schema:
        raise ValueError(f"not {schema}")
    return fields


def _refused(path: Path, what: str, how: str) -> CommandFailedError:
    return CommandFailedError(f"{path} holds no {what}", "it is damaged, or is another file", f"make one: {how}")


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _decode(text: object) -> bytes:
    if not isinstance(text, str):
        raise TypeError("not a text")
    return base64.b64decode(text, validate=True)
