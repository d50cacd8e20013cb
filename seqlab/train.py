"""One plain training loop, and the accuracy of the trained model."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool
from torch import Tensor, nn
from tqdm.auto import tqdm

from seqlab.ffn import auxiliary_loss
from seqlab.ffn.routers import Router
from seqlab.tasks import IGNORE, Task


@dataclass
class History:
    """Loss (nats per asked token) and accuracy of every training step, and the seconds taken."""

    loss: list[float] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    seconds: float = 0.0


def train(
    model: nn.Module,
    task: Task,
    *,
    steps: int = 300,
    batch_size: int = 32,
    lr: float = 3e-3,
    seed: int = 0,
    label: str = "training",
) -> History:
    """Train on fresh batches of `task` with AdamW.

    The learning rate warms up linearly over a tenth of the steps, then falls to 0 like a cosine. A
    mixture of experts is kept balanced as its router asks: by a loss beside the task's, or by
    moving its bias.
    """
    rng = torch.Generator().manual_seed(seed)
    history = History()
    start = time.perf_counter()
    optimiser = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01)
    schedule = warm_up_and_cosine(optimiser, steps)
    model.train()
    for _ in (bar := tqdm(range(steps), desc=label)):
        batch = task.batch(batch_size, rng)
        logits, _ = model(batch.tokens)
        loss = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORE)
        optimiser.zero_grad()
        (loss + auxiliary_loss(model)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        for router in (m for m in model.modules() if isinstance(m, Router)):
            router.update_bias()
        asked = (batch.targets != IGNORE).sum().item()
        accuracy = _right(logits, batch.targets).sum().item() / asked
        history.loss.append(loss.item())
        history.accuracy.append(accuracy)
        bar.set_postfix(loss=f"{loss.item():.3f}", accuracy=f"{accuracy:.0%}", refresh=False)
    history.seconds = time.perf_counter() - start
    return history


def warm_up_and_cosine(
    optimiser: torch.optim.Optimizer, steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """A linear warm-up over a tenth of the steps, then a cosine to 0."""
    warm_up = max(steps // 10, 1)
    linear = torch.optim.lr_scheduler.LinearLR(optimiser, 1 / warm_up, total_iters=warm_up)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(steps - warm_up, 1))
    return torch.optim.lr_scheduler.SequentialLR(optimiser, [linear, cosine], [warm_up])


@torch.inference_mode()
def evaluate(
    model: nn.Module, task: Task, *, n: int = 1000, seed: int = 10_000
) -> tuple[Any, Bool[Tensor, "B T"]]:
    """Fresh sequences: (batch, right), where right (B, T) is True at each correct answer.

    Positions that ask nothing (batch.targets == IGNORE) are False in `right`: divide by the number
    of questions.
    """
    model.eval()
    batch = task.batch(n, torch.Generator().manual_seed(seed))
    return batch, _right(model(batch.tokens)[0], batch.targets)


@torch.inference_mode()
def accuracy(model: nn.Module, batch: Any) -> float:
    """The share of right answers among the questions of a batch."""
    model.eval()
    asked = (batch.targets != IGNORE).sum().item()
    return _right(model(batch.tokens)[0], batch.targets).sum().item() / asked


def accuracy_by(right: Tensor, batch: Any, what: Tensor, values: Sequence[int]) -> list[float]:
    """The mean of `right` over the questions of a batch, for each value of `what` (B, T)."""
    asked = batch.targets != IGNORE
    return [right[asked & (what == value)].float().mean().item() for value in values]


def seconds_per_step(
    models: Mapping[str, nn.Module],
    lengths: Sequence[int],
    *,
    tokens: int = 4096,
    width: int = 64,
    rounds: int = 4,
) -> dict[str, dict[int, float]]:
    """name -> {T: seconds of one forward and backward pass, the best of some rounds}.

    Every pass reads the same number of tokens, cut into tokens / T sequences of T. A model gets x
    (B, T, width) and returns (y, state).
    """
    batches = {T: torch.randn(tokens // T, T, width) for T in lengths}
    best = {name: dict.fromkeys(lengths, math.inf) for name in models}
    for _ in tqdm(range(rounds), desc="timing"):
        for name, model in models.items():
            for T, x in batches.items():
                start = time.perf_counter()
                model(x)[0].square().mean().backward()
                best[name][T] = min(best[name][T], time.perf_counter() - start)
    return best


@torch.inference_mode()
def bits_per_byte(model: nn.Module, data: bytes, length: int = 256) -> float:
    """What the model needs for each byte of `data` but the first, read in pieces of `length`.

    What is left behind the last whole piece is not read.
    """
    x = torch.tensor(list(data))[: (len(data) - 1) // length * length + 1]
    pieces = zip(x[:-1].view(-1, length).split(32), x[1:].view(-1, length).split(32), strict=True)
    nats = sum(
        F.cross_entropy(model(tokens)[0].flatten(0, 1), targets.flatten(), reduction="sum").item()
        for tokens, targets in pieces
    )
    return nats / (len(x) - 1) / math.log(2)


@torch.inference_mode()
def best_seconds(run: Callable[[], Any], rounds: int = 4) -> float:
    """The shortest time that `run()` took in some rounds: the one that others disturbed least."""
    best = math.inf
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return best


def _right(logits, targets) -> Bool[Tensor, "B T"]:
    return (logits.argmax(-1) == targets) & (targets != IGNORE)
