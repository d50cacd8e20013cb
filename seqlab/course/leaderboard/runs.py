"""One run: a row, a contest, a learning rate and a seed. Its result is one file."""

import hashlib
import json
import math
import os
import platform
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seqlab.course.leaderboard.contest import Contest, Setting
from seqlab.course.leaderboard.models import SHIFT, build, parameters
from seqlab.course.leaderboard.source import code_hash, modules_of
from seqlab.layers.base import tensors_in
from seqlab.train import accuracy, task_loss, train
from seqlab.zoo import row

# Sequences of each size, by which the learning rate is chosen, and others that are reported.
ASKED, CHOOSING, REPORTED = 512, 10_000, 20_000
DECODED, ROUNDS = 64, 3
CODE = ("seqlab.course.leaderboard.runs", "seqlab.course.leaderboard.models")


@dataclass(frozen=True)
class Run:
    """One training run; without a learning rate, the measurement of the row's speeds."""

    setting: Setting
    contest: Contest
    row: str
    lr: float | None
    seed: int

    def what(self) -> dict[str, Any]:
        """All that the result depends on, but the code."""
        s = self.setting
        sizes = {"d_model": s.d_model, "depth": s.depth, "block_parameters": s.block_parameters}
        shown = {"row": self.row, "lr": self.lr, "seed": self.seed}
        return shown | sizes | {"contest": repr(self.contest), "make": _said(row(self.row).make)}

    @property
    def key(self) -> str:
        """A name for the result, by content: another setting or other code has another key."""
        tasks = [type(task) for _, task in self.contest.sizes]
        shift = [row(SHIFT).make] if self.contest.shift else []
        code = code_hash([*CODE, *modules_of([row(self.row).make, *tasks, *shift])])
        text = json.dumps(self.what() | {"code": code}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:20]

    def __str__(self) -> str:
        how = "speed" if self.lr is None else f"lr {self.lr:g}, seed {self.seed}"
        return f"{self.row}, {self.contest.name}, {how}"


def _said(make: Any) -> str:
    """A factory as text, without addresses in memory."""
    if hasattr(make, "func"):
        options = ", ".join(f"{k}={_said(v)}" for k, v in sorted(make.keywords.items()))
        return f"{_said(make.func)}({options})"
    return getattr(make, "__qualname__", None) or repr(make)


def kept(run: Run, store: Path) -> dict[str, Any] | None:
    """The result of an earlier run with the same settings and code, if there is one."""
    path = store / f"{run.key}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def perform(run: Run, store: Path) -> dict[str, Any]:
    """The result, from the store or else measured and stored.

    While it trains, a checkpoint is kept beside it, from which an interrupted run goes on.
    """
    found = kept(run, store)
    if found is not None:
        return found
    torch.set_num_threads(1)
    key = run.key
    checkpoint = store / f"{key}.pt"
    result = measured_speed(run) if run.lr is None else trained(run, checkpoint)
    result = {"what": run.what(), "where": versions(), **result}
    store.mkdir(parents=True, exist_ok=True)
    part = store / f"{key}.{os.getpid()}.part"
    part.write_text(json.dumps(result, indent=1), encoding="utf-8")
    part.replace(store / f"{key}.json")
    checkpoint.unlink(missing_ok=True)
    return result


def trained(run: Run, checkpoint: Path) -> dict[str, Any]:
    """Train one model, and ask it each size of its contest."""
    assert run.lr is not None
    torch.manual_seed(run.seed)
    model = build(run.setting, run.contest, run.row)
    how = {"steps": run.contest.steps, "batch_size": run.contest.batch_size, "lr": run.lr}
    history = train(
        model, run.contest.task, seed=run.seed, checkpoint=checkpoint, show=False, **how
    )
    return {
        "parameters": parameters(model),
        "state_bytes": state_bytes(model, run.contest),
        "choosing": _asked(model, run.contest, CHOOSING),
        "accuracy": _asked(model, run.contest, REPORTED),
        "loss": [_finite(x) for x in _means(history.loss, max(len(history.loss) // 50, 1))],
        "seconds": round(history.seconds, 1),
    }


def _asked(model: torch.nn.Module, contest: Contest, seed: int) -> dict[str, float]:
    """label -> accuracy, on sequences that training has not seen but by chance."""
    found = {}
    for label, task in contest.sizes:
        rng = torch.Generator().manual_seed(seed)
        batches = [task.batch(ASKED // 8, rng) for _ in range(8)]
        found[label] = statistics.fmean(accuracy(model, batch) for batch in batches)
    return found


@torch.inference_mode()
def state_bytes(model: torch.nn.Module, contest: Contest) -> int:
    """What the model keeps of one sequence of the largest size."""
    _, task = contest.sizes[-1]
    states = model.eval()(task.batch(1, torch.Generator().manual_seed(0)).tokens)[1]
    return sum(x.numel() * x.element_size() for x in tensors_in(states))


def measured_speed(run: Run) -> dict[str, float]:
    """Tokens per second of processor time on one thread, the best of some rounds.

    training: a step, with the optimiser. decoding: one sequence, token by token behind the largest
    size of the contest.
    """
    torch.manual_seed(run.seed)
    model, contest = build(run.setting, run.contest, run.row), run.contest
    batch = contest.sizes[-1][1].batch(contest.batch_size, torch.Generator().manual_seed(0))
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def step():
        optimiser.zero_grad()
        task_loss(model(batch.tokens)[0], batch.targets).backward()
        optimiser.step()

    training = _best_seconds(step)
    model.eval()
    with torch.inference_mode():
        prompt = batch.tokens[:1]
        states = model(prompt)[1]
        decoding = _best_seconds(lambda: _decode(model, prompt[:, -1:], states))
    return {
        "training_tokens_per_second": batch.tokens.numel() / training,
        "decoding_tokens_per_second": DECODED / decoding,
    }


def _decode(model: torch.nn.Module, token: Tensor, states: list) -> None:
    for _ in range(DECODED):
        logits, states = model(token, states)
        token = logits.argmax(-1)


def _best_seconds(call: Any) -> float:
    best = math.inf
    for _ in range(ROUNDS + 1):  # the first may compile or allocate
        start = time.process_time()
        call()
        best = min(best, time.process_time() - start)
    return best


def versions() -> str:
    machine, python = platform.machine(), platform.python_version()
    return f"torch {torch.__version__}, Python {python}, {machine}, one thread"


def _means(xs: list[float], every: int) -> list[float]:
    return [statistics.fmean(xs[i : i + every]) for i in range(0, len(xs), every)]


def _finite(x: float) -> float | None:
    return round(x, 4) if math.isfinite(x) else None
