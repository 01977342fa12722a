"""From nothing to an encrypted ping where there is no authority: the store is believed, or keys are pinned.

With an authority: `test_membership`.
"""

from __future__ import annotations

from pathlib import Path

from daemons import wait_until
from machines import Machine
from namespaces import namespaces, needs_namespaces, needs_program

pytestmark = [needs_namespaces, needs_program("ping", package="iputils-ping")]


def test_where_the_store_is_believed_two_commands_a_machine_are_enough(tmp_path: Path) -> None:
    with namespaces(2) as (left, right):
        a, b = Machine(left, "a", tmp_path), Machine(right, "b", tmp_path)
        for machine in (a, b):
            machine.run(
                "init",
                "home",
                "--trust",
                "store",
                "--registry",
                f"sqlite://{tmp_path / 'net.db'}",
                "--name",
                machine.name,
            )
            machine.up()
        wait_until(lambda: a.pings("10.99.4.2"), "a to reach b")
        assert b.pings(a.asked()["node"]["addresses"][1].partition("/")[0])
        assert "rest_s" in a.run("network", "--rest", "2h")
        wait_until(lambda: b.asked()["node"]["settings"]["rest_s"] == 7200, "b to hear of the settings")


def test_where_keys_are_pinned_nodes_know_each_other_by_files(tmp_path: Path) -> None:
    with namespaces(2) as (left, right):
        a, b = Machine(left, "a", tmp_path), Machine(right, "b", tmp_path)
        blocks = {
            machine.name: machine.run(
                "init", "home", "--trust", "pinned", "--name", machine.name, "--address", f"10.99.0.{number}"
            )
            for number, machine in enumerate((a, b), start=1)
        }
        for machine, other in ((a, b), (b, a)):
            (tmp_path / machine.name / "peers" / f"{other.name}.toml").write_text(blocks[other.name])
            machine.up()
        wait_until(lambda: a.pings("10.99.0.2"), "a to reach b")
        assert b.pings("10.99.0.1")
