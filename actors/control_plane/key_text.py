"""Key files as text: YAML of one shape, which is Pantry's, read and written without a YAML library.

A file is a mapping with `private_key`, `public_key`, `server_public_key` and `client_keys`; keys are in Z85, which needs quotes in YAML.
Each client key is a mapping of `name`, `role`, `public_key`, `created` and, for a key that counts no more, `revoked`. A client key that
is text alone, as Pantry wrote it, is a node: the least that a key can be. Of YAML no more is understood than that shape takes; anything
else is refused with its line, never guessed at.

Not responsible for files (`key_files`), nor for what a role may do.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields

from holloway.protocols.control_plane.fields import NAME
from holloway.protocols.control_plane.messages import Role
from holloway.protocols.errors import ConfigError, LocalError
from holloway.protocols.z85 import decode_z85

MAX_KEY_FILE_BYTES = 4 << 20
MAX_CLIENT_KEYS = 20_000
_ENTRY = re.compile(r"([a-z_]+):(?:\s+(\S.*))?")
_TIME = re.compile(r"[0-9A-Za-z:.+ -]{0,40}")
_COMMENT = re.compile(r"\s+#.*")
_PLAIN = re.compile(r"(?:[^\s\"'#&*!|>%@`{}\[\],?:-]|[?:-](?=\S)).*")
_FIX = "write it as holloway client create --export does; values in double quotes"


@dataclass(frozen=True, slots=True)
class ClientKey:
    """A key that the broker knows. `public_key` is Z85; `created` and `revoked` are times for people, empty when unknown or never."""

    name: str
    role: Role
    public_key: str
    created: str = ""
    revoked: str = ""


@dataclass(frozen=True, slots=True)
class KeyFile:
    """What one key file says; keys are Z85, empty where the file has none. `repr` shows no private key."""

    private_key: str = field(default="", repr=False)
    public_key: str = ""
    server_public_key: str = ""
    client_keys: tuple[ClientKey, ...] = ()

    def client(self, name: str) -> ClientKey | None:
        """The client of that name whose key counts."""
        return next((each for each in self.client_keys if each.name == name and not each.revoked), None)


def new_client(name: str, role: Role, public_key: str, created: str) -> ClientKey:
    """A client key. Raises LocalError for a name that is none, or a key that is none."""
    if not NAME.match(name):
        raise LocalError(
            "a client cannot be called so", "a name is 1 to 63 letters, digits, dots, hyphens and underscores"
        )
    decode_z85(public_key)
    return ClientKey(name, role, public_key, created)


def format_key_file(keys: KeyFile) -> str:
    """The text of a key file, which any YAML reader reads the same. Z85 has no quote and no backslash, so nothing is escaped."""
    lines = [
        f'{name}: "{value}"'
        for name in ("private_key", "public_key", "server_public_key")
        if (value := getattr(keys, name))
    ]
    if keys.client_keys:
        lines.append("client_keys:")
    for client in keys.client_keys:
        entries = [("name", client.name), ("role", client.role.value), ("public_key", client.public_key)]
        entries += [(name, value) for name in ("created", "revoked") if (value := getattr(client, name))]
        lines += [f'{"  - " if not at else "    "}{name}: "{value}"' for at, (name, value) in enumerate(entries)]
    return "".join(f"{line}\n" for line in lines)


def parse_key_file(text: str, where: str) -> KeyFile:
    """What the text says. Raises ConfigError that names `where` and the line, and never quotes a value."""
    try:
        return _read(text)
    except _ShapeError as error:
        raise ConfigError(f"{where} is no key file", f"line {error.line}: {error.why}", _FIX) from None


class _ShapeError(Exception):
    def __init__(self, line: int, why: str) -> None:
        super().__init__(line, why)
        self.line = line
        self.why = why


@dataclass(frozen=True, slots=True)
class _Line:
    number: int
    indent: int
    text: str


def _read(text: str) -> KeyFile:
    values: dict[str, str] = {}
    clients: tuple[ClientKey, ...] = ()
    lines = list(_lines(text))
    at = 0
    while at < len(lines):
        line = lines[at]
        at += 1
        if line.indent:
            raise _ShapeError(line.number, "it is indented, and belongs to nothing")
        name, value = _entry(line)
        if name in values or name not in _KEYS:
            raise _ShapeError(
                line.number, f"{name} comes twice" if name in values else f"{name} is none of a key file's"
            )
        values[name] = ""
        if name == "client_keys":
            end = at
            while end < len(lines) and (lines[end].indent or lines[end].text.startswith("-")):
                end += 1
            if value and (value != "[]" or end > at):
                raise _ShapeError(line.number, "client_keys is a list, each client on lines of its own")
            clients = _clients(lines[at:end])
            at = end
        elif value:
            values[name] = _key(line.number, _scalar(line.number, value))
    values.pop("client_keys", None)
    return KeyFile(**values, client_keys=clients)


_KEYS = {each.name for each in fields(KeyFile)}
_CLIENT_KEYS = {each.name for each in fields(ClientKey)}


def _lines(text: str) -> Iterator[_Line]:
    if len(text) > MAX_KEY_FILE_BYTES:
        raise _ShapeError(1, f"the file is larger than {MAX_KEY_FILE_BYTES >> 20} MiB")
    for number, line in enumerate(text.split("\n"), 1):
        bare = line.strip(" \r")
        if bare and not bare.startswith("#") and bare not in ("---", "..."):
            if "\t" in line:
                raise _ShapeError(number, "it has a tab, which YAML does not indent with")
            yield _Line(number, len(line) - len(line.lstrip(" ")), bare)


def _entry(line: _Line) -> tuple[str, str]:
    found = _ENTRY.fullmatch(line.text)
    if found is None:
        raise _ShapeError(line.number, "it is not of the form  name: value")
    value = found[2] or ""
    return found[1], "" if value.startswith("#") else value


def _scalar(number: int, text: str) -> str:
    """A plain, single or double quoted text on one line (YAML 1.2, chapter 7.3), without escapes."""
    for quote in "\"'":
        if text.startswith(quote):
            value, closing, rest = text[1:].partition(quote)
            if not closing or "\\" in value or (rest and not _COMMENT.fullmatch(rest)):
                raise _ShapeError(number, "its quotes do not close, or it has escapes")
            return value
    plain = _COMMENT.sub("", text).rstrip()
    if not _PLAIN.fullmatch(plain) or ": " in plain or plain.endswith(":"):
        raise _ShapeError(number, "its value needs double quotes")
    return plain


def _clients(lines: list[_Line]) -> tuple[ClientKey, ...]:
    items: list[tuple[int, list[_Line]]] = []
    outer = lines[0].indent if lines else 0
    for line in lines:
        if line.indent == outer and line.text.startswith("- "):
            inner = line.text[2:].lstrip()
            items.append((line.number, [_Line(line.number, line.indent + len(line.text) - len(inner), inner)]))
        elif items and line.indent == items[-1][1][0].indent:
            items[-1][1].append(line)
        else:
            raise _ShapeError(line.number, "it is indented otherwise than the client it belongs to")
    if len(items) > MAX_CLIENT_KEYS:
        raise _ShapeError(items[MAX_CLIENT_KEYS][0], f"there are more than {MAX_CLIENT_KEYS} client keys")
    clients = tuple(_client(number, item) for number, item in items)
    _require_distinct(clients, (number for number, _ in items))
    return clients


def _client(number: int, lines: list[_Line]) -> ClientKey:
    if _ENTRY.fullmatch(lines[0].text) is None and len(lines) == 1:
        key = _key(number, _scalar(number, lines[0].text))
        return ClientKey(f"node-{decode_z85(key)[:4].hex()}", Role.NODE, key)
    values: dict[str, str] = {}
    for line in lines:
        name, value = _entry(line)
        if name in values or name not in _CLIENT_KEYS:
            raise _ShapeError(line.number, f"{name} comes twice" if name in values else f"{name} is none of a client's")
        values[name] = _scalar(line.number, value) if value else ""
    missing = [name for name in ("name", "role", "public_key") if not values.get(name)]
    if missing:
        raise _ShapeError(number, f"a client has no {missing[0]}")
    if not NAME.match(values["name"]):
        raise _ShapeError(number, "a client's name is 1 to 63 letters, digits, dots, hyphens and underscores")
    if values["role"] not in {role.value for role in Role}:
        raise _ShapeError(number, f"a client's role is one of {', '.join(role.value for role in Role)}")
    if not all(_TIME.fullmatch(values.get(name, "")) for name in ("created", "revoked")):
        raise _ShapeError(number, "a client's created and revoked are times, such as 2026-01-31T12:00:00Z")
    return ClientKey(
        values["name"],
        Role(values["role"]),
        _key(number, values["public_key"]),
        values.get("created", ""),
        values.get("revoked", ""),
    )


def _key(number: int, text: str) -> str:
    try:
        decode_z85(text)
    except LocalError as error:
        raise _ShapeError(number, f"it holds no key: {error.why}") from None
    return text


def _require_distinct(clients: Iterable[ClientKey], numbers: Iterable[int]) -> None:
    names: set[str] = set()
    keys: set[str] = set()
    for client, number in zip(clients, numbers, strict=True):
        if client.public_key in keys:
            raise _ShapeError(number, "the key is listed twice")
        if not client.revoked and client.name in names:
            raise _ShapeError(number, "the name is listed twice")
        keys.add(client.public_key)
        if not client.revoked:
            names.add(client.name)
