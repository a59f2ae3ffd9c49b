"""Every benchmark of this folder, each in a process of its own: ``python benchmarks``.

Prints the ratios and writes ``build/bench.json``: a list of objects with ``name``, ``device``,
``ratio`` and ``size`` where two ways are compared, and what else was measured. Names may follow, to
run some: ``adaptation crf``.
"""

import json
import sys
from pathlib import Path

import measuring

from ribkit.runtime.files import atomic_write

HERE = Path(__file__).parent


def main(names: list[str]) -> None:
    """Run the benchmarks one after the other, so that none disturbs another."""
    known = sorted(path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py"))
    target, entries = HERE.parent / "build" / "bench.json", []
    target.parent.mkdir(exist_ok=True)
    for name in names or known:
        found = measuring.apart(measuring.entries, name)
        for entry in found:
            print(measuring.words(entry), flush=True)
        entries += found
        with atomic_write(target) as partial:
            partial.write_text(json.dumps(entries, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
