r"""An LSTM with peepholes

*Write one step of a cell whose gates can see it. · 10 minutes · ●●○ · 2 points*

The gates of the chapter's LSTM see the cell only through $h = o \tanh(c)$: while the output gate is shut, they are blind. Gers and Schmidhuber (2000)
let them look through *peepholes*, three vectors $p_i, p_f, p_o$ of weights, one number per cell:

$$i = \sigma(\dots + p_i\, c_{t-1}) \qquad f = \sigma(\dots + p_f\, c_{t-1}) \qquad o = \sigma(\dots + p_o\, c_t)$$

The dots are $W x_t + R h_{t-1} + b$, and the candidate g has no peephole. Input and forget gate see the *old* cell, the output gate sees the
*new* one. Write one step for a batch.
"""

import torch

from seqlab.course.exercise import Case
from seqlab.course.exercises.ch02.shared import _randn, _weights
from seqlab.course.exercises.vocabulary import swapped


def peephole(x, h, c, W, R, b, p):
    """One step. x (B, E), h and c (B, D). The rows of W (4D, E), R (4D, D), b (4D,) are those of i, f, g, o.

    p (3, D): the peepholes of i, f, o. Returns (h, c), the new ones.
    """
    ### BEGIN SOLUTION
    i, f, g, o = (x @ W.mT + h @ R.mT + b).chunk(4, dim=-1)
    i = torch.sigmoid(i + p[0] * c)
    f = torch.sigmoid(f + p[1] * c)
    c = f * c + i * torch.tanh(g)
    o = torch.sigmoid(o + p[2] * c)
    return o * torch.tanh(c), c
    ### END SOLUTION


WHY = r"""
**Solution.** The order of the lines is the whole exercise. i and f are made from the old cell, then the cell changes, and o is made from the new
one. A peephole is one number per cell: cell d looks only at itself, so p is multiplied elementwise.

With p = 0 this is the chapter's LSTM.

*Common mistakes:* making o together with i and f, from the old cell; giving g a peephole; forgetting that the rows of p are i, f, o while those of W
are i, f, g, o.
"""

HINTS = (
    "Which gates are needed before the cell can change, and which is needed only afterwards?",
    "i and f from c as given, then c = f c + i tanh(g), then o from the new c.",
    "i = sigmoid(i + p[0] * c); f = sigmoid(f + p[1] * c); c = f * c + i * tanh(g); o = sigmoid(o + p[2] * c).",
)


def reference(x, h, c, W, R, b, p):
    """One matrix over [x, h, c] in float64, its last block diagonal; o in a second product."""
    x, h, c, W, R, b, p = (u.double() for u in (x, h, c, W, R, b, p))
    D = c.shape[1]
    see = torch.cat([torch.diag(p[0]), torch.diag(p[1]), torch.zeros(D, D).double()])
    first = torch.cat([W[: 3 * D], R[: 3 * D], see], dim=1)
    told = torch.cat([x, h, c], dim=1) @ first.T + b[: 3 * D]
    gates = 1 / (1 + (-told[:, : 2 * D]).exp())
    new = gates[:, D:] * c + gates[:, :D] * told[:, 2 * D :].tanh()
    last = torch.cat([W[3 * D :], R[3 * D :], torch.diag(p[2])], dim=1)
    out = 1 / (1 + (-(torch.cat([x, h, new], dim=1) @ last.T + b[3 * D :])).exp())
    return (out * new.tanh()).float(), new.float()


def cases(rng):
    def case(name, B, E, D, scale=1.0, p=None, cell=1.0, b=None):
        inputs = {
            "x": scale * _randn(rng, B, E),
            "h": torch.tanh(_randn(rng, B, D)),
            "c": cell * _randn(rng, B, D),
            **_weights(rng, 4, E, D),
            "p": _randn(rng, 3, D) if p is None else p * torch.ones(3, D),
        }
        return Case(
            name,
            inputs
            if b is None
            else inputs | {"b": torch.tensor(b).repeat_interleave(D)},
        )

    return [
        case("one cell", 1, 1, 1),
        case("E ≠ D", 3, 5, 2),
        case("E = D", 2, 4, 4),
        case("no peepholes", 2, 3, 3, p=0.0),
        case("forget gate 1, input gate 0", 2, 3, 3, b=[-90.0, 90.0, 0.0, 0.0]),
        case("large inputs", 2, 3, 4, 20.0),
        case("a full cell", 2, 2, 5, cell=6.0),
    ]


OUTPUTS = ("h", "c")

TIME_AXIS = None


def _split(x, h, c, W, R, b, p):
    pre = torch.nn.functional.linear(x, W, b) + torch.nn.functional.linear(h, R)
    i, f, g, o = pre.unflatten(-1, (4, -1)).unbind(-2)
    new = torch.sigmoid(torch.addcmul(f, p[1], c)) * c
    new = new + torch.sigmoid(torch.addcmul(i, p[0], c)) * g.tanh()
    return torch.addcmul(o, p[2], new).sigmoid() * new.tanh(), new


def _stacked(x, h, c, W, R, b, p):
    D = c.shape[-1]
    pre = torch.cat([x, h], -1) @ torch.cat([W, R], 1).mT + b
    both = (pre[:, : 2 * D] + torch.cat([p[0] * c, p[1] * c], -1)).sigmoid()
    new = both[:, D:] * c + both[:, :D] * pre[:, 2 * D : 3 * D].tanh()
    return torch.sigmoid(pre[:, 3 * D :] + p[2] * new) * new.tanh(), new


def _by_gate(x, h, c, W, R, b, p):
    gates = [
        torch.einsum("be, de -> bd", x, w) + torch.einsum("bd, ed -> be", h, r) + bias
        for w, r, bias in zip(W.chunk(4), R.chunk(4), b.chunk(4), strict=True)
    ]
    keep, take = (gates[1] + c * p[1]).sigmoid(), (gates[0] + c * p[0]).sigmoid()
    c = keep * c + take * gates[2].tanh()
    return (gates[3] + c * p[2]).sigmoid() * c.tanh(), c


ALTERNATIVES = (_split, _stacked, _by_gate)

MISTAKES = """
c = f * c + i * torch.tanh(g) ⏎ o = torch.sigmoid(o + p[2] * c) → o = torch.sigmoid(o + p[2] * c) ⏎ c = f * c + i * torch.tanh(g)
    The output gate sees the old cell: it must see the new one, so it comes after the cell has changed.
i + p[0] * c → i
    The input gate has no peephole: p_i times the old cell is missing.
f + p[1] * c → f
    The forget gate has no peephole: p_f times the old cell is missing.
o + p[2] * c → o
    The output gate has no peephole: p_o times the new cell is missing.
i, f, g, o = → f, i, g, o =
    Input and forget gate have changed places, their peepholes not: the rows are i, f, g, o.
i, f, g, o = → i, f, o, g =
    Candidate and output gate have changed places: the rows are i, f, g, o.
torch.tanh(g) → torch.tanh(g + p[2] * c)
    The candidate has a peephole: it sees no cell.
torch.tanh(g) → g
    The tanh of the candidate g is missing.
o * torch.tanh(c), c → o * c, c
    The tanh on the way out is missing: h = o tanh(c).
f * c + i → (1 - i) * c + i
    The cell keeps 1 - i of itself: it keeps f, a gate of its own.
p[0] * c → p[1] * c ; f + p[1] * c → f + p[0] * c
    The peepholes of i and f have changed places: the rows of p are i, f, o.
h @ R.mT + b → b
    R h is missing: the gates do not see the last output.
i * torch.tanh(g) → torch.tanh(g)
    The candidate is added in full: the input gate i is missing.
"""

ALSO = (swapped(),)
