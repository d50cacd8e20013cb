r"""Project: the highest bid, by hand

*Choose the gates of one cell so that it solves the chapter's task without training. · 20 minutes · ●●● · 3 points*

The chapter trained models on `Largest`: a token is `letter + 4 · bid`, with four letters and bids 0 to 5, and the letter of the highest bid so far is asked for. Of equal bids the *latest* counts. Here *you* choose the numbers. Write `gates(tokens)`,
which returns `(i, log_f)` for one cell, both (T,): the cell is the chapter's `stable_cell`, its values $z_t$ are the letters as one-hot vectors, and its answer is the largest entry of $h_t$.

- right at **every** token of texts of up to 2,000 tokens, with the winner's share of $h$ at least 0.6;
- the numbers of a token depend on that token alone;
- `log_f` is between -3 and 0; i and log_f are finite in float32.
"""

import torch

from seqlab.course.exercise import Case, Requirement
from seqlab.tasks import Largest


def gates(tokens):
    """The exponent of each token's write and the logarithm of its forget gate. tokens (T,) of 0 .. 23. Returns (i, log_f), float32."""
    ### BEGIN SOLUTION
    bid = tokens // 4
    return 5000.0 * bid, torch.full(tokens.shape, -2.0)
    ### END SOLUTION


WHY = r"""
**Solution.** The weight of token s in the read of token t is $e^{\tilde\imath_s + (t - s) \log f}$. Among equal bids the latest must outweigh *all* earlier ones together: $\sum_{n ≥ 1} e^{n \log f} < 1$, so $f < ½$; with $f = e^{-2}$ the latest has 86 %. And a higher
bid must win however old it is: over 2,000 tokens it fades by $e^{-4000}$, so one step of the bid has to be worth more than that: 5,000.

$e^{25000}$ is far beyond any floating point number. The stabiliser makes it an ordinary choice: only differences of exponents count, and those that are far apart are simply 0 and 1. Without it, and with gates below 1, no choice works.

*Common mistakes:* f = 1, with which all equal bids count the same; a step that suffices for 32 tokens and not for 2,000; a log_f that depends on the bid (an old high bid must not be cleared by a low one).
"""

HINTS = (
    "Write down the logarithm of the weight of token s in the read at t. What must its differences be?",
    "Equal bids: the latest must outweigh all earlier ones, so f < ½. Higher bids: one step of i must beat 2,000 tokens of fading.",
    "log_f = -2 everywhere; i = 5000 * (tokens // 4).",
)


def cases(rng):
    def text(name, length, n_bids=6):
        tokens = Largest(n_bids, 4, length).batch(1, rng).tokens[0]
        return Case(name, {"tokens": tokens})

    long = torch.randint(4, (2000,), generator=rng)
    long[0] = 4 + 2  # one bid of 1, then only bids of 0
    ties = torch.randint(4, (300,), generator=rng) + 20
    return [
        text("one token", 1),
        text("a text", 60),
        text("a long text", 600),
        Case("one higher bid, then 1,999 lower ones", {"tokens": long}),
        Case("nothing but the highest bid", {"tokens": ties}),
    ]


def cell(tokens, i, log_f):
    """Every h (T, 4), in float64."""
    z = torch.nn.functional.one_hot(tokens % 4, 4).double()
    c, n, m, hs = torch.zeros(4).double(), 0.0, torch.tensor(-torch.inf).double(), []
    for z_t, i_t, f_t in zip(z, i.double(), log_f.double(), strict=True):
        old, m = f_t + m, torch.maximum(f_t + m, i_t)
        c = (old - m).exp() * c + (i_t - m).exp() * z_t
        n = (old - m).exp() * n + (i_t - m).exp()
        hs.append(c / n)
    return torch.stack(hs)


def winners(tokens):
    best, found = (-1, 0), []
    for token in tokens.tolist():
        if token // 4 >= best[0]:
            best = token // 4, token % 4
        found.append(best[1])
    return torch.tensor(found)


def right_shapes(inputs, values):
    for i, parts in zip(inputs, values, strict=True):
        if [tuple(p.shape) for p in parts] != [tuple(i["tokens"].shape)] * 2:
            return False, ", ".join(str(tuple(p.shape)) for p in parts)
    return True, "they fit"


def in_range(inputs, values):
    i, log_f = (torch.cat([v[n].flatten() for v in values]) for n in (0, 1))
    low, high = log_f.min().item(), log_f.max().item()
    fine = bool(i.isfinite().all()) and low >= -3 and high <= 0
    return fine, f"log_f from {low:.3g} to {high:.3g}"


def of_the_token_alone(inputs, values):
    seen = {}
    for given, parts in zip(inputs, values, strict=True):
        rows = torch.stack([p.double() for p in parts], 1)
        for token, row in zip(given["tokens"].tolist(), rows, strict=True):
            if not torch.equal(row, seen.setdefault(token, row)):
                return False, f"token {token} has different numbers at different places"
    return True, "they do"


def worst(inputs, values, which):
    """The smallest share that the right letter has."""
    least = 1.0
    for at, (given, (i, log_f)) in enumerate(zip(inputs, values, strict=True)):
        if at in which:
            h = cell(given["tokens"], i, log_f)
            share = h.gather(1, winners(given["tokens"])[:, None]).nan_to_num(0.0)
            least = min(least, share.min().item())
    return least >= 0.6, f"the right letter has at least {least:.0%}"


REQUIREMENTS = (
    Requirement(
        "i and log_f (T,)",
        right_shapes,
        "The shapes do not fit: i and log_f have one number for each token.",
    ),
    Requirement(
        "numbers in range",
        in_range,
        "Some number is out of range: log_f lies between -3 and 0, and i is finite.",
    ),
    Requirement(
        "of the token alone",
        of_the_token_alone,
        "The numbers of a token depend on where it stands: a gate sees the token and nothing else.",
    ),
    Requirement(
        "the latest of equal bids",
        lambda i, v: worst(i, v, (0, 4)),
        "Among equal bids the latest does not win: it must outweigh all earlier ones together, so f has to be below ½.",
    ),
    Requirement(
        "higher bids win",
        lambda i, v: worst(i, v, (1, 2)),
        "In a text of a few hundred tokens a higher bid loses: one step of the bid must outweigh all that the forget gate does in that time.",
    ),
    Requirement(
        "2,000 tokens",
        lambda i, v: worst(i, v, (3,)),
        "A higher bid is forgotten within 2,000 tokens: how large is the fading by then, as an exponent?",
    ),
)


def _by_table(tokens):
    table = torch.arange(6).repeat_interleave(4) * 3000.0
    return table[tokens], torch.full((24,), -1.2)[tokens]


ALTERNATIVES = (_by_table,)

OUTPUTS = ("i", "log_f")

MISTAKES = """
5000.0 * bid, torch.full(tokens.shape, -2.0) → (5000.0 * bid)[:, None], torch.full(tokens.shape, -2.0)[:, None]
    The shapes do not fit: i and log_f have one number for each token.
-2.0 → -4.0
    Some number is out of range: log_f lies between -3 and 0, and i is finite.
5000.0 * bid → 5000.0 * bid + torch.arange(len(tokens))
    The numbers of a token depend on where it stands: a gate sees the token and nothing else.
-2.0 → 0.0
    Among equal bids the latest does not win: it must outweigh all earlier ones together, so f has to be below ½.
5000.0 → 30.0
    In a text of a few hundred tokens a higher bid loses: one step of the bid must outweigh all that the forget gate does in that time.
5000.0 → 2000.0
    A higher bid is forgotten within 2,000 tokens: how large is the fading by then, as an exponent?
"""
