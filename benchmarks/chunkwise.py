"""Chunkwise recurrence on CPU: is its time linear in T, and how does it stand beside others in the
same run?

    python benchmarks/chunkwise.py            # about two minutes; writes benchmarks/results/chunkwise.json and .md

Scalar decay, B = 1, H = 4, K = V = 64, C = 64, float32. Beside `seqlab.core.recurrence.chunkwise`:
our `recurrent`, and `naive_chunk_simple_gla` of flash-linear-attention (where fla-core is
installed). Every round times every implementation once, in turn, so a busy moment of the machine
hits all alike; the figure is the median of the rounds.
"""

import statistics
import time
import warnings
from functools import partial

import torch
from keep import keep, versions
from tqdm import tqdm

from seqlab.core.recurrence import chunkwise, recurrent

LENGTHS = [1024, 2048, 4096, 8192, 16384]
LONGEST_RECURRENT = 4096
ROUNDS, H, K = 7, 4, 64


def draw(T):
    q, k, v = (torch.randn(1, T, H, K) for _ in range(3))
    return q * K**-0.5, k, v, -0.1 * torch.rand(1, T, H, 1)


def seqlab_form(form, q, k, v, log_a):
    return form(q, k, v, log_a=log_a)[0]


def implementations(T):
    forms = {"seqlab chunkwise": partial(seqlab_form, chunkwise)}
    if T <= LONGEST_RECURRENT:
        forms["seqlab recurrent"] = partial(seqlab_form, recurrent)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns that this machine has no GPU
            from fla.ops.simple_gla.naive import naive_chunk_simple_gla
    except ImportError:
        return forms
    forms["fla naive_chunk_simple_gla"] = lambda q, k, v, a: naive_chunk_simple_gla(
        q, k, v, a[..., 0], scale=1.0
    )[0]
    return forms


def seconds(f, inputs, backward):
    leaves = [x.clone().requires_grad_(backward) for x in inputs]
    start = time.perf_counter()
    y = f(*leaves)
    if backward:
        y.square().sum().backward()
    return time.perf_counter() - start, y.detach()


def measure():
    times = {}  # (pass, implementation) -> {T: median seconds}
    bar = tqdm(total=len(LENGTHS) * 2 * (ROUNDS + 1), desc="chunkwise")
    for T in LENGTHS:
        torch.manual_seed(0)
        inputs, forms = draw(T), implementations(T)
        for backward, name in ((False, "forward"), (True, "forward + backward")):
            rounds = {form: [] for form in forms}
            for round_ in range(ROUNDS + 1):
                outputs = {}
                for form, f in forms.items():
                    took, outputs[form] = seconds(f, inputs, backward)
                    rounds[form] += [took] if round_ else []  # the first round warms up
                bar.update()
            for form, y in outputs.items():
                assert torch.allclose(y, outputs["seqlab chunkwise"], atol=1e-3), (
                    f"{form} gives another answer"
                )
                times.setdefault((name, form), {})[T] = statistics.median(rounds[form])
    return times


def slope(by_length):
    """Least-squares slope of log seconds over log T: 1 is linear."""
    x, y = (
        torch.tensor(list(z), dtype=torch.float64).log() for z in (by_length, by_length.values())
    )
    return ((x - x.mean()) * (y - y.mean())).sum().item() / (x - x.mean()).square().sum().item()


def table(times, where):
    rows = [
        "# Chunkwise recurrence on CPU",
        "",
        f"Milliseconds, median of {ROUNDS} rounds in one run; {where}.",
        "The ratio is the other's time over seqlab chunkwise's at the same T: above 1, seqlab is faster.",
        "",
        "| pass | implementation | "
        + " | ".join(f"T = {T}" for T in LENGTHS)
        + " | slope | ratio at T = 4096 |",
        "|---|---|" + "---:|" * (len(LENGTHS) + 2),
    ]
    for (name, form), by_length in times.items():
        cells = [f"{1e3 * by_length[T]:.1f}" if T in by_length else "" for T in LENGTHS]
        ratio = by_length[4096] / times[name, "seqlab chunkwise"][4096]
        rows.append(
            f"| {name} | {form} | {' | '.join(cells)} | {slope(by_length):.2f} | {ratio:.2f} |"
        )
    return "\n".join(rows) + "\n"


def main():
    torch.set_num_threads(
        1
    )  # one thread: the figures depend less on what else the machine is doing
    where = versions()
    times = measure()
    text = table(times, where)
    flat = [
        {"pass": p, "implementation": i, "seconds": s, "slope": slope(s)}
        for (p, i), s in times.items()
    ]
    keep("chunkwise", text, where, flat)


if __name__ == "__main__":
    main()
