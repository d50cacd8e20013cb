"""How many pairs does each kind of memory recall, with states of equal size?

    python benchmarks/recall.py                # about half an hour; writes results/recall.*
    python benchmarks/recall.py --steps 6000   # longer; writes results/recall_6000.*

The task is `Recall(32, 8, n, overwrite=False)` for n = 4, 8, 16 and 32: a pair is one token, each
key is written at most once, so nothing but the memory is tested. One model learns all four sizes in
turn and is asked each. A layer is `one_memory`: one head, keys and values of width 8 unless the
name says 6. Rules with a state keep 8 x 8 numbers, and so does a window of 4. Nothing else is in a
block: no convolution, no positions, no channel mixer. Stacks of 4 and 8 layers are linear
attention, with softmax attention in one of the layers or in none.

The learning rate of a single layer is the best of three after 500 steps, by the loss of the last
100, with a seed of its own; that of a stack of layers is 0.01, without a search. Then each is
trained with three other seeds. The embedding is multiplied by 50, so that it starts as large as
what a layer adds to it; one stack is trained without that, too.

A run can be stopped at any time: checkpoints are kept in work/recall/, and the same command goes on
from there.
"""

import argparse
import statistics
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from keep import keep, mean_and_error, means, versions

from seqlab.layers.base import tensors_in
from seqlab.layers.one_memory import one_memory
from seqlab.model import LanguageModel
from seqlab.tasks import Mixed, Recall
from seqlab.train import accuracy, train

STEPS, TRIED, LRS, DEEP_LR, SEEDS = 2000, 500, (0.003, 0.01, 0.03), 0.01, (0, 1, 2)
BATCH, D, KEYS, PAIRS, ASKED = 32, 32, 32, (4, 8, 16, 32), 2000
KEPT = Path(__file__).parents[1] / "work" / "recall"


class Stack(NamedTuple):
    """The rule of each layer, the width of keys and values, and what multiplies the embedding."""

    rules: list[str]
    width: int = 8
    window: int = 4
    scale: float = 50.0


HYBRID = ["linear", "linear", "softmax", "linear"]
STACKS = {
    "softmax attention": Stack(["softmax"]),
    "window of 32": Stack(["window"], window=32),
    "window of 4": Stack(["window"]),
    "linear attention": Stack(["linear"]),
    "constant decay": Stack(["decay"]),
    "gate": Stack(["gate"]),
    "delta rule": Stack(["delta"]),
    "gated delta rule": Stack(["gated delta"]),
    "softmax attention, width 6": Stack(["softmax"], width=6),
    "linear attention, width 6": Stack(["linear"], width=6),
    "delta rule, width 6": Stack(["delta"], width=6),
    "4 linear": Stack(["linear"] * 4),
    "hybrid 1:3": Stack(HYBRID),
    "hybrid 1:3, small embedding": Stack(HYBRID, scale=1.0),
    "8 linear": Stack(["linear"] * 8),
    "hybrid 1:7": Stack(["linear"] * 4 + ["softmax"] + ["linear"] * 3),
}


def sizes() -> dict[int, Recall]:
    return {n: Recall(KEYS, 8, n, overwrite=False) for n in PAIRS}


def build(name: str, seed: int) -> LanguageModel:
    rules, width, window, scale = STACKS[name]
    torch.manual_seed(seed)
    how = {"d_key": width, "d_value": width, "window": window}
    layers = [partial(one_memory, rule=rule, **how) for rule in rules]
    vocab = sizes()[PAIRS[0]].vocab
    return LanguageModel(vocab, D, layers, None, embedding_scale=scale)


def trained(name: str, lr: float, seed: int, steps: int):
    """The model and its history; what an earlier run has kept is not trained again."""
    model = build(name, seed)
    history = train(
        model,
        Mixed(tuple(sizes().values())),
        steps=steps,
        batch_size=BATCH,
        lr=lr,
        seed=seed,
        label=f"{name}, lr {lr:g}, seed {seed}",
        checkpoint=KEPT / f"{name}_{lr:g}_{seed}_{steps}.pt",
    )
    return model, history


def best_lr(name: str) -> float:
    """By the loss at the end of a short run, with a seed that is not reported."""
    if len(STACKS[name].rules) > 1:
        return DEEP_LR

    def last_loss(lr):
        return statistics.fmean(trained(name, lr, 1000, TRIED)[1].loss[-100:])

    return min(LRS, key=last_loss)


@torch.inference_mode()
def state_numbers(model) -> int:
    """What the model keeps of one sequence with the most pairs."""
    tokens = sizes()[PAIRS[-1]].batch(1, torch.Generator().manual_seed(0)).tokens
    return sum(x.numel() for x in tensors_in(model.eval()(tokens)[1]))


def asked(model) -> dict[int, float]:
    """pairs -> share of right answers, on sequences that are the same for all models."""
    rng = torch.Generator().manual_seed(20_000)
    found = {}
    for n, task in sizes().items():
        batches = [task.batch(ASKED // 8, rng) for _ in range(8)]
        found[n] = statistics.fmean(accuracy(model, batch) for batch in batches)
    return found


def measure(steps: int) -> list[dict]:
    results = []
    for name in STACKS:
        lr = best_lr(name)
        runs = [trained(name, lr, seed, steps) for seed in SEEDS]
        by_seed = [asked(model) for model, _ in runs]
        results.append(
            {
                "model": name,
                "rules": STACKS[name].rules,
                "width": STACKS[name].width,
                "lr": lr,
                "state": state_numbers(runs[0][0]),
                "parameters": sum(p.numel() for p in runs[0][0].parameters()),
                "accuracy": {str(n): [found[n] for found in by_seed] for n in PAIRS},
                "losses": [means(history.loss) for _, history in runs],
                "seconds": [round(history.seconds, 1) for _, history in runs],
            }
        )
    return results


def table(results: list[dict], steps: int, where: str) -> str:
    lines = [
        "# The recall gap",
        "",
        f"Recall of n pairs, {KEYS} keys, 8 values; {steps:,} steps of {BATCH}; {where}.",
        f"Percent of right answers, mean ± standard error of {len(SEEDS)} seeds; "
        f"guessing gives {100 / 8:.1f}. State: numbers kept of {2 * KEYS} tokens.",
        "",
        f"| model | state | learning rate | {' | '.join(f'{n} pairs' for n in PAIRS)} "
        f"| {PAIRS[-1]} pairs, each seed |",
        "|---|---:|---:|" + "---:|" * len(PAIRS) + "---|",
    ]
    for r in results:
        percents = [[100 * x for x in xs] for xs in r["accuracy"].values()]
        cells = [mean_and_error(xs) for xs in percents]
        each = "  ".join(f"{x:.1f}" for x in percents[-1])
        shown = [r["model"], f"{r['state']:,}", f"{r['lr']:g}", *cells, each]
        lines.append(f"| {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=STEPS)
    steps = parser.parse_args().steps
    torch.set_num_threads(1)
    results, where = measure(steps), versions()
    name = "recall" if steps == STEPS else f"recall_{steps}"
    keep(name, table(results, steps, where), where, results)


if __name__ == "__main__":
    main()
