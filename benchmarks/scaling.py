"""Time and memory of attention and of a recurrence, against the length of the text.

    python benchmarks/scaling.py    # some minutes; writes benchmarks/results/scaling.json and .md

One head of width 64, float32, one sequence, forward only. "attention, plain" builds the T × T
matrix, "attention, fused" is PyTorch's scaled_dot_product_attention, which does not. The recurrence
has a state of 64 × 64 numbers: token by token, and chunk by chunk. Each time is the median of the
rounds. Memory: the most bytes of tensors alive at one time (`seqlab.measure`). The slope is that of
the logarithm over log T, from T = 2,048 on, with its standard error: 1 is linear, 2 quadratic.

A run can be stopped at any time: it keeps each figure in work/scaling.json, and the same command
goes on from there.
"""

import json
import math
import statistics
import time
from functools import partial
from pathlib import Path

import torch
from keep import keep, versions
from tqdm import tqdm

from seqlab.core.attention import attend, attend_sdpa
from seqlab.core.recurrence import chunkwise, recurrent
from seqlab.measure import growth, peak_bytes

LENGTHS = [512, 1024, 2048, 4096, 8192, 16384, 32768]
FITTED_FROM, LONGEST_PLAIN, ROUNDS, K = 2048, 16384, 5, 64
KEPT = Path(__file__).parents[1] / "work" / "scaling.json"


def recurrence(form, q, k, v):
    return form(q, k, v, log_a=q.new_full((*q.shape[:3], 1), math.log(0.99)))


FORMS = {
    "attention, plain": partial(attend, causal=True),
    "attention, fused": partial(attend_sdpa, causal=True),
    "recurrence, token by token": partial(recurrence, recurrent),
    "recurrence, in chunks": partial(recurrence, chunkwise),
}


def measure_one(form, T: int) -> dict:
    q, k, v = torch.randn(3, 1, T, 1, K, generator=torch.Generator().manual_seed(0))
    took = []
    with torch.inference_mode():
        for _ in range(ROUNDS + 1):
            start = time.perf_counter()
            form(q, k, v)
            took.append(time.perf_counter() - start)
    with torch.no_grad():
        memory = peak_bytes(lambda: form(q, k, v))
    return {"seconds": statistics.median(took[1:]), "bytes": memory}


def measure() -> dict:
    """form -> T -> seconds and bytes; what an earlier run has kept is not measured again."""
    found = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    todo = [
        (name, T) for T in LENGTHS for name in FORMS if T <= LONGEST_PLAIN or "plain" not in name
    ]
    for name, T in (bar := tqdm(todo)):
        bar.set_description(f"{name}, T = {T:,}")
        by_length = found.setdefault(name, {})
        if str(T) not in by_length:
            by_length[str(T)] = measure_one(FORMS[name], T)
            save(found)
    return {name: {int(T): x for T, x in found[name].items()} for name in FORMS}


def save(found: dict) -> None:
    """Whole or not at all: a run stopped while writing leaves the older file."""
    KEPT.parent.mkdir(parents=True, exist_ok=True)
    KEPT.with_suffix(".tmp").write_text(json.dumps(found))
    KEPT.with_suffix(".tmp").replace(KEPT)


def fitted(by_length: dict[int, dict], what: str) -> tuple[float, float]:
    return growth({T: x[what] for T, x in by_length.items() if T >= FITTED_FROM})


def table(found: dict, where: str) -> str:
    head = " | ".join(f"T = {T:,}" for T in LENGTHS)
    lines = [
        "# Time and memory against the length of the text",
        "",
        f"One head of width {K}, float32, forward; medians of {ROUNDS} rounds; {where}.",
        f"Slopes of log over log T from T = {FITTED_FROM:,} on, with standard errors.",
    ]
    for what, unit, scale in (("seconds", "Milliseconds", 1e3), ("bytes", "MiB", 2**-20)):
        lines += ["", f"| {unit} | {head} | slope |", "|---|" + "---:|" * (len(LENGTHS) + 1)]
        for name, by_length in found.items():
            cells = [f"{scale * by_length[T][what]:.3g}" if T in by_length else "" for T in LENGTHS]
            rise, error = fitted(by_length, what)
            lines.append(f"| {name} | {' | '.join(cells)} | {rise:.2f} ± {error:.2f} |")
    return "\n".join(lines) + "\n"


def main():
    torch.set_num_threads(1)
    found, where = measure(), versions()
    results = [
        {
            "form": name,
            "by_length": by_length,
            "slopes": {what: fitted(by_length, what) for what in ("seconds", "bytes")},
        }
        for name, by_length in found.items()
    ]
    keep("scaling", table(found, where), where, results)
    KEPT.unlink()  # the next run measures anew


if __name__ == "__main__":
    main()
