r"""Three eigenvalues

*Parity with a reset, as a recurrence of one number. · 10 minutes · ●●○ · 2 points*

A switch hears three tokens: 0 *leave it*, 1 *turn it over*, 2 *set it to +1*. Its state s is +1 or -1 and starts at `start`. Find a recurrence $s_t = \lambda_t s_{t-1} + b_t$ whose $\lambda_t$ and $b_t$ depend on token t alone,
with $b = 0$ for tokens 0 and 1.

Return `lam`, `b` and the states `s`, each (B, T) of floats. `start` (B,) may be any number: nothing may be rounded to ±1. A model is trained through `start`.
"""

import torch

from seqlab.course.exercise import Case


def turned(tokens, start):
    """Eigenvalues, inputs and states. tokens (B, T) of 0, 1, 2; start (B,); each result (B, T)."""
    ### BEGIN SOLUTION
    lam = torch.tensor([1.0, -1.0, 0.0])[tokens]
    b = torch.tensor([0.0, 0.0, 1.0])[tokens]
    s, states = start, []
    for lam_t, b_t in zip(lam.unbind(1), b.unbind(1), strict=True):
        s = lam_t * s + b_t
        states.append(s)
    return lam, b, torch.stack(states, 1)
    ### END SOLUTION


WHY = r"""
**Solution.** Leaving is the eigenvalue 1, turning over is -1, and setting is 0 with b = 1. The three together are all that a state of two values ever needs. Gates in (0, 1) have the first and the last, as limits; the second is out of their reach. This is what doubling β brings: $1 - \beta$ covers
(-1, 1).

Where it can be done in parallel: two steps in a row are again one such step, $(\lambda_2 \lambda_1,\ \lambda_2 b_1 + b_2)$, so a scan does it in log T turns.

*Common mistakes:* b = 2 with λ = -1 (that turns over 0 and 2, not ±1); a reset that adds 1 to what is there; the state before the token returned.
"""

HINTS = (
    "What does each token do to s? Write it as a product and a sum.",
    "Leave: λ = 1, b = 0. Set to 1: forget everything that was, then add. Turn over: which λ makes +1 of -1 and -1 of +1?",
    "lam = torch.tensor([1.0, -1.0, 0.0])[tokens], b = (tokens == 2).float(); then s = lam_t * s + b_t.",
)


def reference(tokens, start):
    """By counting the turns since the latest reset."""
    B, T = tokens.shape
    lam, b, rows = torch.zeros(B, T), torch.zeros(B, T), []
    for i in range(B):
        row, turns, base = [], 0, start[i]
        for t, token in enumerate(tokens[i].tolist()):
            lam[i, t], b[i, t] = (1, -1, 0)[token], token // 2
            turns = 0 if token == 2 else turns + token
            base = torch.tensor(1.0) if token == 2 else base
            row.append(base * (-1) ** turns)
        rows.append(torch.stack(row))
    return lam, b, torch.stack(rows)


def cases(rng):
    def case(name, B, T, kinds=3, learned=False):
        tokens = torch.randint(kinds, (B, T), generator=rng)
        start = (1 - 2.0 * torch.randint(2, (B,), generator=rng)).requires_grad_(
            learned
        )
        return Case(name, {"tokens": tokens, "start": start})

    anything = case("a start of 0.3", 2, 6, 2)
    anything.inputs["start"] = torch.tensor([0.3, -2.5])
    resets = case("only resets", 2, 4)
    resets.inputs["tokens"].fill_(2)
    ones = case("only turns", 2, 7)
    ones.inputs["tokens"].fill_(1)
    ones.inputs["start"] = torch.tensor([1.0, -1.0])
    return [
        case("T = 1", 6, 1),
        case("no resets", 3, 9, 2),
        case("all tokens", 4, 13),
        ones,
        resets,
        anything,
        case("500 tokens, learned", 2, 500, learned=True),
    ]


OUTPUTS = ("lam", "b", "s")

TIME_AXIS = 1


def _by_products(tokens, start):
    """The state by a running product, begun anew at each reset."""
    lam = 1 - tokens + tokens // 2 * 1.0
    lam = torch.where(tokens == 1, -1.0, lam.clamp(min=0))
    b = (tokens == 2).float()
    signs = torch.where(tokens == 1, -1.0, 1.0).cumprod(1)
    at = torch.where(tokens == 2, torch.arange(tokens.shape[1]), -1).cummax(1).values
    since = signs * torch.where(at >= 0, signs.gather(1, at.clamp(min=0)), 1.0)
    return lam, b, torch.where(at >= 0, since, signs * start[:, None])


def _by_where(tokens, start):
    one, zero = torch.ones(tokens.shape), torch.zeros(tokens.shape)
    lam = torch.where(tokens == 0, one, torch.where(tokens == 1, -one, zero))
    b = torch.where(tokens == 2, one, zero)
    s = [start]
    for t in range(tokens.shape[1]):
        s.append(lam[:, t] * s[-1] + b[:, t])
    return lam, b, torch.stack(s[1:], -1)


ALTERNATIVES = (_by_products, _by_where)

MISTAKES = """
torch.tensor([1.0, -1.0, 0.0])[tokens] → torch.tensor([1.0, 0.0, 0.0])[tokens]
    At a turn the old state is forgotten: it must come back with the other sign.
torch.tensor([1.0, -1.0, 0.0])[tokens] → torch.tensor([0.0, -1.0, 0.0])[tokens]
    Token 0 forgets the state: to leave it, multiply by 1.
torch.tensor([1.0, -1.0, 0.0])[tokens] → torch.tensor([1.0, -1.0, 1.0])[tokens]
    A reset adds 1 to what was there: forget it first, with an eigenvalue of 0.
torch.tensor([0.0, 0.0, 1.0])[tokens] → torch.tensor([0.0, 0.0, 0.0])[tokens]
    A reset sets the state to 0: it must become +1.
torch.tensor([0.0, 0.0, 1.0])[tokens] → torch.tensor([0.0, 2.0, 1.0])[tokens]
    With b = 2 at a turn, 0 and 2 change places, not -1 and +1.
torch.tensor([0.0, 0.0, 1.0])[tokens] → torch.tensor([0.0, 0.0, -1.0])[tokens]
    A reset sets the state to -1: it must become +1.
s, states = start, [] → s, states = torch.ones_like(start), []
    `start` is ignored: the state begins there, not at 1.
states.append(s) → states.append(s.sign())
    The states are rounded to ±1: a start of 0.3 must stay 0.3 until it is reset.
torch.stack(states, 1) → torch.stack([start, *states[:-1]], 1)
    The state before each token is returned: s belongs after it.
"""
