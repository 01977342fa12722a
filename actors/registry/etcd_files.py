"""The files that an etcd URL names: a password, a certificate with its key, and an authority.

Responsible for who may read the secret ones, for their size, and for finding out here what is wrong with a
certificate: gRPC would say no more than "failed", and ends the whole process for some mistakes. NOT responsible for
what is done with them.
"""

from __future__ import annotations

import os
import shlex
import ssl
import stat
from dataclasses import dataclass, field
from pathlib import Path

from holloway.actors.registry.etcd_url import EtcdAddress, Tls
from holloway.actors.secrets import RefusedFileError, private_contents
from holloway.protocols.errors import RegistryError

SECRET_BYTES_MAX = 65_536
AUTHORITIES_BYTES_MAX = 4 * 1_048_576  # a whole bundle of a system is 0.2 MiB


@dataclass(frozen=True, slots=True)
class Material:
    """What the files hold: PEM, and the password. `repr` shows none of it."""

    authorities: bytes | None = field(default=None, repr=False)
    certificates: bytes | None = field(default=None, repr=False)
    key: bytes | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)


def load_material(address: EtcdAddress) -> Material:
    """Read the files. A secret must be a regular file of this user or of root that nobody else may use (0600 or
    stricter). Raises RegistryError("denied"), each time with the command that mends it.
    """
    password = _password(address.password_file) if address.password_file is not None else None
    tls = address.tls
    if tls is None:
        return Material(password=password)
    context_of(tls)
    return Material(
        _contents(tls.ca, AUTHORITIES_BYTES_MAX) if tls.ca is not None else None,
        _contents(tls.certificate, SECRET_BYTES_MAX) if tls.certificate is not None else None,
        _secret(tls.key) if tls.key is not None else None,
        password,
    )


def context_of(tls: Tls) -> ssl.SSLContext:
    """Python's TLS with these files, which finds their mistakes. Verifies nobody. Raises as `load_material`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if tls.ca is not None:
        try:
            context.load_verify_locations(cadata=_contents(tls.ca, AUTHORITIES_BYTES_MAX).decode("ascii", "replace"))
        except (ssl.SSLError, ValueError) as error:
            raise _refused(
                tls.ca, "holds no certificate of an authority in PEM form", f"openssl x509 -in {_q(tls.ca)} -text"
            ) from error
    if tls.certificate is not None and tls.key is not None:
        _contents(tls.certificate, SECRET_BYTES_MAX)
        _secret(tls.key)
        try:
            # The empty password, so that an encrypted key is an error and not a question on the terminal.
            context.load_cert_chain(tls.certificate, tls.key, password="")
        except (ssl.SSLError, OSError, ValueError) as error:
            reason = getattr(error, "reason", None)
            if reason == "KEY_VALUES_MISMATCH":
                raise _refused(
                    tls.key,
                    f"is not the key of the certificate in {tls.certificate}",
                    "give the two that were made together",
                ) from error
            raise _refused(
                tls.certificate,
                f"and {tls.key} are no certificate and key in PEM form without a password ({reason or error})",
                f"openssl x509 -in {_q(tls.certificate)} -text; openssl pkey -in {_q(tls.key)} -check",
            ) from error
    return context


def _password(path: Path) -> str:
    # One line end only: blanks may belong to the password.
    data = _secret(path).removesuffix(b"\n").removesuffix(b"\r")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise _refused(path, "holds no text in UTF-8", "write etcd's password into it") from None
    if not text or "\n" in text or "\0" in text:
        raise _refused(path, "holds no password on one line", "write etcd's password into it, and nothing else")
    return text


def _secret(path: Path) -> bytes:
    try:
        return private_contents(path, limit=SECRET_BYTES_MAX)
    except RefusedFileError as refused:
        raise _refused(path, refused.what, refused.fix.format(path=_q(path))) from None
    except OSError as error:
        raise _unreadable(path, error) from error


def _contents(path: Path, limit: int) -> bytes:
    """The bytes of a file that is no secret."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # else a FIFO would hang the start
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise _refused(path, "is not a regular file", "name a file")
            data = file.read(limit + 1)
    except OSError as error:
        raise _unreadable(path, error) from error
    if len(data) > limit:
        raise _refused(path, f"is larger than {limit} bytes", "name a file that holds what is needed alone")
    return data


def _unreadable(path: Path, error: OSError) -> RegistryError:
    return _refused(path, f"cannot be read: {error.strerror}", f"ls -l {_q(path)}")


def _refused(path: Path, why: str, fix: str) -> RegistryError:
    return RegistryError("etcd cannot be opened", f"{path} {why}", fix, kind="denied")


def _q(path: Path) -> str:
    return shlex.quote(str(path))
