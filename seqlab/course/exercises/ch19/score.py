r"""Score only what is asked

*Loss and accuracy over the questions of a batch. · 8 minutes · ●○○ · 1 point*

Most positions of a recall text ask nothing; their target is -100. Return two numbers: the mean cross-entropy (in nats) and the share of right answers, both over the **questions of the whole batch**. Every question counts alike,
however many its text has. If a batch asks nothing, both are 0, and nothing may be NaN. The answer is the largest logit. Logits may be in the thousands, and a model is trained through the loss.
"""

import torch

from seqlab.course.exercise import Case
from seqlab.course.exercises.vocabulary import swapped


def score(logits, targets):
    """The mean loss and the share of right answers. logits (B, T, C), targets (B, T), -100: not asked."""
    ### BEGIN SOLUTION
    asked = targets != -100
    n = asked.sum().clamp(min=1)
    wanted = targets.clamp(min=0)[..., None]
    nats = -logits.log_softmax(-1).gather(-1, wanted)[..., 0]
    right = (logits.argmax(-1) == targets) & asked
    return (nats * asked).sum() / n, right.sum() / n
    ### END SOLUTION


WHY = r"""
**Solution.** A mask, two sums, one division. The target -100 cannot be an index, so it is replaced before `gather` and its loss is multiplied by 0 afterwards.

PyTorch's `cross_entropy` has `ignore_index=-100` for the same purpose, but of a batch without questions it returns NaN: 0 divided by 0.

*Common mistakes:* dividing by all positions, which makes the accuracy look tiny; averaging within each text first, which gives the questions of short lists more weight; counting positions that ask nothing as wrong, or as
right.
"""

HINTS = (
    "Which positions count, and by what are the two sums divided?",
    "asked = targets != -100. An index may not be negative: clamp the targets before gather, and mask after it.",
    "nats = -logits.log_softmax(-1).gather(-1, targets.clamp(min=0)[..., None])[..., 0]; divide by asked.sum().clamp(min=1).",
)


def reference(logits, targets):
    """Question by question, in float64."""
    nats, right, n = logits.double().sum() * 0, 0, 0
    for row, wanted in zip(
        logits.double().flatten(0, 1), targets.flatten().tolist(), strict=True
    ):
        if wanted >= 0:
            top = row.max()
            nats = nats + top + (row - top).exp().sum().log() - row[wanted]
            right += int(row.argmax()) == wanted
            n += 1
    return (nats / max(n, 1)).float(), torch.tensor(right / max(n, 1))


def cases(rng):
    def case(name, B, T, C, share, scale=1.0, learned=False):
        targets = torch.randint(C, (B, T), generator=rng)
        hidden = torch.rand(B, T, generator=rng) >= share
        logits = scale * torch.randn(B, T, C, generator=rng)
        # every second answer is right
        likely = (
            torch.nn.functional.one_hot(targets, C) * (torch.arange(T) % 2)[:, None]
        )
        logits = (logits + 3 * scale * likely).requires_grad_(learned)
        return Case(
            name, {"logits": logits, "targets": targets.masked_fill(hidden, -100)}
        )

    uneven = case("texts with one and many questions", 2, 9, 4, 1.0, learned=True)
    uneven.inputs["targets"][0, 1:] = -100
    return [
        case("a single question", 1, 1, 3, 1.0),
        case("T = 1", 4, 1, 3, 1.0),
        case("all asked", 3, 5, 4, 1.0),
        case("some asked", 4, 8, 5, 0.4),
        uneven,
        case("nothing asked", 2, 4, 3, 0.0),
        case("large logits, learned", 3, 7, 4, 0.6, 2000.0, True),
    ]


OUTPUTS = ("loss", "share")

TIME_AXIS = None


def _selected(logits, targets):
    asked = targets >= 0
    if not asked.any():
        return logits.sum() * 0, torch.tensor(0.0)
    x, y = logits[asked], targets[asked]
    loss = torch.nn.functional.cross_entropy(x, y)
    return loss, (x.argmax(-1) == y).float().mean()


def _summed(logits, targets):
    loss = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), reduction="sum"
    )
    n = max(1, int((targets != -100).sum()))
    return loss / n, (logits.argmax(-1) == targets).sum() / n


ALTERNATIVES = (_selected, _summed)

MISTAKES = """
n = asked.sum().clamp(min=1) → n = targets.numel()
    Both sums are divided by all positions: divide by the number of questions.
(nats * asked).sum() / n → (nats * asked).sum()
    The loss is a sum: divide it by the number of questions.
(nats * asked).sum() / n, right.sum() / n → ((nats * asked).sum(1) / asked.sum(1).clamp(min=1)).mean(), (right.sum(1) / asked.sum(1).clamp(min=1)).mean()
    The mean is taken in each text first: every question of the batch counts alike.
(nats * asked).sum() / n → nats.mean()
    Positions that ask nothing are in the loss: mask them.
return (nats * asked).sum() / n, right.sum() / n → return logits.sum() * 0, logits.sum() * 0
    Both numbers are 0 for every batch: only a batch that asks nothing has none.
-logits.log_softmax(-1) → logits.log_softmax(-1)
    The loss is negative: it is minus the log-probability.
(nats * asked).sum() / n → (nats * asked).sum() / n / 0.6931471805599453
    The loss is in bits: nats are asked for.
right = (logits.argmax(-1) == targets) & asked → right = (logits.argmax(-1) == targets) | ~asked
    Positions that ask nothing count as right: leave them out.
right = (logits.argmax(-1) == targets) & asked → right = (logits.argmin(-1) == targets) & asked
    The smallest logit is taken for the answer: it is the largest.
"""

ALSO = (swapped("The outputs have changed places: return (loss, share)."),)
