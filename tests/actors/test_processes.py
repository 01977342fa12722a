"""Programs that really run: what they write comes whole, and when they are ended nothing of them is left."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from holloway.actors.control_plane import processes
from holloway.actors.control_plane.processes import Account, Ended, Program, Reins, run_program
from holloway.protocols.control_plane.messages import Stream

ENVIRON = {"PATH": os.environ["PATH"]}


class Written:
    """What a program wrote."""

    def __init__(self) -> None:
        self.chunks: list[tuple[Stream, bytes]] = []

    def __call__(self, stream: Stream, chunk: bytes) -> None:
        self.chunks.append((stream, chunk))

    def of(self, stream: Stream) -> bytes:
        return b"".join(chunk for each, chunk in self.chunks if each is stream)


async def run(
    *argv: str, reins: Reins | None = None, written: Callable[..., None] | None = None, **more: object
) -> Ended:
    program = Program(argv, **({"folder": Path("/"), "environ": ENVIRON} | more))  # type: ignore[arg-type]
    with trio.fail_after(30):
        return await run_program(program, reins or Reins(), written or Written())


def lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


async def until_gone(*pids: int) -> None:
    with trio.fail_after(5):
        while any(lives(pid) for pid in pids):  # noqa: ASYNC110 - no event tells of another's child
            await trio.sleep(0.01)


async def test_exit_code_and_both_streams_come_through() -> None:
    written = Written()
    ended = await run("sh", "-c", "echo out; echo err >&2; exit 3", written=written)
    assert (ended.code, ended.error) == (3, "")
    assert (written.of(Stream.STDOUT), written.of(Stream.STDERR)) == (b"out\n", b"err\n")


async def test_arguments_reach_the_program_as_they_are() -> None:
    written = Written()
    await run("printf", "%s|", "a b", "$HOME", "*", ";ls", "", "é\n", written=written)
    assert written.of(Stream.STDOUT) == "a b|$HOME|*|;ls||é\n|".encode()


async def test_only_the_environment_it_is_given_and_the_folder(tmp_path: Path) -> None:
    written = Written()
    await run("sh", "-c", "pwd; env", written=written, folder=tmp_path, environ=ENVIRON | {"A": "b"})
    lines = written.of(Stream.STDOUT).decode().splitlines()
    assert lines[0] == str(tmp_path)
    assert {line.partition("=")[0] for line in lines[1:]} <= {"PATH", "A", "PWD", "OLDPWD", "SHLVL", "_"}


@pytest.mark.parametrize(
    ("argv", "more", "error"),
    [
        (("no-such-program",), {}, "there is no program no-such-program"),
        (("/etc/passwd",), {}, "/etc/passwd may not be run here: Permission denied"),
        (("true",), {"folder": Path("/no/such")}, "there is no folder /no/such to run it in"),
        (("true", "a\0b"), {}, "true cannot be run: embedded null byte"),
        (("true", "x" * 3_000_000), {}, "the arguments of true are too long"),
    ],
)
async def test_what_cannot_run_says_why(argv: tuple[str, ...], more: dict[str, object], error: str) -> None:
    open_before = len(os.listdir("/proc/self/fd"))
    ended = await run(*argv, **more)
    assert (ended.code, ended.error) == (None, error)
    assert len(os.listdir("/proc/self/fd")) == open_before


async def test_lines_come_whole_and_as_soon_as_they_are_written() -> None:
    came: list[tuple[float, bytes]] = []
    began = time.monotonic()
    ended = await run(
        "sh",
        "-c",
        "printf 'one\\ntw'; printf 'o\\n'; sleep 0.5; printf 'prompt> '; sleep 0.5; printf 'three\\n'",
        written=lambda _, chunk: came.append((time.monotonic() - began, chunk)),
    )
    assert ended.code == 0
    assert b"".join(chunk for _, chunk in came) == b"one\ntwo\nprompt> three\n"
    assert came[-2][1] == b"prompt> "
    assert came[0][0] < 0.5
    assert all(chunk.endswith(b"\n") for _, chunk in came[:-2])


async def test_much_output_and_binary_output_come_byte_for_byte() -> None:
    written = Written()
    size = 3_000_000
    script = f"import sys; sys.stdout.buffer.write(bytes(range(256)) * {size // 256})"
    ended = await run(sys.executable, "-c", script, written=written)
    assert ended.code == 0
    assert written.of(Stream.STDOUT) == bytes(range(256)) * (size // 256)
    assert max(len(chunk) for _, chunk in written.chunks) <= processes.CHUNK_BYTES


async def test_what_it_is_given_to_read_arrives_and_nobody_minds_if_it_does_not_want_it() -> None:
    written = Written()
    feed = b"x" * 500_000
    await run("cat", written=written, feed=feed)
    assert written.of(Stream.STDOUT) == feed
    assert (await run("true", feed=feed)).code == 0
    assert (await run("cat")).code == 0  # without a feed it reads nothing, and not our terminal


async def test_told_to_stop_the_whole_group_ends_at_once(tmp_path: Path) -> None:
    reins, written = Reins(), Written()
    async with trio.open_nursery() as nursery:

        async def stop_soon() -> None:
            with trio.fail_after(10):
                while written.of(Stream.STDOUT).count(b"\n") < 2:  # noqa: ASYNC110
                    await trio.sleep(0.01)
            reins.stop()

        nursery.start_soon(stop_soon)
        ended = await run("sh", "-c", "sleep 600 & echo $!; echo $$; wait", reins=reins, written=written)
    child, parent = map(int, written.of(Stream.STDOUT).split())
    assert (ended.code, ended.error) == (None, "ended by SIGTERM")
    assert ended.duration_s < processes.TERM_GRACE_S
    await until_gone(child, parent)


async def test_a_group_that_does_not_heed_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "TERM_GRACE_S", 0.3)
    reins, written = Reins(), Written()
    async with trio.open_nursery() as nursery:

        async def stop_soon() -> None:
            with trio.fail_after(10):
                while not written.chunks:  # noqa: ASYNC110
                    await trio.sleep(0.01)
            reins.stop()

        nursery.start_soon(stop_soon)
        ended = await run("sh", "-c", "trap '' TERM; sleep 600 & echo $!; wait; wait", reins=reins, written=written)
    assert ended.error == "ended by SIGKILL"
    await until_gone(int(written.of(Stream.STDOUT)))


async def test_cancelled_it_leaves_no_process_and_no_descriptor() -> None:
    open_before = len(os.listdir("/proc/self/fd"))
    written = Written()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: run("sh", "-c", "echo $$; sleep 600", written=written))
        with trio.fail_after(10):
            while not written.chunks:  # noqa: ASYNC110
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    await until_gone(int(written.of(Stream.STDOUT)))
    assert len(os.listdir("/proc/self/fd")) == open_before


async def test_one_who_is_left_behind_does_not_keep_us(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "LINGER_S", 0.2)
    written = Written()
    ended = await run("sh", "-c", "sleep 5 & echo $!", written=written)
    assert ended.code == 0
    assert ended.duration_s < 4
    child = int(written.of(Stream.STDOUT))
    assert lives(child)  # it ended by itself, so what it left behind is its business
    os.kill(child, 9)


async def test_paused_it_waits_for_us_and_nothing_is_lost() -> None:
    reins, written = Reins(), Written()
    reins.pause()
    async with trio.open_nursery() as nursery:

        async def resume_later() -> None:
            await trio.sleep(0.3)
            assert written.chunks == []
            reins.resume()

        nursery.start_soon(resume_later)
        ended = await run("sh", "-c", "head -c 1000000 /dev/zero", reins=reins, written=written)
    assert ended.code == 0
    assert ended.duration_s >= 0.3
    assert len(written.of(Stream.STDOUT)) == 1_000_000


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run a program as somebody else")
async def test_as_another_user_without_our_groups() -> None:
    written = Written()
    await run("id", written=written, account=Account("nobody", 65534, 65534, (65534,), "/"))
    assert b"uid=65534" in written.of(Stream.STDOUT)
    assert b"(root)" not in written.of(Stream.STDOUT)
