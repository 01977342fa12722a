"""Runs the bodies of tests, each in a forked child inside a network namespace. `namespaces.in_namespace` starts it.

To import Trio, pytest and what a node needs takes half a second; to fork a process that has done so takes none. This one
never runs Trio and has one thread, so that its children start as clean as a new interpreter.

A request is one line of JSON on standard input: `namespace` and `output` (paths of the namespace to enter and of the file
for everything the body says), `file` and `name` (the test module and function), `patience` (seconds for an async body). The answer is one line: the exit code.
Not responsible for namespaces, nor for deciding what a failure means.
"""

from __future__ import annotations

import ctypes
import gc
import importlib.util
import json
import logging
import os
import sys
import traceback
import warnings
from pathlib import Path

import trio

CLONE_NEWNET = 0x40000000  # include/uapi/linux/sched.h


def serve() -> None:
    """Answer requests until standard input ends."""
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", "'AbstractChildWatcher' is deprecated", DeprecationWarning)
    for module in ("pytest", "pyroute2", "trio_asyncio", "holloway.actors.kernel"):
        importlib.import_module(module)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            os._exit(_child(**json.loads(line)))
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def _child(namespace: str, output: str, file: str, name: str, patience: float) -> int:
    written, entered = os.open(output, os.O_WRONLY), os.open(namespace, os.O_RDONLY)
    for standard in (1, 2):
        os.dup2(written, standard)
    try:
        if ctypes.CDLL(None, use_errno=True).setns(entered, CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"setns {namespace}")
        os.close(written)
        os.close(entered)
        return _run(file, name, patience)
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _run(file: str, name: str, patience: float) -> int:
    """Run the body under Trio, for so many seconds. What asyncio logs, and what Python could not raise, counts as a failure."""
    faults: list[str] = []
    sys.unraisablehook = lambda fault: faults.append(f"{fault.err_msg}: {fault.object!r}: {fault.exc_value!r}")
    listener = logging.Handler(logging.WARNING)
    listener.emit = lambda record: faults.append(f"{record.name} logged: {record.getMessage()}")  # type: ignore[method-assign]
    for logger in ("asyncio", "trio-asyncio"):
        logging.getLogger(logger).addHandler(listener)

    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)

    async def main() -> None:
        outcome = getattr(module, name).body()
        if outcome is not None:
            with trio.fail_after(patience):
                await outcome

    trio.run(main)
    gc.collect()
    print(*faults, sep="\n")
    return 1 if faults else 0


if __name__ == "__main__":
    serve()
