r"""Token shift in packed texts

*Mix each token with the one before it, but not across the border of two documents. · 6 minutes · ●○○ · 1 point*

The chapter's token shift mixes $x_t$ with $x_{t-1}$. In training, several documents are often packed into one row. `first` says where a document begins; a first token has nothing before it (zeros), like
the first of all. At the first token of a row that goes on with a document from the call before, the token before is `last`.

Return $\mu\, x_t + (1 - \mu)\, x_{t-1}$ for all tokens, and the `last` for the next call. The names of the parameters must stay.
"""

import torch

from seqlab.course.exercise import Case
from seqlab.course.exercises.ch09.shared import rand, randn


def shift(x, mu, last, first):
    """x (B, T, D), mu (D,), last (B, D), first (B, T), True where a document begins. Returns y (B, T, D) and last (B, D)."""
    ### BEGIN SOLUTION
    before = torch.cat([last[:, None], x[:, :-1]], dim=1)
    before = before.masked_fill(first[..., None], 0.0)
    return mu * x + (1 - mu) * before, x[:, -1]
    ### END SOLUTION


WHY = r"""
**Solution.** Put `last` in front, drop the last token: that is $x_{t-1}$ for all tokens at once. Then clear it where a document begins. The next call needs the last *input*, not the last output: the mix of two tokens is
not what stood there.

*Another way:* `torch.where(first[..., None], 0, before)`. Multiplying by `~first` is the same, unless x holds inf.

*Common mistakes:* μ as the share of the old token (RWKV-6 and -7 store it that way); clearing $x_t$ in place of $x_{t-1}$; the last output as state.
"""

HINTS = (
    "Build x_{t-1} for all tokens first: what belongs in front of the first token?",
    "torch.cat([last[:, None], x[:, :-1]], dim=1), then zeros where `first` is True.",
    "before.masked_fill(first[..., None], 0.0); y = mu * x + (1 - mu) * before; the new last is x[:, -1].",
)


def reference(x, mu, last, first):
    """Token by token."""
    ys, before = [], last
    for t in range(x.shape[1]):
        before = torch.where(first[:, t, None], torch.zeros_like(before), before)
        ys.append(before + (x[:, t] - before) * mu)
        before = x[:, t]
    return torch.stack(ys, 1), before


def cases(rng):
    def case(name, B, T, D, starts=0.0, mu=None):
        inputs = {
            "x": randn(rng, B, T, D),
            "mu": rand(rng, D),
            "last": randn(rng, B, D),
        }
        if mu is not None:
            inputs["mu"] = torch.full((D,), mu)
        inputs = {name: u.requires_grad_() for name, u in inputs.items()}
        return Case(name, inputs | {"first": rand(rng, B, T) < starts})

    return [
        case("T = 1", 2, 1, 3),
        case("one document that goes on", 2, 5, 3),
        case("packed documents", 3, 11, 4, 0.4),
        case("every token begins one", 1, 4, 3, 1.1),
        case("mu is 1", 2, 4, 3, 0.3, 1.0),
        case("mu is 0", 2, 6, 3, 0.3, 0.0),
    ]


OUTPUTS = ("y", "last")

TIME_AXIS = {"y": 1, "last": None}


def _by_roll(x, mu, last, first):
    before = x.roll(1, 1)
    before = torch.where(torch.arange(x.shape[1])[:, None] == 0, last[:, None], before)
    before = torch.where(first[..., None], torch.zeros_like(x), before)
    return torch.lerp(before, x, mu), x[:, -1]


def _by_product(x, mu, last, first):
    before = torch.cat([last.unsqueeze(1), x], 1)[:, :-1] * (~first)[..., None]
    return before + mu * (x - before), x[:, -1]


ALTERNATIVES = (_by_roll, _by_product)

MISTAKES = """
mu * x + (1 - mu) * before → (1 - mu) * x + mu * before
    The shares have changed places: mu is that of x_t, 1 - mu that of the token before.
before = before.masked_fill(first[..., None], 0.0) →
    The first token of a document is mixed with the last of another: where `first` is True there is nothing before.
torch.cat([last[:, None], x[:, :-1]], dim=1) → torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], dim=1)
    `last` is not used: a row may go on with a document from the call before.
torch.cat([last[:, None], x[:, :-1]], dim=1) → torch.cat([x[:, 1:], last[:, None]], dim=1)
    This mixes with the token after: the model would see the future.
mu * x + (1 - mu) * before, x[:, -1] → mu * x + (1 - mu) * before, (mu * x + (1 - mu) * before)[:, -1]
    The new last is the mix: the next call needs the last input itself.
mu * x + (1 - mu) * before, x[:, -1] → mu * x + (1 - mu) * before, last
    The last that you return is the one you were given: return that of this call.
mu * x + (1 - mu) * before → torch.where(first[..., None], x, mu * x + (1 - mu) * before)
    At the first token of a document x is taken whole: its share is mu there as well, and the rest is 0.
"""
