"""What an etcd URL says: where the servers are, how to be safe with them, and who we are.

    etcd://host:port,host:port/prefix?ca=FILE&cert=FILE&key=FILE&user=NAME&password_file=FILE

Responsible for reading the URL, and for refusing whatever cannot be meant. NOT responsible for the files it names
(`etcd_files`), nor for finding the hosts.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from urllib.parse import unquote, unquote_to_bytes

from holloway.actors.registry.limits import KEY_BYTES_MAX
from holloway.protocols.errors import ConfigError

DEFAULT_PORT = 2379
ENDPOINTS_MAX = 16
HOST_NAME_MAX = 253  # RFC 1035, section 2.3.4, without the root's dot
USER_NAME_MAX = 256
EXAMPLE = "etcd://HOST:2379,HOST:2379/PREFIX?ca=FILE&cert=FILE&key=FILE"

_SETTINGS = ("ca", "cert", "key", "password_file", "server_name", "skip_verify", "tls", "user")
_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")
_DIGITS = re.compile(r"[0-9]{1,5}")


@dataclass(frozen=True, slots=True)
class Tls:
    """How to be sure of the server. `ca` None: the system's authorities. `server_name` None: the host's own name."""

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    server_name: str | None = None
    is_unverified: bool = False


@dataclass(frozen=True, slots=True)
class EtcdAddress:
    """Everything that the URL says. An endpoint is a host (a name, or an IP address without brackets) and a port."""

    endpoints: tuple[tuple[str, int], ...]
    prefix: bytes = b""
    tls: Tls | None = None
    user: str | None = None
    password_file: Path | None = None

    def __str__(self) -> str:
        return "etcd at " + ", ".join(
            f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.endpoints
        )


def parse_etcd_url(url: str) -> EtcdAddress:
    """Read a URL. `prefix` stands before every key, exactly as it is written (percent-encoding undone); a lone `/` is
    none. TLS is on with `tls=yes`, `ca`, `cert` or `skip_verify=yes`. Raises ConfigError for what cannot be meant.
    """
    return _Reading(url).address()


class _Reading:
    """One URL being read."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._shown = repr(url)

    def address(self) -> EtcdAddress:
        rest = self._url.partition(":")[2]
        if "@" in rest.partition("?")[0]:
            self._shown = "with @ in it"  # what stands before it may be a password
            self._refuse(
                "a user is not named before the host",
                "write ?user=NAME&password_file=FILE behind it, and %40 for @ in a prefix",
            )
        if not rest.startswith("//"):
            self._refuse("it names no host")
        if "#" in rest:
            self._refuse("it has a fragment", "write # as %23 if it belongs to a path")
        place, _, query = rest.removeprefix("//").partition("?")
        hosts, slash, path = place.partition("/")
        endpoints = self._endpoints(hosts)
        prefix = unquote_to_bytes(slash + path)
        if len(prefix) > KEY_BYTES_MAX:
            self._refuse(f"its prefix is longer than {KEY_BYTES_MAX} bytes", "use a shorter one")
        settings = self._settings(query)
        user, password_file = settings.get("user"), self._file(settings, "password_file")
        if (user is None) != (password_file is None):
            self._refuse(
                "user and password_file belong together, and one of them is missing",
                "give both, or neither: a certificate may name the user, too",
            )
        if user is not None and (len(user) > USER_NAME_MAX or not user.isprintable()):
            self._refuse("its user is no name that etcd knows", "etcdctl user list")
        tls = self._tls(settings, {host for host, _ in endpoints})
        return EtcdAddress(endpoints, b"" if prefix == b"/" else prefix, tls, user, password_file)

    def _endpoints(self, hosts: str) -> tuple[tuple[str, int], ...]:
        found = [self._endpoint(text) for text in hosts.split(",")]
        if len(found) > ENDPOINTS_MAX:
            self._refuse(f"it names {len(found)} servers, and at most {ENDPOINTS_MAX} fit", "name fewer")
        for endpoint in found:
            if found.count(endpoint) > 1:
                self._refuse(f"it names {endpoint[0]} port {endpoint[1]} twice", "name each server once")
        return tuple(found)

    def _endpoint(self, text: str) -> tuple[str, int]:
        if text.startswith("["):
            host, bracket, tail = text[1:].partition("]")
            if not bracket or not _is_address(host, 6):
                self._refuse(f"{text!r} is no IPv6 address in brackets", "write it as [2001:db8::1]:2379")
        else:
            host, colon, tail = text.partition(":")
            tail = colon + tail
            if not host:
                self._refuse("a host is missing")
            if ":" in tail[1:]:
                self._refuse(f"{text!r} is neither host:port nor an address in brackets", "write [2001:db8::1]:2379")
            if not _is_address(host, 4) and not _is_name(host):
                self._refuse(f"{host!r} is no host name and no address", f"write it as {EXAMPLE}")
        if not tail:
            return host, DEFAULT_PORT
        port = int(tail[1:]) if tail[0] == ":" and _DIGITS.fullmatch(tail[1:]) else 0
        if not 0 < port < 65536:
            self._refuse(f"{text!r} has no port from 1 to 65535", f"etcd listens for clients on {DEFAULT_PORT}")
        return host, port

    def _settings(self, query: str) -> dict[str, str]:
        settings: dict[str, str] = {}
        for part in query.split("&") if query else ():
            name, equals, value = part.partition("=")
            if name not in _SETTINGS:
                import difflib  # a mistake was made already: its import is paid only then

                near = difflib.get_close_matches(name.lower(), _SETTINGS, n=1)
                fix = f"did you mean {near[0]}?" if near else f"it may have: {', '.join(_SETTINGS)}"
                self._refuse(f"there is no setting {name!r}", fix)
            if name in settings:
                self._refuse(f"it has {name} twice", "give it once")
            if not equals or not value:
                self._refuse(f"{name} has no value", f"write {name}=VALUE, or leave it out")
            settings[name] = unquote(value)
        return settings

    def _tls(self, settings: dict[str, str], hosts: set[str]) -> Tls | None:
        ca, certificate, key = (self._file(settings, name) for name in ("ca", "cert", "key"))
        if (certificate is None) != (key is None):
            self._refuse("cert and key belong together, and one of them is missing", "give both, or neither")
        name = settings.get("server_name")
        is_unverified = self._flag(settings, "skip_verify") is True
        is_wanted = ca is not None or certificate is not None or is_unverified
        asked = self._flag(settings, "tls")
        if asked is False and is_wanted:
            self._refuse("tls=no contradicts ca, cert and skip_verify", "leave tls=no out, or the others")
        if not is_wanted and not asked:
            if name is not None:
                self._refuse("server_name means nothing without TLS", "add tls=yes or ca=FILE")
            return None
        if is_unverified and (ca is not None or name is not None):
            self._refuse(
                "skip_verify contradicts ca and server_name", "leave skip_verify out: the server can be verified"
            )
        if name is not None and not (_is_name(name) or _is_address(name, 4) or _is_address(name, 6)):
            self._refuse(f"server_name {name!r} is no name and no address", "use one that is in the certificates")
        if len(hosts) > 1 and name is None and not is_unverified:
            self._refuse(
                "several hosts are told apart by no single name, and the certificates of all are checked against one",
                "add server_name=NAME, a name or address that the certificate of each has (often localhost)",
            )
        return Tls(ca, certificate, key, name, is_unverified)

    def _file(self, settings: dict[str, str], name: str) -> Path | None:
        if name not in settings:
            return None
        path = Path(settings[name])
        if not path.is_absolute() or "\0" in settings[name]:
            self._refuse(f"{name} is no absolute path", f"write {name}=/etc/holloway/FILE")
        return path

    def _flag(self, settings: dict[str, str], name: str) -> bool | None:
        value = settings.get(name)
        if value not in (None, "yes", "no"):
            self._refuse(f"{name} is {value!r}", f"write {name}=yes or {name}=no")
        return None if value is None else value == "yes"

    def _refuse(self, why: str, fix: str = f"write it as {EXAMPLE}") -> NoReturn:
        raise ConfigError(f"The registry URL {self._shown} cannot be used", why, fix)


def _is_address(text: str, version: int) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return address.version == version and getattr(address, "scope_id", None) is None


def _is_name(text: str) -> bool:
    labels = text.removesuffix(".").split(".")
    looks_like_address = labels[-1].isdecimal()
    return len(text) <= HOST_NAME_MAX and not looks_like_address and all(map(_LABEL.fullmatch, labels))
