"""Which registry a configuration means: from a URL to an open handle.

Responsible for: the URL, and importing only the back end it names. NOT responsible for: the back ends.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import unquote, urlsplit

import trio

from holloway.actors.registry.memory import MemoryRegistry
from holloway.actors.registry.port import RegistryPort
from holloway.protocols.errors import ConfigError

if TYPE_CHECKING:
    from holloway.actors.registry.etcd_url import EtcdAddress


class HandleSource(Protocol):
    """A store inside this program: `MemoryRegistry`, or something that stands before one."""

    def handle(self) -> RegistryPort:
        """A new handle, which its user closes."""


def open_registry(
    url: str, *, wall_ns: Callable[[], int], memory: HandleSource | None = None
) -> AbstractAsyncContextManager[RegistryPort]:
    """Return a context that opens the registry at `url` and closes it.

    `sqlite:///abs/path` is a file shared by the nodes of one machine (a `?`, `#` or `%` in the path is
    percent-encoded); `etcd://host:port/prefix` is a cluster (see `etcd_url`); `memory:` is the store `memory`, or
    without one a new store of this handle's own. `wall_ns` gives nanoseconds since 1970, and must be the same clock in
    every process.

    Raises ConfigError at once for a URL that means nothing; RegistryError on entering, as the back end says.
    """
    scheme = url.partition(":")[0].lower()
    if url == "memory:":
        return _memory(memory if memory is not None else MemoryRegistry())
    if scheme == "memory":
        raise ConfigError(
            f"The registry URL {url!r} cannot be used", "a store in memory has no path", "write it as memory:"
        )
    if scheme == "sqlite":
        return _sqlite(_path_of(url), wall_ns)
    if scheme == "etcd" and ":" in url:
        return _etcd(url)
    raise ConfigError(
        f"The registry URL {url!r} cannot be used",
        f"there is no registry of the kind {scheme!r}" if ":" in url else "it names no kind of registry",
        "use etcd://host:2379/prefix, sqlite:///absolute/path on one machine, or memory: in one program",
    )


@asynccontextmanager
async def _memory(store: HandleSource) -> AsyncIterator[RegistryPort]:
    handle = store.handle()
    try:
        yield handle
    finally:
        with trio.CancelScope(shield=True):
            await handle.close()


def _sqlite(path: Path, wall_ns: Callable[[], int]) -> AbstractAsyncContextManager[RegistryPort]:
    # Here and not above: a node with another registry does not load SQLite.
    from holloway.actors.registry.sqlite import open_sqlite

    return open_sqlite(path, wall_ns=wall_ns)


def _etcd(url: str) -> AbstractAsyncContextManager[RegistryPort]:
    from holloway.actors.registry.etcd_url import parse_etcd_url

    return _opened(parse_etcd_url(url))


@asynccontextmanager
async def _opened(address: EtcdAddress) -> AsyncIterator[RegistryPort]:
    # Not before it is entered: gRPC is heavy, and a URL may be read only to be checked.
    try:
        from holloway.actors.registry.etcd import open_etcd
    except ImportError as error:
        from holloway.actors.registry.etcd_messages import unusable

        raise unusable(f"{error.name} is not installed") from error
    async with open_etcd(address) as registry:
        yield registry


def _path_of(url: str) -> Path:
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise _bad_path(url, str(error)) from error
    path = unquote(parts.path)
    if parts.query or parts.fragment:
        raise _bad_path(url, "it has a query or a fragment; write ? as %3F and # as %23 if they belong to the path")
    if parts.netloc or not path.startswith("/"):
        raise _bad_path(url, "the path is not absolute")
    if path.endswith("/") or "\0" in path:
        raise _bad_path(url, "the path names no file")
    return Path("/" + path.lstrip("/"))


def _bad_path(url: str, why: str) -> ConfigError:
    return ConfigError(
        f"The registry URL {url!r} cannot be used", why, "write it as sqlite:///absolute/path/registry.db"
    )
