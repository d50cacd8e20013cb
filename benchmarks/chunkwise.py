"""Chunkwise recurrence on CPU: is its time linear in T, and how does it compare with others?

    python benchmarks/chunkwise.py    # 2 minutes; writes benchmarks/results/chunkwise.json and .md

Scalar decay, B = 1, H = 4, K = V = 64, C = 64, float32. Beside `seqlab.core.recurrence.chunkwise`
it times our `recurrent` and, where fla-core is installed, `naive_chunk_simple_gla` of
flash-linear-attention. Every round times each implementation once, in turn, so a busy moment of the
machine slows all of them. The figure is the median of the rounds.
"""

import statistics
import time
import warnings
from functools import partial

import torch
from keep import keep, versions
from tqdm import tqdm

from seqlab.core.recurrence import chunkwise, recurrent
from seqlab.measure import growth

LENGTHS = [1024, 2048, 4096, 8192, 16384]
LONGEST_RECURRENT = 4096
ROUNDS = 7
H, K = 4, 64
OURS = "seqlab chunkwise"


def draw(T: int) -> list[torch.Tensor]:
    q, k, v = (torch.randn(1, T, H, K) for _ in range(3))
    return [q * K**-0.5, k, v, -0.1 * torch.rand(1, T, H, 1)]


def seqlab_form(form, q, k, v, log_a):
    return form(q, k, v, log_a=log_a)[0]


def implementations(T: int) -> dict:
    forms = {OURS: partial(seqlab_form, chunkwise)}
    if T <= LONGEST_RECURRENT:
        forms["seqlab recurrent"] = partial(seqlab_form, recurrent)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns that this machine has no GPU
            from fla.ops.simple_gla.naive import naive_chunk_simple_gla
    except ImportError:
        return forms

    def fla(q, k, v, log_a):
        return naive_chunk_simple_gla(q, k, v, log_a[..., 0], scale=1.0)[0]

    return forms | {"fla naive_chunk_simple_gla": fla}


def seconds(f, inputs, backward):
    leaves = [x.clone().requires_grad_(backward) for x in inputs]
    start = time.perf_counter()
    y = f(*leaves)
    if backward:
        y.square().sum().backward()
    return time.perf_counter() - start, y.detach()


def measure() -> dict:
    """(pass, implementation) -> {T: median seconds}."""
    times = {}
    bar = tqdm(total=len(LENGTHS) * 2 * (ROUNDS + 1), desc="chunkwise")
    for T in LENGTHS:
        torch.manual_seed(0)
        inputs = draw(T)
        forms = implementations(T)
        for backward, name in ((False, "forward"), (True, "forward + backward")):
            for form, median in medians(forms, inputs, backward, bar).items():
                times.setdefault((name, form), {})[T] = median
    return times


def medians(forms: dict, inputs: list, backward: bool, bar) -> dict[str, float]:
    """Median seconds of each form. Their answers agree, or this raises."""
    rounds = {form: [] for form in forms}
    outputs = {}
    for round_ in range(ROUNDS + 1):
        for form, f in forms.items():
            took, outputs[form] = seconds(f, inputs, backward)
            if round_:  # the first round warms up
                rounds[form].append(took)
        bar.update()
    for form, y in outputs.items():
        alike = torch.allclose(y, outputs[OURS], atol=1e-3)
        assert alike, f"{form} gives another answer than {OURS}"
    return {form: statistics.median(took) for form, took in rounds.items()}


def table(times: dict, where: str) -> str:
    lengths = " | ".join(f"T = {T}" for T in LENGTHS)
    rows = [
        "# Chunkwise recurrence on CPU",
        "",
        f"Milliseconds, median of {ROUNDS} rounds in one run; {where}.",
        (
            "The ratio is the other's time over seqlab chunkwise's at the same T: "
            "above 1, seqlab is faster."
        ),
        "",
        f"| pass | implementation | {lengths} | slope | ratio at T = 4096 |",
        "|---|---|" + "---:|" * (len(LENGTHS) + 2),
    ]
    for (name, form), by_length in times.items():
        cells = [f"{1e3 * by_length[T]:.1f}" if T in by_length else "" for T in LENGTHS]
        cells.append(f"{growth(by_length)[0]:.2f}")
        cells.append(f"{by_length[4096] / times[name, OURS][4096]:.2f}")
        rows.append(f"| {name} | {form} | {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def main():
    torch.set_num_threads(1)  # so that the figures depend less on what else the machine does
    where = versions()
    times = measure()
    flat = [
        {"pass": name, "implementation": form, "seconds": by_length, "slope": growth(by_length)[0]}
        for (name, form), by_length in times.items()
    ]
    keep("chunkwise", table(times, where), where, flat)


if __name__ == "__main__":
    main()
