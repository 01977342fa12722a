"""What the tests of the command line share: running a verb in this process, and a daemon that says what a test tells it."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from control_thread import Plane
from fake_daemon import FakeDaemon

from holloway.actors.config import sockets
from holloway.cli.main import run


@dataclass(frozen=True)
class Outcome:
    """What a verb did."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> list[str]:
        """The three lines without their labels."""
        lines = self.err.splitlines()[-3:]
        assert [line[:7] for line in lines] == ["error: ", "why:   ", "fix:   "], self.err
        return [line[7:] for line in lines]


@pytest.fixture(autouse=True)
def _own_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable and no daemon of the machine reaches a test."""
    for name in [*os.environ]:
        if name.startswith("HOLLOWAY_") or name in ("NO_COLOR", "FORCE_COLOR"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "user"))
    monkeypatch.setattr(sockets, "SYSTEM_FOLDER", tmp_path / "system")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def holloway(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Runs `holloway WORDS...` in this process."""

    def call(*words: str) -> Outcome:
        capsys.readouterr()
        code = run(words)
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return Outcome(code, captured.out, captured.err)

    return call


@pytest.fixture
def let_in(holloway: Callable[..., Outcome], tmp_path: Path) -> Callable[[tuple[str, str], str], None]:
    """Lets node NAME, whose folder is `tmp_path / NAME`, in by file; `owner` are the words that name the authority's folder."""

    def by_file(owner: tuple[str, str], name: str) -> None:
        token, where = holloway("invite", *owner).out.strip(), ("--state", str(tmp_path / name))
        request, grant = str(tmp_path / "request"), tmp_path / "grant"
        assert holloway("join", token, "--name", name, "--request", request, *where).code == 0
        grant.write_text(holloway("sign", request, *owner).out)
        assert holloway("join", token, "--name", name, "--grant", str(grant), *where).code == 0

    return by_file


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Callable[..., FakeDaemon]]:
    """Starts fake daemons; they end with the test."""
    running: list[tuple[FakeDaemon, socket.socket, threading.Thread]] = []

    def start(answer: bytes | None, *, pieces: Sequence[bytes] = (), path: Path | None = None) -> FakeDaemon:
        fake = FakeDaemon(path or tmp_path / "d.sock", answer, pieces)
        fake.path.parent.mkdir(parents=True, exist_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(fake.path))
        listener.listen(8)
        thread = threading.Thread(target=fake.serve, args=(listener,))
        thread.start()
        running.append((fake, listener, thread))
        return fake

    yield start
    for fake, listener, thread in running:
        fake.closing.set()
        listener.shutdown(socket.SHUT_RDWR)  # wakes accept
        thread.join(5)
        listener.close()
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    """A broker and agents in a thread, for the tests of one module."""
    plane = Plane(tmp_path_factory.mktemp("plane"))
    plane.start()
    yield plane
    plane.stop()
