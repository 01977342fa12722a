"""A floating address between real nodes: it answers on, whether its holder is killed or asked to end.

Who holds it when, in every order of mishaps, is in `protocols/test_floating`; what others can do about it in
`actors/test_floating_actor`.
"""

from __future__ import annotations

import re
import signal
import subprocess
import time
from itertools import pairwise
from pathlib import Path

from daemons import Daemon, wait_until
from namespaces import Namespace, namespaces, needs_namespaces, needs_program, run_in, start_in

pytestmark = [needs_namespaces, needs_program("ping", package="iputils-ping")]

ADDRESS = "10.99.0.200"
KILLED_S = 3.0
STOPPED_S = 1.0


def node(name: str, number: int, namespace: Namespace, folder: Path, *, candidate: bool) -> Daemon:
    registry = f'[registry]\nurl = "sqlite://{folder / "net.db"}"\ntrust = "store"\n'
    return Daemon(
        name=name,
        namespace=namespace,
        folder=folder,
        addresses=(f"10.99.0.{number}/24",),
        extra=registry + (f'[[floating]]\naddress = "{ADDRESS}"\n' if candidate else ""),
    )


def has_it(daemon: Daemon) -> bool:
    """Whether the kernel has the address."""
    return f" {ADDRESS}/32 " in run_in(daemon.namespace, ["ip", "-4", "address"]).stdout


class Pings:
    """A program that asks the address twenty times a second."""

    def __init__(self, namespace: Namespace, folder: Path) -> None:
        self._output = folder / "pings"
        with self._output.open("w") as output:
            command = ["ping", "-n", "-D", "-i", "0.05", "-W", "1", ADDRESS]
            self._process = start_in(namespace, command, stdout=output, stderr=subprocess.STDOUT)

    def answered(self) -> list[float]:
        """When there was an answer, in seconds since 1970."""
        return [float(at) for at in re.findall(r"^\[([0-9.]+)\] 64 bytes", self._output.read_text(), re.MULTILINE)]

    def gap_from(self, began: float) -> float:
        """How long there was none at the most, once there is one again after an interruption that began then."""
        wait_until(lambda: self.answered()[-1:] > [began + 0.5], "answers", timeout=10)
        time.sleep(0.3)
        times = [began, *(at for at in self.answered() if at > began)]
        return max(later - earlier for earlier, later in pairwise(times))

    def end(self) -> None:
        self._process.send_signal(signal.SIGINT)
        self._process.wait(5)


def test_an_address_outlives_its_holder(tmp_path: Path) -> None:
    with namespaces(3) as (one, two, three):
        a, b = (
            node(name, number, each, tmp_path, candidate=True) for name, number, each in (("a", 1, one), ("b", 2, two))
        )
        c = node("c", 3, three, tmp_path, candidate=False)
        a.start()
        wait_until(lambda: has_it(a), "a to have the address", of=a)
        b.start()
        c.start()
        for name in ("a", "b"):
            c.wait_for_session(name)
        b.wait_for_session("a")
        pings = Pings(three, tmp_path)
        wait_until(lambda: len(pings.answered()) > 20, "answers")
        assert (has_it(a), has_it(b), has_it(c)) == (True, False, False)

        began = time.time()
        a.kill()
        assert pings.gap_from(began) <= KILLED_S
        assert (has_it(a), has_it(b)) == (False, True)

        a.start()
        c.wait_for_session("a")
        assert (has_it(a), has_it(b)) == (False, True)
        began = time.time()
        assert b.stop() == 0
        assert pings.gap_from(began) <= STOPPED_S
        assert has_it(a)
        assert c.status()["node"]["floating"][0]["holder"] == "a"
        pings.end()
