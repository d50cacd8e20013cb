"""One plain training loop, and the accuracy of what came out of it."""

import time
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Bool
from torch import Tensor
from tqdm.auto import tqdm

from seqlab.ffn import auxiliary_loss
from seqlab.tasks import IGNORE


@dataclass
class History:
    """Loss (nats per asked token) and accuracy of every training step, and the seconds the run
    took.
    """

    loss: list[float] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    seconds: float = 0.0


def train(model, task, *, steps=300, batch_size=32, lr=3e-3, seed=0, label="training") -> History:
    """Train on fresh batches of `task` with AdamW: linear warm-up over a tenth of the steps, then
    cosine to 0.

    A mixture of experts is kept balanced as its router asks: by a loss beside the task's, or by
    moving its bias.
    """
    rng, history, start = torch.Generator().manual_seed(seed), History(), time.perf_counter()
    optimiser = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01)
    warm_up = max(steps // 10, 1)
    schedule = torch.optim.lr_scheduler.SequentialLR(
        optimiser,
        [
            torch.optim.lr_scheduler.LinearLR(optimiser, 1 / warm_up, total_iters=warm_up),
            torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(steps - warm_up, 1)),
        ],
        [warm_up],
    )
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
        for router in (m for m in model.modules() if hasattr(m, "update_bias")):
            router.update_bias()
        history.loss.append(loss.item())
        history.accuracy.append(
            _right(logits, batch.targets).sum().item() / (batch.targets != IGNORE).sum().item()
        )
        bar.set_postfix(
            loss=f"{history.loss[-1]:.3f}", accuracy=f"{history.accuracy[-1]:.0%}", refresh=False
        )
    history.seconds = time.perf_counter() - start
    return history


@torch.inference_mode()
def evaluate(model, task, *, n=1000, seed=10_000):
    """Fresh sequences the model has not seen: (batch, right), where right (B, T) is True at each
    correct answer.

    Positions that ask nothing (batch.targets == IGNORE) are False in `right`: divide by the number
    asked.
    """
    model.eval()
    batch = task.batch(n, torch.Generator().manual_seed(seed))
    return batch, _right(model(batch.tokens)[0], batch.targets)


def _right(logits, targets) -> Bool[Tensor, "B T"]:
    return (logits.argmax(-1) == targets) & (targets != IGNORE)
