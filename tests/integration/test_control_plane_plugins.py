"""Plugins in real processes: the sample package, those that are broken, and names that somebody has already; and control without keys."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from control_processes import Site
from daemons import wait_until

SAMPLE = Path(__file__).parents[2] / "examples" / "holloway-cookbook"
CHEF = """#!/bin/sh
echo "chef-solo $1 $3"
grep -o 'recipe\\[[a-z]*\\]' "$4"
cat "$HOLLOWAY_FILES/cookbooks/nginx/recipe"
"""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    site.environ["PYTHONPATH"] = f"{tmp_path / 'packages'}:{os.environ.get('PYTHONPATH', '')}"
    yield site
    site.end()


def install(site: Site, name: str, entry_points: dict[str, str], package: Path | None = None, **modules: str) -> None:
    """What an installer leaves: the package or modules, and the metadata that names its entry points."""
    packages = site.folder / "packages"
    info = packages / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = [f"{key} = {value}" for key, value in entry_points.items()]
    (info / "entry_points.txt").write_text("\n".join(["[holloway.commands]", *lines, ""]))
    if package is not None:
        shutil.copytree(package, packages / package.name)
    for module, text in modules.items():
        (packages / f"{module}.py").write_text(text)


def install_sample(site: Site) -> None:
    project = tomllib.loads((SAMPLE / "pyproject.toml").read_text())["project"]
    install(site, project["name"], project["entry-points"]["holloway.commands"], SAMPLE / "holloway_cookbook")
    programs = site.folder / "programs"
    programs.mkdir()
    (programs / "chef-solo").write_text(CHEF)
    (programs / "chef-solo").chmod(0o755)
    site.environ["HOLLOWAY_COOKBOOK_PROGRAM"] = str(programs / "chef-solo")


def test_the_sample_uploads_lists_syncs_and_runs_a_bundle(site: Site) -> None:
    install_sample(site)
    site.broker()
    site.trust()
    for name in ("web1", "web2"):  # the first call of all makes us admin
        assert site.call("client", "create", "--role", "node", "--name", name).returncode == 0
        site.agent(name, "--file-port", str(site.file_port))
    bundle = site.folder / "nginx"
    bundle.mkdir()
    (bundle / "recipe").write_text("listen 80\n")
    assert "  cookbook " in site.call("--help").stdout
    up = site.call("cookbook", "upload", "nginx")
    assert up.returncode == 0, up.stderr
    assert site.call("cookbook", "list").stdout == "nginx: 1 files\n"
    ran = site.call("cookbook", "run", "nginx")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    lines = ["web1 web2: ok", "  cookbooks/nginx: 1 brought, 0 removed, 0 as they were", "  chef-solo -c -j"]
    assert ran.stdout.splitlines() == [*lines, "  recipe[nginx]", "  listen 80"]
    # One job of two steps has one answer, and the second step waits for the first to be ok.
    (bundle / "recipe").write_text("listen 81\n")
    assert site.call("cookbook", "upload", "nginx").returncode == 0
    again = site.call("cookbook", "run", "-t", "web1", "--json", "nginx")
    [result] = json.loads(again.stdout)["results"]
    assert (result["state"], result["rc"]) == ("ok", 0)
    assert result["stdout"].endswith("listen 81\n")
    missing = site.call("cookbook", "run", "-t", "web1", "--json", "apache")
    [result] = json.loads(missing.stdout)["results"]
    assert (missing.returncode, result["state"], result["stdout"]) == (1, "failed", "")
    assert "no folder cookbooks/apache" in result["error"]


BROKEN = "raise RuntimeError('it is broken')\n"
ODD = "from holloway.actors.control_plane.plugins import *\n"
GOOD = """
from holloway.actors.control_plane.plugins import BrokerCommand, NodeCommand, Plugin

def argv(arguments, options):
    return ["/bin/echo", "run by", "a plugin"]

def rows(call):
    return [{"caller": call.caller}]

plugin = Plugin("Good.", "good_verbs:command", (NodeCommand("run", argv),),
    (BrokerCommand("rows", rows),))
"""
VERBS = """
import click
from holloway.cli.control_options import ControlCommand, broker_options, find_broker
from holloway.cli.job_options import JobOptions, job_options, perform
from holloway.protocols.control_plane.messages import Step

@click.group()
def command(): pass

@command.command(cls=ControlCommand)
@click.argument("words", nargs=-1)
@job_options
def run(words, **options):
    return perform(JobOptions(**options), [Step("good.run", words)])

@command.command(cls=ControlCommand)
@click.argument("name")
@broker_options
def ask(name, host, curve_key_file):
    from holloway.cli.operator_session import administer
    print(administer(find_broker(host, curve_key_file), f"good.{name}"))
"""


def test_a_broken_plugin_is_told_and_the_others_work(site: Site) -> None:
    install(site, "broken", {"broken": "broken_module:plugin"}, broken_module=BROKEN)
    install(site, "exits", {"exits": "exits_module:plugin"}, exits_module="raise SystemExit(9)\n")
    install(site, "odd", {"odd": "odd_module:GROUP"}, odd_module=ODD)
    install(site, "taker", {"exec": "good_module:plugin"})
    install(site, "one", {"twice": "good_module:plugin"})
    install(site, "two", {"twice": "good_module:plugin"})
    install(site, "good", {"good": "good_module:plugin"}, good_module=GOOD, good_verbs=VERBS)
    site.broker()
    site.trust()
    assert site.call("client", "create", "--role", "node", "--name", "web1").returncode == 0
    site.agent("web1")
    for log in (site.log("broker"), site.log("web1")):
        assert "the plugin broken cannot be loaded: broken 1.0: RuntimeError: it is broken" in log
        assert "the plugin exits cannot be loaded: exits 1.0: SystemExit: 9" in log
        assert "the plugin odd is none" in log
        assert "a plugin cannot be called exec" in log
        assert "two plugins are called twice: one 1.0, two 1.0: neither is taken" in log
    assert site.call("good", "run").stdout == "run by a plugin\n"
    assert site.call("good", "ask", "rows").stdout == "[{'caller': 'admin'}]\n"
    told = site.call("broken")
    assert told.returncode == 1
    assert "error: the plugin broken cannot be loaded" in told.stderr
    assert "Traceback" not in told.stderr
    shown = site.call("--help").stdout
    assert re.search(r"^  good +of good 1\.0$", shown, re.MULTILINE)
    assert re.search(r"^  twice +of one 1\.0, two 1\.0: two of one name", shown, re.MULTILINE)


# Control without keys.


def test_without_keys_everybody_is_whom_he_says_and_is_warned(site: Site) -> None:
    site.start(
        "broker",
        *("broker", "--root", "b", "--security", "null"),
        *("--command-port", str(site.port), "--file-port", str(site.file_port)),
    )
    wait_until(lambda: "files on" in site.log("broker"), "the broker")
    assert "whoever reaches the broker's port commands every node" in site.log("broker")
    assert "server_public_key" not in site.log("broker")
    site.environ["HOLLOWAY_SECURITY"] = "null"
    site.start("web1", "agent", "--name", "web1")
    wait_until(lambda: "registered as web1" in site.log("web1"), "the agent")
    assert "whoever reaches the broker's port" in site.log("web1")
    echoed = site.call("echo", "hi")
    assert (echoed.returncode, echoed.stdout) == (0, "hi\n")
    assert "warning: security is null" in echoed.stderr
    (site.folder / "file").write_text("text")
    assert site.call("file", "put", "file", "there").returncode == 0
    # Nobody gets into the list of keys by this way, which counts when keys do.
    key = "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"
    refused = site.call("client", "create", "--role", "admin", "--name", "eve", "--public-key", key)
    assert refused.returncode == 1
    assert "over a connection without keys" in refused.stderr
    del site.environ["HOLLOWAY_SECURITY"]
    trail = (site.folder / "b" / "broker" / "audit.jsonl").read_text()
    assert '"event":"security"' in trail
    assert "whoever comes is whom he says" in trail
    assert '"event":"security"' in (site.folder / ".holloway" / "web1" / "agent" / "audit.jsonl").read_text()
    with_key = site.folder / ".holloway" / "keys.yml"
    with_key.write_text('server_public_key: "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"\n')
    other = site.call("echo", "hi")
    assert other.returncode == 1
    assert "speaks another language" in other.stderr


def test_without_keys_nobody_listens_where_others_are_unless_forced(site: Site) -> None:
    ports = ("--command-port", str(site.port), "--file-port", str(site.file_port))
    null = ("--security", "null")
    refused = site.call("broker", "--root", "b", "--bind", "0.0.0.0", *null, *ports)
    assert refused.returncode == 4
    assert "error: --security null is not for --bind 0.0.0.0" in refused.stderr
    assert not (site.folder / "b").exists()
    agent = site.call("agent", "--name", "web1", "--host", "192.0.2.1", *null)
    assert agent.returncode == 4
    assert "error: --security null is not for --host 192.0.2.1" in agent.stderr
    site.start("broker", "broker", "--root", "b", "--bind", "0.0.0.0", "--force-null", *null, *ports)
    wait_until(lambda: "files on" in site.log("broker"), "the broker")
    with socket.create_connection(("127.0.0.2", site.port), timeout=5):
        pass


def test_a_client_without_keys_does_not_get_into_a_broker_with_keys(site: Site) -> None:
    site.broker()
    refused = site.call("echo", "--security", "null", "hi")
    assert refused.returncode == 1
    assert "speaks another language" in refused.stderr
