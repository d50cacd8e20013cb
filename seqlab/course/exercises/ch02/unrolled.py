r"""Elman, for texts of different lengths

*Unroll a recurrence over a padded batch. · 8 minutes · ●○○ · 1 point*

A batch holds sequences of different lengths, filled up with padding to T tokens. The recurrence is the chapter's,
$h_t = \tanh(W x_t + R h_{t-1} + b)$, but what is padding must not change a state: from its end on, a sequence keeps its last state. A sequence may
have length 0; then it keeps the state that it was given.

Write `unrolled(x, W, R, b, h, lengths)`.
"""

import torch

from seqlab.course.exercise import Case
from seqlab.course.exercises.ch02.shared import _randn, _weights
from seqlab.course.exercises.vocabulary import late, old_state, reversed_in_time


def unrolled(x, W, R, b, h, lengths):
    """All states. x (B, T, E), W (D, E), R (D, D), b (D,), h (B, D), lengths (B,) whole numbers from 0 to T.

    Returns (y, h): y (B, T, D), the state after each token, and h (B, D), the state after the last.
    """
    ### BEGIN SOLUTION
    ys = []
    for t in range(x.shape[1]):
        new = torch.tanh(x[:, t] @ W.mT + h @ R.mT + b)
        h = torch.where((t < lengths)[:, None], new, h)
        ys.append(h)
    return torch.stack(ys, dim=1), h
    ### END SOLUTION


WHY = r"""
**Solution.** One line is the equation, in rows: `x @ W.mT` is $W x$ for each sequence of the batch. The next line takes the new state where the
text still runs, and the old one where it has ended. So the last state of every row is that of its own end, and no index is needed to find it.

**Another way.** Compute all states as if there were no padding, then pick the state at `lengths - 1`. For y one would still have to repeat it.

*Common mistakes:* token t is the (t + 1)-th, so it counts if t < length. Setting the state to 0 at the padding loses what the sequence had
read.
"""

HINTS = (
    "Write the loop without lengths first. Then: where does a row take the new state, and where does it keep its old one?",
    "torch.where(condition, new, h) with a condition of shape (B, 1): t < lengths, with one more axis.",
    "new = torch.tanh(x[:, t] @ W.mT + h @ R.mT + b); h = torch.where((t < lengths)[:, None], new, h); collect h.",
)


def reference(x, W, R, b, h, lengths):
    """One sequence at a time, in float64, with column vectors."""
    T, ys = x.shape[1], []
    W, R, b = W.double(), R.double(), b.double()
    for x_row, state, length in zip(
        x.double(), h.double(), lengths.tolist(), strict=True
    ):
        states = []
        for t in range(T):
            if t < length:
                state = (W @ x_row[t] + R @ state + b).tanh()
            states.append(state)
        ys.append(torch.stack(states))
    y = torch.stack(ys).float()
    return y, y[:, -1]


def cases(rng):
    def case(name, lengths, T, E, D, scale=1.0):
        B = len(lengths)
        inputs = {"x": scale * _randn(rng, B, T, E), **_weights(rng, 1, E, D)}
        inputs |= {"h": torch.tanh(_randn(rng, B, D)), "lengths": torch.tensor(lengths)}
        return Case(name, inputs)

    return [
        case("T = 1", [1, 1], 1, 3, 3),
        case("all of one length", [5, 5], 5, 3, 3),
        case("odd T, different lengths", [7, 4, 1], 7, 2, 5),
        case("a sequence of length 0", [0, 6, 3], 6, 4, 2),
        case("large inputs", [3, 2], 3, 2, 4, 30.0),
        case("longer", [40, 17], 40, 3, 6),
    ]


OUTPUTS = ("y", "h")

TIME_AXIS = {"y": 1, "h": None}


def _arithmetic(x, W, R, b, h, lengths):
    ys, drive = [], torch.einsum("bte, de -> btd", x, W) + b
    for t, d in enumerate(drive.unbind(1)):
        runs = (lengths > t).to(x.dtype).unsqueeze(-1)
        h = runs * torch.tanh(d + torch.einsum("bd, ed -> be", h, R)) + (1 - runs) * h
        ys.append(h)
    return torch.stack(ys, 1), ys[-1]


def _by_row(x, W, R, b, h, lengths):
    y = x.new_empty(*x.shape[:2], len(R))
    for row, length in enumerate(lengths.tolist()):
        state = h[row]
        for t in range(x.shape[1]):
            state = torch.tanh(W @ x[row, t] + R @ state + b) if t < length else state
            y[row, t] = state
    return y, y[:, -1].clone()


def _then_picked(x, W, R, b, h, lengths):
    states = [h]
    for t in range(x.shape[1]):
        states.append(
            torch.tanh(
                torch.cat([x[:, t], states[-1]], -1) @ torch.cat([W, R], 1).mT + b
            )
        )
    states = torch.stack(states, 1)
    t = torch.minimum(torch.arange(1, x.shape[1] + 1), lengths[:, None])
    y = states.gather(1, t[..., None].expand(-1, -1, len(R)))
    return y, y[:, -1]


ALTERNATIVES = (_arithmetic, _by_row, _then_picked)

MISTAKES = """
torch.where((t < lengths)[:, None], new, h) → new
    The lengths are ignored: padding goes on changing the states of sequences that have ended.
t < lengths → t <= lengths
    Each shorter sequence reads one token of padding: token t counts if t < length, as counting starts at 0.
torch.where((t < lengths)[:, None], new, h) → torch.where((t < lengths)[:, None], new, 0 * h)
    At the padding your states become 0: they must stay what they were at the end of the sequence.
x[:, t] @ W.mT → (x[:, t] * (t < lengths)[:, None]) @ W.mT ; torch.where((t < lengths)[:, None], new, h) → new
    The padding is set to 0, but a step with an input of 0 still changes the state: no step may be taken there.
ys.append(h) → ys.append(h * (t < lengths)[:, None])
    Your y is 0 at the padding: there it repeats the last state of the sequence.
ys.append(h) → ys.append(new)
    The state that is handed on is right, but y at the padding is that of a further step: there y repeats the last state of the sequence.
ys = [] → ys, h = [], torch.zeros_like(h)
    The given h is ignored: the first step starts from it, not from 0.
h = torch.where((t < lengths)[:, None], new, h) → h = new ; return torch.stack(ys, dim=1), h → y = torch.stack(ys, dim=1); return y, y[torch.arange(len(lengths)), lengths - 1]
    y goes on changing at the padding, and h is picked at lengths - 1. That is right only for sequences of one token or more: at length 0 the index is -1, which is the last token.
h @ R.mT → h @ R
    The state is multiplied by Rᵀ: in rows, R h is h @ R.mT.
+ b) → )
    The bias b is missing.
torch.tanh(x[:, t] @ W.mT + h @ R.mT + b) → x[:, t] @ W.mT + h @ R.mT + b
    The tanh is missing: this is a linear recurrence.
x[:, t] @ W.mT + h @ R.mT + b) → x[:, t] @ W.mT + b) + h @ R.mT
    R h is added outside the tanh: it belongs inside.
h @ R.mT → 0 * (h @ R.mT)
    No state is carried: R h_{t-1} is missing, so each token is read alone.
torch.tanh(x[:, t] → torch.sigmoid(x[:, t]
    The nonlinearity is a sigmoid: the text asks for tanh.
t < lengths → t > lengths
    The condition is turned around: new states are taken at the padding, and the text is skipped.
h = torch.where((t < lengths)[:, None], new, h) → new = torch.where((t < lengths)[:, None], new, h) ; ys.append(h) → ys.append(new)
    Each step starts from the state that was given, not from the state of the step before.
"""

ALSO = (
    late("state"),
    old_state("h"),
    reversed_in_time("y"),
)
