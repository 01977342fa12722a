"""etcd's messages, made from what the installed etcd3 says of them, and what is said where it cannot be used."""

from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path

import pytest

from holloway.actors.registry.etcd_messages import RANGE, load_messages
from holloway.protocols.errors import RegistryError

pytest.importorskip("google.protobuf")


def test_messages_are_written_as_etcd_reads_them() -> None:
    """By https://protobuf.dev/programming-guides/encoding/ and the field numbers of etcd's rpc.proto."""
    messages = load_messages()
    request = messages.RangeRequest(key=b"k", range_end=b"l", limit=300, revision=7)
    assert request.SerializeToString() == b"\x0a\x01k\x12\x01l\x18\xac\x02\x20\x07"
    compare = messages.Compare(key=b"k", target=messages.Compare.MOD, result=messages.Compare.EQUAL, mod_revision=0)
    assert compare.SerializeToString() == b"\x10\x02\x1a\x01k\x30\x00"
    created = messages.WatchRequest(create_request=messages.WatchCreateRequest(key=b"k", start_revision=5))
    assert created.SerializeToString() == b"\x0a\x05\x0a\x01k\x18\x05"
    assert messages.WatchResponse.FromString(b"\x20\x01\x28\x09\x32\x01x").cancel_reason == "x"
    assert (RANGE.path, RANGE.request, RANGE.response) == ("/etcdserverpb.KV/Range", "RangeRequest", "RangeResponse")


def test_names_that_etcd_does_not_have_are_missing() -> None:
    assert not hasattr(load_messages(), "Ranges")


@pytest.mark.parametrize(
    ("source", "why"),
    [
        (None, "etcd3 is not installed"),
        ("", "describes no messages"),
        ("(", "cannot be read"),
        ("f(serialized_pb=3)", "no"),
    ],
)
def test_etcd3_that_is_missing_or_another_is_named(
    source: str | None, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = None
    if source is not None:
        (tmp_path / "etcdrpc").mkdir()
        (tmp_path / "etcdrpc" / "kv_pb2.py").write_text(source)
        spec = types.SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: spec)
    load_messages.cache_clear()
    try:
        with pytest.raises(RegistryError, match=why) as caught:
            load_messages()
    finally:
        load_messages.cache_clear()
    assert (caught.value.kind, "pip install" in caught.value.fix) == ("denied", True)


def test_program_without_grpc_says_what_to_install() -> None:
    code = (
        "import sys, trio; sys.modules['grpc'] = None\n"
        "from holloway.actors.registry import open_registry\n"
        "async def main():\n"
        "    try:\n"
        "        async with open_registry('etcd://127.0.0.1', wall_ns=int): pass\n"
        "    except Exception as error: print(error, '|', error.fix)\n"
        "trio.run(main)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "grpc is not installed | install it again: pip install --force-reinstall holloway" in done.stdout


def test_failure_writes_nothing_to_stderr() -> None:
    code = (
        "import trio\n"
        "from holloway.actors.registry import open_registry\n"
        "async def main():\n"
        "    async with open_registry('etcd://127.0.0.1:9?tls=yes', wall_ns=int) as registry:\n"
        "        try: await registry.snapshot(b'')\n"
        "        except Exception as error: print(error)\n"
        "trio.run(main)"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert ("connection refused" in done.stdout, done.stderr) == (True, "")
