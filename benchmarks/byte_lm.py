"""Mamba-2, a transformer and a hybrid of about equal size, as language models of bytes.

    python benchmarks/byte_lm.py                # about half an hour; writes results/byte_lm.*
    python benchmarks/byte_lm.py --steps 4000   # longer; writes results/byte_lm_4000.*

The text is the help that ships with Python, its last tenth held out. Each model is trained with
three seeds on excerpts of 256 bytes, at one learning rate for all: of 0.003, 0.005, 0.01 and 0.02,
tried for 200 steps with one seed, the best or within 0.03 bits of it. The figure is bits per byte
on the held-out text, in pieces of 256. A 5-gram counts the whole training text.

A run can be stopped at any time: it keeps each model, its optimiser and its losses in
work/byte_lm/ every 100 steps, and the same command goes on from there.
"""

import argparse
import math
import time
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from keep import keep, versions
from tqdm import tqdm

from seqlab.ffn import SwiGLU
from seqlab.mixers import Attention, Mamba2
from seqlab.model import LanguageModel
from seqlab.tasks import Text, ngram_bits, python_help
from seqlab.train import bits_per_byte, warm_up_and_cosine

STEPS, SEEDS, EVERY = 1000, (0, 1, 2), 100
BATCH, T, D, LR = 4, 256, 64, 5e-3
KEPT = Path(__file__).parents[1] / "work" / "byte_lm"

MAMBA = partial(Mamba2, n_heads=4, d_state=32)
ATTENTION = partial(Attention, n_heads=4)


def mamba2():
    """Four blocks of Mamba-2, no other channel mixer: the paper's layout."""
    return LanguageModel(256, D, [MAMBA] * 4, None)


def transformer():
    """Two blocks, attention with RoPE and SwiGLU; d_ff makes up the size of four of Mamba-2."""
    return LanguageModel(256, D, [ATTENTION] * 2, partial(SwiGLU, d_ff=D_FF))


def hybrid():
    """Mamba-2, Mamba-2, then one block of the transformer."""
    return LanguageModel(
        256, D, [MAMBA, MAMBA, ATTENTION], [None, None, partial(SwiGLU, d_ff=D_FF)]
    )


MODELS = {"Mamba-2": mamba2, "transformer": transformer, "hybrid": hybrid}


def size(model) -> int:
    return sum(p.numel() for p in model.parameters())


def matching_d_ff() -> int:
    """The d_ff with which one block of the transformer is as large as two of Mamba-2."""
    block = 2 * size(MAMBA(D)) + 2 * D - size(ATTENTION(D)) - 2 * D
    return round(block / (3 * D))


D_FF = matching_d_ff()


def split() -> tuple[bytes, bytes]:
    text = python_help()
    cut = len(text) * 9 // 10
    return text[:cut], text[cut:]


def train(name: str, seed: int, steps: int, task: Text) -> dict:
    """The trained weights, the losses and the seconds: from where an earlier run stopped."""
    path = KEPT / f"{name}_{steps}_{seed}.pt"
    torch.manual_seed(seed)
    model = MODELS[name]()
    optimiser = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.01)
    schedule = warm_up_and_cosine(optimiser, steps)
    rng = torch.Generator().manual_seed(seed)
    run = {"losses": [], "seconds": 0.0}
    parts = {"model": model, "optimiser": optimiser, "schedule": schedule}
    if path.exists():
        kept = torch.load(path, weights_only=True)
        run = kept["run"]
        rng.set_state(kept["rng"])
        for part, module in parts.items():
            module.load_state_dict(kept[part])
    bar = tqdm(total=steps, initial=len(run["losses"]), desc=f"{name}, seed {seed}")
    while len(run["losses"]) < steps:
        start = time.process_time()
        for _ in range(min(EVERY, steps - len(run["losses"]))):
            run["losses"].append(step(model, optimiser, schedule, task.batch(BATCH, rng)))
            bar.update()
            bar.set_postfix(bits=f"{run['losses'][-1] / math.log(2):.2f}", refresh=False)
        run["seconds"] += time.process_time() - start
        save(path, run=run, rng=rng.get_state(), **{n: p.state_dict() for n, p in parts.items()})
    bar.close()
    return {"model": model, **run}


def step(model, optimiser, schedule, batch) -> float:
    logits, _ = model(batch.tokens)
    loss = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten())
    optimiser.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()
    schedule.step()
    return loss.item()


def save(path: Path, **what) -> None:
    """Whole or not at all: a run stopped while writing leaves the older file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(what, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").replace(path)


def measure(steps: int) -> list[dict]:
    learned, held_out = split()
    task = Text(learned, n_tokens=T)
    results = []
    for name in MODELS:
        runs = [train(name, seed, steps, task) for seed in SEEDS]
        results.append(
            {
                "model": name,
                "parameters": size(runs[0]["model"]),
                "bits": [bits_per_byte(run["model"], held_out, T) for run in runs],
                "seconds": [run["seconds"] for run in runs],
                "losses": [means(run["losses"], EVERY) for run in runs],
            }
        )
    order5 = ngram_bits(learned, held_out)
    return [*results, {"model": "5-gram", "bits": [order5]}]


def means(losses: list[float], every: int) -> list[float]:
    return [
        round(sum(x) / len(x), 4)
        for x in (losses[i : i + every] for i in range(0, len(losses), every))
    ]


def table(results: list[dict], steps: int, where: str) -> str:
    lines = [
        "# Language models of bytes",
        "",
        f"{steps:,} steps of {BATCH} x {T} bytes, learning rate {LR} for all; {where}.",
        "Bits per byte on held-out text (lower is better), one number for each seed.",
        "",
        "| model | parameters | bits per byte | mean | processor seconds a run |",
        "|---|---:|---|---:|---:|",
    ]
    for r in results:
        found = "  ".join(f"{b:.3f}" for b in r["bits"])
        mean = sum(r["bits"]) / len(r["bits"])
        parameters = f"{r['parameters']:,}" if "parameters" in r else ""
        seconds = f"{sum(r['seconds']) / len(r['seconds']):.0f}" if "seconds" in r else ""
        lines.append(f"| {r['model']} | {parameters} | {found} | {mean:.3f} | {seconds} |")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=STEPS)
    steps = parser.parse_args().steps
    torch.set_num_threads(1)
    results, where = measure(steps), versions()
    name = "byte_lm" if steps == STEPS else f"byte_lm_{steps}"
    keep(name, table(results, steps, where), where, results)


if __name__ == "__main__":
    main()
