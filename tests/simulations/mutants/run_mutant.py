"""Runs one mutant against its scenario and prints, as JSON, which promise it broke first, and at which seed.

    python run_mutant.py FILE.toml [shrink]

A mutant file names a module, a fragment of its source that occurs once, and what stands there instead. The fragment is
exchanged while the module is imported, so nothing on disk is touched and nothing else is changed.
"""

import json
import sys
import tomllib
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType

SEEDS = 200


class MutatingLoader(SourceFileLoader):
    """Loads a module with one fragment of its source exchanged."""

    def __init__(self, name: str, path: str, before: str, after: str) -> None:
        super().__init__(name, path)
        self._before, self._after = before, after

    def get_code(self, fullname: str) -> CodeType:
        source = Path(self.path).read_text("utf-8")
        if source.count(self._before) != 1:
            raise SystemExit(f"{fullname} has {self._before!r} {source.count(self._before)} times: mend the mutant")
        return compile(source.replace(self._before, self._after), self.path, "exec", dont_inherit=True)


class MutatingFinder:
    """Finds the mutated module before anybody else does."""

    def __init__(self, module: str, before: str, after: str) -> None:
        self._module, self._before, self._after = module, before, after

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name != self._module:
            return None
        spec = PathFinder.find_spec(name, path)  # type: ignore[arg-type]
        assert spec is not None
        assert spec.origin is not None
        spec.loader = MutatingLoader(name, spec.origin, self._before, self._after)
        return spec


def main() -> None:
    mutant = tomllib.loads(Path(sys.argv[1]).read_text("utf-8"))
    sys.meta_path.insert(0, MutatingFinder(mutant["module"], mutant["before"], mutant["after"]))  # type: ignore[arg-type]
    from holloway.simulations.depth import Depth
    from holloway.simulations.drawing import draw_plan
    from holloway.simulations.run import run_plan
    from holloway.simulations.scenario import load_scenario
    from holloway.simulations.shrink import shrink

    scenario = load_scenario(mutant["scenario"])
    for seed in range(SEEDS):
        plan = draw_plan(scenario, seed, Depth(mutant["depth"]) if "depth" in mutant else None)
        failure = run_plan(plan).failure
        if failure is not None:
            found = {"seed": seed, "property": failure.property, "message": failure.message, "faults": len(plan.faults)}
            if "shrink" in sys.argv[2:]:
                small, reason = shrink(plan, failure)
                found |= {"property_shrunk": reason.property, "faults_shrunk": [fault.kind for fault in small.faults]}
            print(json.dumps(found))
            return
    print(json.dumps({"seed": None, "property": None}))


main()
