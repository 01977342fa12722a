"""`holloway pubkey`: the public key of a private one. Not responsible for the key's form: see `holloway.protocols.keys`."""

from __future__ import annotations

import sys

import click

from holloway.cli.failures import CommandFailedError
from holloway.protocols.errors import LocalError

_MAX_INPUT_BYTES = 1024


@click.command()
def command() -> None:
    """Print the public key of the private key on stdin."""
    from holloway.protocols.keys import StaticKey, decode_key, encode_key

    data = sys.stdin.buffer.read(_MAX_INPUT_BYTES + 1)
    try:
        private = decode_key(data.strip())
    except LocalError as error:
        why = "stdin was empty" if not data.strip() else error.why
        raise CommandFailedError("no private key on stdin", why, "holloway pubkey < node.key") from None
    print(encode_key(StaticKey(private).public))
