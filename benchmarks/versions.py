"""Is any row of the zoo slower than in another version of this repository?

    git worktree add ../before SOME_COMMIT
    python benchmarks/versions.py ../before             # some minutes; writes nothing
    python benchmarks/versions.py ../before mamba rwkv  # rows whose name contains one of these

Each version runs in a process of its own, on one thread, and the two take turns: forward and
backward of one layer, T = 1024, D = 256, float32. A figure is the least processor time of its
rounds. A ratio over 1.05 is measured again with five times as many rounds before it is believed.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

T, D, ROUNDS = 1024, 256, 9
HERE = Path(__file__).parents[1]
WORKER = """
import json, sys, time
sys.path.insert(0, sys.argv[1])
import torch
import seqlab
from seqlab.zoo import ZOO
assert seqlab.__file__.startswith(sys.argv[1]), f"there is no seqlab in {sys.argv[1]}"
torch.set_num_threads(1)
rows, layers = {r.name: r for r in ZOO}, {}
print(json.dumps(list(rows)), flush=True)
for line in sys.stdin:
    name, T, D = json.loads(line)
    if name not in layers:
        torch.manual_seed(0)
        layers = {name: (rows[name].make(D), torch.randn(1, T, D, requires_grad=True))}
    layer, x = layers[name]
    start = time.process_time()
    try:
        layer(x)[0].square().mean().backward()
        print(json.dumps(time.process_time() - start), flush=True)
    except ValueError:
        print(json.dumps(None), flush=True)
"""


class Version:
    """A process with one checkout's seqlab; asked for a row, it answers with seconds."""

    def __init__(self, checkout: Path):
        command = [sys.executable, "-c", WORKER, str(checkout.resolve())]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(command, cwd=checkout, **pipes)
        self.rows = json.loads(self.process.stdout.readline())

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.process.__exit__(*error)  # closes the pipes, at which the process ends

    def seconds(self, row: str) -> float | None:
        """None if the row does not take T tokens."""
        self.process.stdin.write(json.dumps([row, T, D]) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


def compare(row, before, after, rounds):
    """The least seconds of each version; the first round of each warms up and does not count."""
    pairs = [(before.seconds(row), after.seconds(row)) for _ in range(rounds + 1)][1:]
    return tuple(map(min, zip(*pairs, strict=True)))


def table(before, after, parts):
    """Print a line for each row that is asked for; return the names of those that are slower."""
    slower = []
    print(f"{'row':28} {'before':>9} {'after':>9} {'ratio':>6}")
    for row in after.rows:
        wanted = not parts or any(part.lower() in row.lower() for part in parts)
        if not wanted or row not in before.rows:
            continue
        if before.seconds(row) is None or after.seconds(row) is None:
            print(f"{row:28} does not take {T} tokens")
            continue
        old, new = compare(row, before, after, ROUNDS)
        if new > 1.05 * old:
            old, new = compare(row, before, after, 5 * ROUNDS)
        if new > 1.05 * old:
            slower.append(row)
        print(f"{row:28} {1e3 * old:6.1f} ms {1e3 * new:6.1f} ms {new / old:6.2f}", flush=True)
    return slower


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path, help="a checkout of the other version")
    parser.add_argument("rows", nargs="*", help="parts of names; all rows by default")
    asked = parser.parse_args()
    with Version(asked.before) as before, Version(HERE) as after:
        slower = table(before, after, asked.rows)
    print(f"slower by more than 5 %: {', '.join(slower) or 'none'}")


if __name__ == "__main__":
    main()
