"""`holloway keygen`: a new private key, on stdout or into a file that only its owner may read.

Not responsible for the key's form: see `holloway.protocols.keys`.
"""

from __future__ import annotations

import os
import secrets
import shlex
import stat
import sys

import click

from holloway.cli.failures import CommandFailedError


@click.command()
@click.option("-o", "--output", metavar="FILE", help="Write the key into a new file, mode 0600; print its public key.")
def command(output: str | None) -> None:
    """Make a private key.

    It is printed in WireGuard's base64. With --output it goes to a file instead, never over one that exists, and the
    public key is printed.
    """
    from holloway.protocols.keys import KEY_BYTES, StaticKey, clamp, encode_key

    private = clamp(secrets.token_bytes(KEY_BYTES))
    if output is None:
        _warn_about_stdout()
        print(encode_key(private))
    else:
        _write(output, encode_key(private))
        print(encode_key(StaticKey(private).public))


def _write(output: str, text: str) -> None:
    try:
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        what, why = f"{output} exists already", "a key is never overwritten: whoever knows the old one would be cut off"
        raise CommandFailedError(what, why, "name another file, or move that one away first") from None
    with open(descriptor, "w", encoding="ascii") as file:
        file.write(f"{text}\n")
        file.flush()
        os.fsync(file.fileno())


def _warn_about_stdout() -> None:
    """A key on a screen stays in its scroll-back, and one in a file with a wide mode is read by others."""
    if sys.stdout.isatty():
        print("warning: the key is shown on the screen", file=sys.stderr)
        print("  try: (umask 077; holloway keygen > node.key)", file=sys.stderr)
        return
    try:
        status = os.fstat(sys.stdout.fileno())
    except OSError:  # stdout is no file of the system, as under a test runner
        return
    if stat.S_ISREG(status.st_mode) and status.st_mode & 0o077:
        print("warning: the key goes into a file that others may use", file=sys.stderr)
        try:
            name = shlex.quote(os.readlink("/proc/self/fd/1"))
        except OSError:
            name = "FILE"
        print(f"  try: chmod 600 {name}", file=sys.stderr)
