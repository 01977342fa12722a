"""The messages that carry files, on a connection of their own: whoever receives a file pulls it, piece by piece.

    get   client ─ Want ─► broker ─ Offer ─► client ─ Fetch* ─► broker ─ Chunk* ─► client ─ Finish ─► broker
    put   client ─ Offer ─► broker ─ Fetch* ─► client ─ Chunk* ─► broker ─ Finish ─► client

Whoever is asked again while he reads a large file says that he does (`Reading`). They are frames as all others (`wire`). `transfer` is a random token that the client has drawn; sizes are bytes. Not responsible
for what a name may be (`file_names`), nor for the order of messages (`file_receiver`, `file_sender`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

CHUNK_BYTES = 250_000
WINDOW = 10
"""Chunks that are asked for and have not come."""
MAX_FILE_BYTES = 1 << 43
MAX_NAME_CHARS = 1024
TRY_LATER = "too many transfers are under way"
"""Why a transfer is refused that may be tried again soon."""
NO_SUCH_FILE = "there is no such file"
BEHIND_A_LINK = "there is a symbolic link on the way, and none is followed"


@dataclass(frozen=True, slots=True)
class Want:
    """The client wants the file of that name; of a name with a slash at its end, the list of the folder's files (`file_trees`)."""

    transfer: str
    name: str


@dataclass(frozen=True, slots=True)
class Offer:
    """There is a file to be pulled. `sha256` is hexadecimal, `mode` the permission bits."""

    transfer: str
    name: str
    size: int
    sha256: str
    mode: int


@dataclass(frozen=True, slots=True)
class Fetch:
    """The receiver wants these bytes: at most a chunk, and at least one byte."""

    transfer: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """They are here."""

    transfer: str
    offset: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Reading:
    """Whoever says this is still reading or writing what is there of the file: go on waiting. It answers what is asked again."""

    transfer: str


@dataclass(frozen=True, slots=True)
class Finish:
    """The receiver has the file, safe and with the right SHA-256."""

    transfer: str


@dataclass(frozen=True, slots=True)
class Abort:
    """The transfer is over without success."""

    transfer: str
    why: str
    fix: str = ""


FileMessage: TypeAlias = Want | Offer | Fetch | Chunk | Reading | Finish | Abort
