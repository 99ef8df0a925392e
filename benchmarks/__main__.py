"""Run every benchmark and print its table: `python -m benchmarks [NAME ...]`, or one with options: `… NAME --option`.

Each module here with a `main()` is one benchmark. They print ratios of things measured side by side in
one run, medians of several, since absolute times say more about the machine than about the code.
"""

from __future__ import annotations

import importlib
import itertools
import pkgutil
import sys
from pathlib import Path


def main() -> None:
    folder = Path(__file__).parent
    names = [m.name for m in pkgutil.iter_modules([str(folder)]) if not m.name.startswith("_")]
    wanted = list(itertools.takewhile(lambda text: not text.startswith("-"), sys.argv[1:]))
    if options := sys.argv[1 + len(wanted) :]:
        if len(wanted) != 1:
            raise SystemExit("options go to one benchmark: give its name before them")
        sys.argv = [wanted[0], *options]
    for name in wanted:
        if name not in names:
            raise SystemExit(f"there is no benchmark {name!r}; choose from {', '.join(names)}")
    for name in wanted or names:
        module = importlib.import_module(f"benchmarks.{name}")
        if hasattr(module, "main") and (wanted or not hasattr(module, "ONLY_BY_NAME")):
            print(f"== {name}: {(module.__doc__ or '').strip().splitlines()[0]}", flush=True)
            module.main()


if __name__ == "__main__":
    main()
