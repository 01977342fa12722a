"""`holloway simulate`: hostile networks in one process, from one seed. Not responsible for the simulation itself.

Progress goes to stderr. The exit codes are those of `Verdict`, 2 for a scenario that cannot be used and 130 when
interrupted; they are told in docs/simulation.md.
"""

from __future__ import annotations

import os
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from holloway.cli.exit_codes import ExitCode
from holloway.cli.failures import CommandFailedError
from holloway.cli.printing import json_option, print_json
from holloway.cli.simulate_files import Files

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from holloway.simulations.batch import Summary
    from holloway.simulations.depth import Depth
    from holloway.simulations.plan import Plan
    from holloway.simulations.run import Failure
    from holloway.simulations.scenario import Scenario

QUIET_S = 2.0
"""No progress is told of what takes no longer."""
TOLD_EVERY_S = 1.0


def _complete(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The words of this verb, the shipped scenarios, and files."""
    from click.shell_completion import CompletionItem

    from holloway.simulations.scenario import shipped

    words = [word for word in ("list", "replay", *shipped()) if word.startswith(incomplete)]
    return [*map(CompletionItem, words), CompletionItem(incomplete, type="file")]


@click.command(short_help="Play hostile networks in one process, from a seed.")
@click.argument("scenario", shell_complete=_complete)
@click.argument("plan", required=False)
@click.option("--seed", type=click.IntRange(0), help="Run one seed.")
@click.option("--seeds", metavar="A..B", help="Run a range of seeds; the scenario names one for when none is given.")
@click.option(
    "--depth",
    type=click.Choice(["heap", "actors"]),
    help="How much of a node is real: the protocols, or the whole actor tree. The scenario names one for when none is given.",
)
@click.option(
    "--offloads/--no-offloads",
    default=None,
    help="Hosts cut and join packets as kernels do, or not. The scenario says which when neither is given.",
)
@click.option("--jobs", type=click.IntRange(1, 64), default=1, show_default=True, help="Run in this many processes.")
@json_option
@click.option("--trace", metavar="FILE", help="Write what happens in the run of one seed, as JSON lines.")
@click.option("--html", metavar="FILE", help="Write a page that shows the run of one seed.")
@click.option("--pcap", metavar="FILE", help="Write the packets of the run of one seed, for Wireshark.")
@click.option("--shrink", is_flag=True, help="Make the plan of the first failure small, and write it to a file.")
@click.option("--check-determinism", is_flag=True, help="Run every seed twice, the second time in another process.")
def command(
    scenario: str,
    plan: str | None,
    seed: int | None,
    seeds: str | None,
    depth: str | None,
    offloads: bool | None,
    jobs: int,
    as_json: bool,
    trace: str | None,
    html: str | None,
    pcap: str | None,
    shrink: bool,
    check_determinism: bool,
) -> None:
    """Play hostile networks in one process, from a seed.

    SCENARIO is a shipped scenario, a TOML file, or one of two words: "list" shows the shipped ones, "replay PLAN" runs a
    plan that --shrink wrote. The same seed gives the same run, byte for byte.

    Exits with 0 when every property held, 1 when a safety property broke, 2 for wrong usage or a wrong scenario, 3 when a
    liveness property broke, 4 when an interesting place was never reached, 5 when a run could not be repeated, 70 when the
    system under test crashed, 74 when results could not be written, 130 when interrupted.
    """
    from holloway.simulations.depth import Depth
    from holloway.simulations.errors import ScenarioError
    from holloway.simulations.run import Verdict

    context = click.get_current_context()
    files = Files(trace, html, pcap)
    if (plan is not None) != (scenario == "replay"):
        raise click.UsageError("replay needs the file of a plan" if plan is None else f"unexpected {plan}", context)
    if (scenario in ("list", "replay")) and (
        seed is not None
        or seeds
        or depth
        or offloads is not None
        or shrink
        or check_determinism
        or jobs > 1
        or (scenario == "list" and any(files))
    ):
        raise click.UsageError(f"{scenario} does not go with these options", context)
    if seed is not None and seeds is not None:
        raise click.UsageError("--seed and --seeds exclude each other", context)
    if any(files) and ((seed is None and plan is None) or check_determinism):
        raise click.UsageError(
            "--trace, --html and --pcap are of one run: they need --seed, and no --check-determinism", context
        )
    wanted = None if depth is None else Depth(depth)
    try:
        if scenario == "list":
            _list(as_json)
            verdict: int = Verdict.HELD
        elif plan is not None:
            verdict = _replay(plan, files, as_json)
        elif seed is not None and not check_determinism:
            verdict = _run_one(scenario, seed, wanted, offloads, files, as_json, shrink)
        else:
            between = _range(seed, seeds, context)
            verdict = _run_many(scenario, between, wanted, offloads, jobs, as_json, shrink, check_determinism)
        sys.stdout.flush()
    except ScenarioError as error:
        raise CommandFailedError(error.what, error.why, error.fix, ExitCode.USAGE) from error
    except BrokenPipeError:  # whoever read us has seen enough
        _abandon_output()
        raise click.exceptions.Exit(ExitCode.OUTPUT) from None
    except OSError as error:
        _abandon_output()
        raise CommandFailedError(
            "the results could not be written", str(error), "make room, or write elsewhere", ExitCode.OUTPUT
        ) from error
    if verdict:
        raise click.exceptions.Exit(verdict)


def _abandon_output() -> None:
    """What stdout still holds and does not get rid of is lost, or the interpreter would complain of it at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _range(seed: int | None, seeds: str | None, context: click.Context) -> tuple[int, int] | None:
    from holloway.simulations.scenario import read_seeds

    if seed is not None:
        return seed, seed
    if seeds is None:
        return None
    try:
        return read_seeds(seeds)
    except ValueError as error:
        raise click.UsageError(str(error), context) from error


def _list(as_json: bool) -> None:
    from holloway.simulations.scenario import load_scenario, shipped

    scenarios = [load_scenario(name) for name in shipped()]
    if as_json:
        names = [
            {
                "name": each.name,
                "purpose": each.purpose,
                "nodes": len(each.nodes),
                "depths": [depth.value for depth in each.depths],
            }
            for each in scenarios
        ]
        print_json({"schema": "holloway.simulate-list/1", "scenarios": names})
        return
    width = max(len(each.name) for each in scenarios)
    for each in scenarios:
        print(f"{each.name:<{width}}  {', '.join(each.depths):<12}  {each.purpose}")


def _replay(file: str, files: Files, as_json: bool) -> int:
    from holloway.simulations.errors import ScenarioError
    from holloway.simulations.plan import from_json

    try:
        text = Path(file).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ScenarioError(f"cannot read the plan {file}", str(error), "name a file that --shrink wrote") from error
    return _run_plan(from_json(text, file), f"holloway simulate replay {shlex.quote(file)}", files, as_json, False)


def _run_one(
    name: str, seed: int, depth: Depth | None, offloads: bool | None, files: Files, as_json: bool, shrink: bool
) -> int:
    from holloway.simulations.drawing import draw_plan
    from holloway.simulations.scenario import load_scenario

    scenario = load_scenario(name)
    plan = draw_plan(scenario, seed, depth, offloads=offloads)
    return _run_plan(plan, _replay_command(scenario, plan), files, as_json, shrink)


def _run_plan(plan: Plan, replay: str, files: Files, as_json: bool, shrink: bool) -> int:
    from holloway.cli.simulate_report import failure_document, print_failures, print_summary, summary_document
    from holloway.simulations.batch import Summary
    from holloway.simulations.run import run_plan

    progress = _Progress()
    with files.opened(plan, replay) as (trace, capture, finish):
        outcome = run_plan(
            plan,
            trace=trace,
            capture=capture,
            progress=lambda at_ns: progress.tell(f"{at_ns / 1e9:.0f} of {plan.duration_ns / 1e9:.0f} virtual s"),
        )
        finish(outcome)
    progress.end()
    summary = Summary()
    summary.add(plan.seed, outcome)
    summary.wall_s = outcome.wall_s
    shown = [] if outcome.failure is None else [(plan, outcome.failure, replay)]
    if shrink and shown:
        shown = [_shrink(*shown[0])]
    if as_json:
        document = summary_document(plan.scenario, plan.depth, summary, [failure_document(*each) for each in shown])
        print_json(document | {"trace_sha256": outcome.trace_sha256})
    else:
        print_summary(plan.scenario, plan.depth, summary)
        print(f"trace_sha256 {outcome.trace_sha256}")
        print_failures(shown)
    return int(summary.verdict)


def _run_many(
    name: str,
    seeds: tuple[int, int] | None,
    depth: Depth | None,
    offloads: bool | None,
    jobs: int,
    as_json: bool,
    shrink: bool,
    check_determinism: bool,
) -> int:
    from holloway.cli.simulate_report import failure_document, print_failures, print_summary, summary_document
    from holloway.simulations.batch import run_seeds
    from holloway.simulations.drawing import draw_plan
    from holloway.simulations.scenario import load_scenario

    scenario = load_scenario(name)
    depth = scenario.check_depth(depth)
    first, last = seeds or scenario.seeds
    progress = _Progress()

    def tell(so_far: Summary) -> None:
        speed = so_far.events / so_far.wall_s if so_far.wall_s else 0
        progress.tell(f"{so_far.seeds_run} of {last - first + 1} seeds, {so_far.failed} failed, {speed:,.0f} events/s")

    summary = run_seeds(
        scenario,
        first,
        last,
        depth=depth,
        offloads=offloads,
        jobs=jobs,
        check_determinism=check_determinism,
        progress=tell,
    )
    progress.end()
    plans = [(draw_plan(scenario, seed, depth, offloads=offloads), failure) for seed, failure in summary.failures]
    shown = [(plan, failure, _replay_command(scenario, plan)) for plan, failure in plans]
    if shrink and shown:
        shown[0] = _shrink(*shown[0])
    if as_json:
        failures = [failure_document(*each) for each in shown]
        print_json(summary_document(scenario.name, depth.value, summary, failures))
    else:
        print_summary(scenario.name, depth.value, summary)
        print_failures(shown)
    return int(summary.verdict)


def _replay_command(scenario: Scenario, plan: Plan) -> str:
    depth = "" if plan.depth == scenario.depths[0] else f" --depth {plan.depth}"
    offloads = "" if plan.offloads == scenario.offloads else " --offloads" if plan.offloads else " --no-offloads"
    return f"holloway simulate {shlex.quote(scenario.source)}{depth}{offloads} --seed {plan.seed}"


def _shrink(plan: Plan, failure: Failure, replay: str) -> tuple[Plan, Failure, str]:
    """Makes a plan small and writes it to a file in the working directory."""
    from holloway.simulations.plan import to_json
    from holloway.simulations.shrink import shrink

    progress = _Progress()
    small, reason = shrink(
        plan, failure, lambda runs, now: progress.tell(f"shrinking: {runs} runs, {len(now.faults)} faults left")
    )
    progress.end()
    path = f"{plan.scenario}-{plan.seed}.plan.json"
    try:
        Path(path).write_text(to_json(small) + "\n", "utf-8")
    except OSError as error:  # that must not cost what was found
        print(f"the small plan could not be written to {path}: {error.strerror}", file=sys.stderr)
        return plan, failure, replay
    return small, reason, f"holloway simulate replay {shlex.quote(path)}"


class _Progress:
    """One line on stderr that is written over; on what is no terminal, a new line now and then."""

    def __init__(self) -> None:
        self._began = self._told = time.perf_counter()
        self._is_terminal = sys.stderr.isatty()
        self._is_told = False

    def tell(self, text: str) -> None:
        now = time.perf_counter()
        pause_s = TOLD_EVERY_S if self._is_terminal else 10 * TOLD_EVERY_S if self._is_told else 0.0
        if now - self._began < QUIET_S or now - self._told < pause_s:
            return
        self._told, self._is_told = now, True
        print(f"\r\x1b[K{text}" if self._is_terminal else text, end="" if self._is_terminal else "\n", file=sys.stderr)
        sys.stderr.flush()

    def end(self) -> None:
        """Leave the line clean."""
        if self._is_terminal and self._is_told:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
