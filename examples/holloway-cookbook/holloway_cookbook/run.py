"""Runs on a node: writes what chef-solo wants to know, and becomes chef-solo."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path


def main(program: str, name: str, *more: str) -> None:
    files = Path(os.environ["HOLLOWAY_FILES"])
    settings = files / f"cookbook-{name}.rb"
    attributes = files / f"cookbook-{name}.json"
    settings.write_text(f'cookbook_path "{files / "cookbooks"}"\n')
    attributes.write_text(json.dumps({"run_list": [f"recipe[{name}]"]}) + "\n")
    words = [program, "-c", str(settings), "-j", str(attributes), *more]
    try:
        os.execvp(program, words)
    except OSError as error:
        sys.exit(f"{program} cannot be started: {error.strerror}")


if __name__ == "__main__":
    main(*sys.argv[1:])
