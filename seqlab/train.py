"""One plain training loop, and the accuracy of the trained model."""

import hashlib
import json
import math
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool
from torch import Tensor, nn
from tqdm.auto import tqdm

from seqlab.ffn import auxiliary_loss
from seqlab.ffn.routers import Router
from seqlab.tasks import IGNORE, Task

SOLVED_OVER = 20  # batches whose mean accuracy says that a task is solved


@dataclass
class History:
    """Loss (nats per asked token) and accuracy of every training step, and the seconds taken.

    For a task with real numbers as targets the loss is the mean square error, and the accuracy the
    share of the targets' mean square that it leaves explained: 1 is perfect, 0 is answering 0.
    """

    loss: list[float] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    seconds: float = 0.0

    def figure(self, title: str = "") -> Any:
        """Loss and accuracy against the step, as a plotly figure."""
        # Imported late: training needs no plotly, and figures may import this module.
        return import_module("seqlab.figures.training").learning_curves(self, title=title)

    def _repr_mimebundle_(self, **_) -> dict:
        """In a notebook, the figure; as text, the summary."""
        bundle: dict[str, Any] = {"text/plain": repr(self)}
        if self.loss:
            try:
                figure = json.loads(self.figure().to_json())
            except ImportError:
                return bundle
            bundle["application/vnd.plotly.v1+json"] = figure
        return bundle

    def __repr__(self) -> str:
        if not self.loss:
            return "History(no steps)"
        first, last = self.loss[0], self.loss[-1]
        return (
            f"History({len(self.loss)} steps, loss {first:.3g} → {last:.3g}, "
            f"accuracy {self.accuracy[-1]:.1%}, {self.seconds:.1f} s)"
        )


def train(
    model: nn.Module,
    task: Task,
    *,
    steps: int = 300,
    batch_size: int = 32,
    lr: float = 3e-3,
    seed: int = 0,
    label: str = "training",
    solved: float | None = None,
    checkpoint: str | Path | None = None,
    every: int = 100,
    show: bool = True,
) -> History:
    """Train on fresh batches of `task` with AdamW.

    The learning rate warms up linearly over a tenth of the steps, then falls to 0 like a cosine. A
    mixture of experts is kept balanced as its router asks: by a loss beside the task's, or by
    moving its bias.

    solved: stop early, once the mean accuracy of the last 20 batches is at least this. (Each batch
    is new, so this is no accuracy on what was learned by heart.)

    checkpoint: a file that is written every `every` steps, and at the end. Killed at any point and
    called again with the same arguments, `train` goes on from the file, and gives the weights and
    the history of a run that went through. A finished run is read back without a step. ValueError
    if the file belongs to other arguments. show: the progress bar.
    """
    run = _Run(model, steps, lr, seed)
    what = {"steps": steps, "batch_size": batch_size, "lr": lr, "seed": seed, "solved": solved}
    what["task"] = _fingerprint(task)
    path = None if checkpoint is None else Path(checkpoint)
    if path is not None and path.exists():
        run.load(path, what)
    history = run.history
    done, before, start = len(history.loss), history.seconds, time.perf_counter()
    model.train()
    bar = tqdm(total=steps, initial=done, desc=label, disable=not show)
    while len(history.loss) < steps and not _is_solved(history, solved):
        run.step(task.batch(batch_size, run.rng))
        history.seconds = before + time.perf_counter() - start
        loss, share = history.loss[-1], history.accuracy[-1]
        bar.set_postfix(loss=f"{loss:.3f}", accuracy=f"{share:.0%}", refresh=False)
        bar.update()
        if path is not None and len(history.loss) % every == 0:
            run.save(path, what)
    bar.close()
    if path is not None and len(history.loss) > done:
        run.save(path, what)
    return history


class _Run:
    """All that a training run changes, so that it can be saved and loaded as a whole."""

    def __init__(self, model: nn.Module, steps: int, lr: float, seed: int):
        self.model = model
        self.rng = torch.Generator().manual_seed(seed)
        # fused: one call for all weights; for small models a loop over them takes longer than both
        # passes through the layers.
        how = {"lr": lr, "weight_decay": 0.01, "fused": True}
        self.optimiser = torch.optim.AdamW(model.parameters(), **how)
        self.schedule = warm_up_and_cosine(self.optimiser, steps)
        self.routers = [part for part in model.modules() if isinstance(part, Router)]
        self.history = History()

    def step(self, batch: Any) -> None:
        """One batch: forward, backward, one step of the optimiser."""
        outputs, _ = self.model(batch.tokens)
        loss = task_loss(outputs, batch.targets)
        self.optimiser.zero_grad()
        (loss + auxiliary_loss(self.model)).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.schedule.step()
        for router in self.routers:
            router.update_bias()
        self.history.loss.append(loss.item())
        self.history.accuracy.append(_score(outputs.detach(), batch.targets))

    @property
    def parts(self) -> dict[str, Any]:
        return {"model": self.model, "optimiser": self.optimiser, "schedule": self.schedule}

    def save(self, path: Path, what: dict) -> None:
        """Whole or not at all: a run killed while it writes leaves the older file."""
        kept = {name: part.state_dict() for name, part in self.parts.items()}
        kept |= {"what": what, "history": asdict(self.history)}
        kept |= {"rng": self.rng.get_state(), "torch_rng": torch.get_rng_state()}
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        with part.open("wb") as file:
            torch.save(kept, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)

    def load(self, path: Path, what: dict) -> None:
        kept = torch.load(path, weights_only=True)
        other = [name for name in what if kept["what"].get(name) != what[name]]
        if other:
            raise ValueError(
                f"{path} is the checkpoint of a run with another {' and '.join(other)}: "
                "delete it, or give another file"
            )
        for name, part in self.parts.items():
            part.load_state_dict(kept[name])
        self.rng.set_state(kept["rng"])
        torch.set_rng_state(kept["torch_rng"])
        self.history = History(**kept["history"])


def _is_solved(history: History, solved: float | None) -> bool:
    last = history.accuracy[-SOLVED_OVER:]
    return solved is not None and len(last) == SOLVED_OVER and sum(last) >= solved * SOLVED_OVER


def _fingerprint(task: Task) -> str:
    """The same for equal tasks in another process: an address in memory does not count."""
    return hashlib.sha256(re.sub(r" at 0x[0-9a-f]+", "", repr(task)).encode()).hexdigest()


def task_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy in nats; for targets that are real numbers (NaN: not asked) the mean square."""
    if targets.is_floating_point():
        asked = ~targets.isnan()
        return F.mse_loss(outputs[..., 0][asked], targets[asked])
    return F.cross_entropy(outputs.flatten(0, 1), targets.flatten(), ignore_index=IGNORE)


def _score(outputs: Tensor, targets: Tensor) -> float:
    """The share of right answers; of real numbers, the share of their mean square explained."""
    if targets.is_floating_point():
        mean_square = targets[~targets.isnan()].square().mean()
        return 1 - (task_loss(outputs, targets) / mean_square).item()
    asked = (targets != IGNORE).sum().item()
    return _right(outputs, targets).sum().item() / asked


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
    """The share of right answers among the questions of a batch.

    For real numbers as targets, 1 - mean square error / their mean square.
    """
    model.eval()
    return _score(model(batch.tokens)[0], batch.targets)


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
