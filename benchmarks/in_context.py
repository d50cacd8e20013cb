"""Which memories learn a linear map from the examples in front of them?

    python benchmarks/in_context.py                # some minutes; writes results/in_context.*
    python benchmarks/in_context.py --steps 6000   # longer; writes results/in_context_6000.*

The task is `LinearRegression(4, 16)`: 16 examples (x, y) with y = w·x in 4 dimensions, a new w in
each sequence; before each y the model guesses it. A model is a short convolution, so that x and y
can meet, and then one or two layers of `one_memory`, each with a SwiGLU. Values have width 8, keys
have width 8 unless the name says otherwise. The figure is the mean square error of each guess; 4 is
what answering 0 gives, and least squares makes no error once it has seen 4 examples.

The learning rate is the better of two after 300 steps, by the loss of the last 100, with a seed of
its own. Then the model is trained with three other seeds.

A run can be stopped at any time: checkpoints are kept in work/in_context/, and the same command
goes on from there.
"""

import argparse
import statistics
from functools import partial
from pathlib import Path

import torch
from keep import keep, mean_and_error, means, versions

from seqlab.layers.one_memory import one_memory
from seqlab.model import VectorModel
from seqlab.tasks import LinearRegression
from seqlab.train import train
from seqlab.zoo import row

STEPS, TRIED, LRS, SEEDS = 1000, 300, (0.003, 0.01), (0, 1, 2)
BATCH, D, DIM, POINTS, ASKED = 64, 32, 4, 16, 4000
SHOWN = (0, 2, 4, 8, 15)
KEPT = Path(__file__).parents[1] / "work" / "in_context"
SHIFT = row("Based's short convolution").make

# name -> rule, width of keys, layers
MODELS = {
    "softmax attention": ("softmax", 8, 1),
    "linear attention": ("linear", 8, 1),
    "delta rule": ("delta", 8, 1),
    "delta rule, keys of width 2": ("delta", 2, 1),
    "softmax attention, 2 layers": ("softmax", 8, 2),
    "delta rule, 2 layers": ("delta", 8, 2),
}


def build(name: str, seed: int) -> VectorModel:
    rule, d_key, n_layers = MODELS[name]
    torch.manual_seed(seed)
    memory = partial(one_memory, rule=rule, d_key=d_key)
    return VectorModel(DIM + 1, 1, D, [SHIFT, *[memory] * n_layers])


def trained(name: str, lr: float, seed: int, steps: int):
    """The model and its history; what an earlier run has kept is not trained again."""
    model = build(name, seed)
    history = train(
        model,
        LinearRegression(DIM, POINTS),
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

    def last_loss(lr):
        return statistics.fmean(trained(name, lr, 1000, TRIED)[1].loss[-100:])

    return min(LRS, key=last_loss)


@torch.inference_mode()
def errors(guess) -> list[float]:
    """The mean square error after 0, 1, 2, … examples. guess: a batch -> (B, n)."""
    task = LinearRegression(DIM, POINTS)
    batch = task.batch(ASKED, torch.Generator().manual_seed(20_000))
    wrong = guess(batch) - batch.tokens[:, 1::2, 0]
    return [round(e, 4) for e in wrong.square().mean(0).tolist()]


def measure(steps: int) -> list[dict]:
    results = []
    for name, (rule, d_key, n_layers) in MODELS.items():
        lr = best_lr(name)
        runs = [trained(name, lr, seed, steps) for seed in SEEDS]
        guesses = [lambda b, m=m: m.eval()(b.tokens)[0][:, 0::2, 0] for m, _ in runs]
        results.append(
            {
                "model": name,
                "rule": rule,
                "d_key": d_key,
                "layers": n_layers,
                "lr": lr,
                "errors": [errors(guess) for guess in guesses],
                "losses": [means(history.loss) for _, history in runs],
                "seconds": [round(history.seconds, 1) for _, history in runs],
            }
        )
    best = errors(LinearRegression(DIM, POINTS).least_squares)
    return [*results, {"model": "least squares", "errors": [best]}]


def table(results: list[dict], steps: int, where: str) -> str:
    lines = [
        "# Linear regression in context",
        "",
        f"{POINTS} examples in {DIM} dimensions; {steps:,} steps of {BATCH}; {where}.",
        f"Mean square error after some examples, mean ± standard error of {len(SEEDS)} seeds; "
        f"answering 0 gives {DIM}.",
        "",
        f"| model | learning rate | {' | '.join(f'{n} seen' for n in SHOWN)} |",
        "|---|---:|" + "---:|" * len(SHOWN),
    ]
    for r in results:
        cells = [mean_and_error([by_seed[n] for by_seed in r["errors"]], 2) for n in SHOWN]
        lines.append(f"| {r['model']} | {r.get('lr', '')} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=STEPS)
    steps = parser.parse_args().steps
    torch.set_num_threads(1)
    results, where = measure(steps), versions()
    name = "in_context" if steps == STEPS else f"in_context_{steps}"
    keep(name, table(results, steps, where), where, results)


if __name__ == "__main__":
    main()
