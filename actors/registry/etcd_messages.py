"""The messages of etcd's protocol, as the installed `etcd3` package describes them.

etcd3 0.12.0 carries code generated in 2020, which today's protobuf refuses to run. The description inside it, though,
is timeless: each of its `*_pb2.py` files holds a serialized `FileDescriptorProto`. This module reads those bytes out of
the files without running them, and lets protobuf make the message classes from them, in a pool of its own: other etcd
libraries in the same process are not disturbed.

Responsible for the message classes and the methods' names. NOT responsible for calling anything: etcd3's own client is
not used, and `etcd3` itself is never imported.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from holloway.protocols.errors import RegistryError

_FILES = ("kv_pb2", "auth_pb2", "rpc_pb2")  # in the order in which they import each other


@dataclass(frozen=True, slots=True)
class Method:
    """A method of etcd's services: its path, and what its request and its answer are called."""

    service: str
    name: str

    @property
    def path(self) -> str:
        return f"/etcdserverpb.{self.service}/{self.name}"

    @property
    def request(self) -> str:
        return f"{self.name}Request"

    @property
    def response(self) -> str:
        return f"{self.name}Response"


RANGE: Final = Method("KV", "Range")
TXN: Final = Method("KV", "Txn")
LEASE_GRANT: Final = Method("Lease", "LeaseGrant")
LEASE_REVOKE: Final = Method("Lease", "LeaseRevoke")
LEASE_KEEP_ALIVE: Final = Method("Lease", "LeaseKeepAlive")
WATCH: Final = Method("Watch", "Watch")
AUTHENTICATE: Final = Method("Auth", "Authenticate")


class Messages:
    """The message classes by name: `messages.RangeRequest(key=b"k")`. They are protobuf's own, so they are Any here."""

    def __init__(self, classes: dict[str, Any]) -> None:
        self._classes = classes

    def __getattr__(self, name: str) -> Any:
        try:
            return self._classes[name]
        except KeyError:
            raise AttributeError(name) from None


@functools.cache
def load_messages() -> Messages:
    """Make the classes, once in a process. Raises RegistryError where etcd3 or protobuf cannot be used."""
    try:
        from google.protobuf import descriptor_pool, message_factory
    except ImportError as error:
        raise unusable(f"protobuf cannot be imported ({error})") from error
    folder = _folder()
    pool = descriptor_pool.DescriptorPool()
    classes: dict[str, Any] = {}
    for name in _FILES:
        pool.AddSerializedFile(_description_in(folder / f"{name}.py"))
        file = pool.FindFileByName(f"{name.removesuffix('_pb2')}.proto")
        for message, descriptor in file.message_types_by_name.items():
            classes[message] = message_factory.GetMessageClass(descriptor)
    return Messages(classes)


def _folder() -> Path:
    found = importlib.util.find_spec("etcd3")  # looks, and imports nothing
    if found is None or not found.submodule_search_locations:
        raise unusable("the package etcd3 is not installed")
    return Path(found.submodule_search_locations[0]) / "etcdrpc"


def _description_in(path: Path) -> bytes:
    """The argument `serialized_pb` in the source, whether written as bytes or as text in Latin-1 (`_b('...')`)."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError) as error:
        raise unusable(f"{path} cannot be read: {error}") from error
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "serialized_pb":
            literal = node.value.args[0] if isinstance(node.value, ast.Call) else node.value
            match literal:
                case ast.Constant(value=bytes(data)):
                    return data
                case ast.Constant(value=str(characters)):
                    return characters.encode("latin-1")
                case _:
                    break
    raise unusable(f"{path} describes no messages")


def unusable(why: str) -> RegistryError:
    """Return the error of a program that lacks what etcd needs."""
    return RegistryError(
        "etcd cannot be used from here", why, "install it again: pip install --force-reinstall holloway", kind="denied"
    )
