"""What an admin asks the broker to do with its list of keys: create, list, revoke, rotate, role.

Responsible for the commands and their answers. Not responsible for who may call them (`access`), nor for files (`key_files`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from holloway.actors.control_plane.key_files import rotated_client, with_client, with_role, without_client
from holloway.actors.control_plane.key_text import ClientKey, KeyFile
from holloway.protocols.control_plane.effects import Principal
from holloway.protocols.control_plane.messages import Admin, Document, Role
from holloway.protocols.errors import LocalError
from holloway.protocols.z85 import encode_z85

_OF_THE_LIST = ("client-revoke", "client-rotate", "client-role")
BY_NETWORK = "by the network"
"""What stands in the place of the time when it was made."""
CLIENT_COMMANDS = ("client-create", "client-list", "client-revoke", "client-rotate", "client-role")


def client_change(request: Admin, now: str) -> Callable[[KeyFile], KeyFile]:
    """What the command makes of the key file; for `client-list` nothing. Raises LocalError for a command that is none."""
    name = _only_argument(request) if request.command != "client-list" else ""
    key = str(request.options.get("public-key", ""))
    match request.command:
        case "client-list":
            return lambda keys: keys
        case "client-create":
            role = _role(request)
            return lambda keys: with_client(keys, name, role, key, now)
        case "client-revoke":
            return lambda keys: _with_an_admin(without_client(keys, name, now))
        case "client-rotate":
            return lambda keys: rotated_client(keys, name, key, now)
        case "client-role":
            role = _role(request)
            return lambda keys: _with_an_admin(with_role(keys, name, role))
        case _:
            raise LocalError(f"the broker has no command {request.command}", "it is none of its own")


def refuse_enrolled(request: Admin, enrolled: Iterable[str]) -> None:
    """Raises LocalError for a change of a client whose key is not the broker's to change."""
    if request.command == "client-list" or (name := _only_argument(request)) not in enrolled:
        return
    if request.command == "client-create":
        raise LocalError(
            f"{name} is the node that the network lets in under that name",
            f"a client {name} of the list of keys would take its place: the node would get no more jobs",
            "give the client another name; or first, on the node's machine: holloway client enrol --forget",
        )
    if request.command in _OF_THE_LIST:
        raise LocalError(
            f"{name} is let in by the network, and not by the list of keys",
            "the signed record of its node names its key",
            f"where the network's authority is: holloway revoke {name}; or, on its machine: holloway client enrol --forget",
        )


def client_rows(
    request: Admin, keys: KeyFile, enrolled: Sequence[Principal] = (), kept_out: Mapping[str, str] | None = None
) -> list[Document]:
    """What is answered when the key file says `keys`: the client that the command was about, or all of them, `enrolled` by the network
    included. `kept_out`: by key, who is a node of the network and is not let in, because of what the list says.
    """
    if request.command == "client-list":
        others = (ClientKey(each.name, each.role, encode_z85(each.public_key), BY_NETWORK) for each in enrolled)
        return [_row(each) for each in (*keys.client_keys, *others)]
    name = _only_argument(request)
    about = [each for each in keys.client_keys if each.name == name]
    row = _row(about[-1]) | {"server_public_key": keys.public_key}
    node_key = next((key for key, node in (kept_out or {}).items() if node == name), None)
    return [row if node_key is None else row | {"node_kept_out": node_key}]


def _row(client: ClientKey) -> dict[str, object]:
    return {
        "name": client.name,
        "role": client.role.value,
        "public_key": client.public_key,
        "created": client.created,
        "revoked": client.revoked,
    }


def _only_argument(request: Admin) -> str:
    if len(request.arguments) != 1:
        raise LocalError(f"{request.command} takes one name", f"it was given {len(request.arguments)}")
    return request.arguments[0]


def _role(request: Admin) -> Role:
    role = request.options.get("role")
    if role not in {each.value for each in Role}:
        raise LocalError("there is no such role", f"a role is one of {', '.join(each.value for each in Role)}")
    return Role(role)


def _with_an_admin(keys: KeyFile) -> KeyFile:
    if not any(each.role is Role.ADMIN and not each.revoked for each in keys.client_keys):
        raise LocalError(
            "no admin would be left",
            "nobody could let anybody in any more, but on the broker's machine",
            "make another one first: holloway client create --role admin --name NAME",
        )
    return replace(keys)
