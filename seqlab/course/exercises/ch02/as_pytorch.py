r"""Bug hunt: a GRU with other outputs

*Find why weights that worked in PyTorch fail here. · 12 minutes · ●●○ · 2 points*

Somebody loads the weights of a `torch.nn.GRU` into this function. It runs, its shapes are right, the numbers are sensible, and they are not
PyTorch's. It has **two bugs**. Run the cell below: it shows two symptoms. Then write the right version into `as_pytorch`. You may copy the
code and change a few lines; do not call PyTorch's own GRU.
"""

import torch

from seqlab.course.exercise import Case
from seqlab.course.exercises.ch02.shared import _randn, _weights
from seqlab.course.exercises.vocabulary import late, old_state, reversed_in_time


def as_pytorch(x, W, R, b, b_R, h):
    """A GRU as PyTorch has it. x (B, T, E), h (B, D). The rows of W (3D, E), R (3D, D), b and b_R (3D,) are those of
    r, z, n; b_R is the bias beside R. Returns (y, h), y (B, T, D), h after the last token.
    """
    ### BEGIN SOLUTION
    ys = []
    for x_t in x.unbind(1):
        r, z, n = (x_t @ W.mT + b).chunk(3, dim=-1)
        r_h, z_h, n_h = (h @ R.mT + b_R).chunk(3, dim=-1)
        r, z = torch.sigmoid(r + r_h), torch.sigmoid(z + z_h)
        n = torch.tanh(n + r * n_h)
        h = z * h + (1 - z) * n
        ys.append(h)
    return torch.stack(ys, dim=1), h
    ### END SOLUTION


WHY = r"""
**The first bug** is the place of the reset gate. The code multiplies the *state*, $R_n (r\,h) + b'_n$, as the paper of 2014 does. PyTorch and
cuDNN multiply the *product*, $r\,(R_n h + b'_n)$. Then all three products with $R$ are one matrix product, which is why cuDNN chose it. And the bias $b'_n$ is inside
the bracket.

**The second bug** is which share is kept. Here $z$ keeps and $1 - z$ writes; the code has it the other way round, as the first paper and some books
do. A network trained with either is as good. Loaded into the other, its gates are open where they should be shut.

*Common mistakes:* moving r behind the matrix but leaving the bias outside it: $r\,R_n h + b'_n$. The difference shows only if that bias is not 0.
"""

HINTS = (
    "There are two bugs: one in what is kept, one in the candidate. Each symptom shows one.",
    "PyTorch: h = z h + (1 - z) n, and n = tanh(W x + b + r (R h + b_R)).",
    "n = torch.tanh(n_x + r * (h @ R_n.mT + b_R_n)), then h = z * h + (1 - z) * n.",
)


def reference(x, W, R, b, b_R, h):
    """PyTorch's own, in float64."""
    x, W, R, b, b_R, h = (u.double() for u in (x, W, R, b, b_R, h))
    y, last = torch.gru(x, h[None], [W, R, b, b_R], True, 1, 0.0, False, False, True)
    return y.float(), last[0].float()


def cases(rng):
    def case(name, B, T, E, D, scale=1.0, z=None):
        inputs = {"x": scale * _randn(rng, B, T, E), **_weights(rng, 3, E, D)}
        inputs |= {"b_R": _randn(rng, 3 * D), "h": torch.tanh(_randn(rng, B, D))}
        if z is not None:
            inputs["b"][D : 2 * D] = z
        return Case(name, inputs)

    return [
        case("T = 1", 1, 1, 2, 2),
        case("odd T", 2, 7, 3, 3),
        case("E ≠ D", 2, 5, 2, 4),
        case("z = 1: everything is kept", 2, 3, 3, 2, z=90.0),
        case("z = 0: everything is new", 2, 3, 3, 2, z=-90.0),
        case("large inputs", 1, 4, 3, 3, 20.0),
        case("longer", 2, 40, 3, 5),
    ]


OUTPUTS = ("y", "h")

TIME_AXIS = {"y": 1, "h": None}


def _sliced(x, W, R, b, b_R, h):
    D, ys = h.shape[-1], []
    for t in range(x.shape[1]):
        told, kept = (
            torch.nn.functional.linear(x[:, t], W, b),
            torch.nn.functional.linear(h, R, b_R),
        )
        gates = (told[:, : 2 * D] + kept[:, : 2 * D]).sigmoid()
        n = (told[:, 2 * D :] + gates[:, :D] * kept[:, 2 * D :]).tanh()
        h = n + gates[:, D:] * (h - n)
        ys.append(h)
    return torch.stack(ys, 1), ys[-1]


def _lerped(x, W, R, b, b_R, h):
    (W_r, W_z, W_n), (R_r, R_z, R_n) = W.chunk(3), R.chunk(3)
    (b_r, b_z, b_n), (c_r, c_z, c_n) = b.chunk(3), b_R.chunk(3)
    y = []
    for x_t in x.transpose(0, 1):
        r = (x_t @ W_r.T + b_r + h @ R_r.T + c_r).sigmoid()
        z = (x_t @ W_z.T + b_z + h @ R_z.T + c_z).sigmoid()
        h = torch.lerp((x_t @ W_n.T + b_n + r * (h @ R_n.T + c_n)).tanh(), h, z)
        y.append(h)
    return torch.stack(y, dim=1), h


ALTERNATIVES = (_sliced, _lerped)

_OWN = "The values are right, but they are those of PyTorch's own GRU: mend the code in the text instead."

RULED_OUT = {"gru": _OWN, "gru_cell": _OWN}

MISTAKES = """
r * n_h) → (r * h) @ R[2 * h.shape[-1] :].mT + b_R[2 * h.shape[-1] :]) ; z * h + (1 - z) * n → (1 - z) * h + z * n
    Both bugs are still there: look at what is kept, and at where r acts.
r * n_h) → (r * h) @ R[2 * h.shape[-1] :].mT + b_R[2 * h.shape[-1] :])
    The kept share is right; the reset gate still multiplies the state, before R. PyTorch multiplies R h + b_R, after it.
z * h + (1 - z) * n → (1 - z) * h + z * n
    The reset gate is right; the kept share is not: z is kept and 1 - z is written.
r * n_h) → r * (n_h - b_R[2 * h.shape[-1] :]) + b_R[2 * h.shape[-1] :])
    r multiplies R h, but the bias beside R is left outside: it is r (R h + b_R).
r, z, n = → z, r, n = ; r_h, z_h, n_h = → z_h, r_h, n_h =
    The two gates have changed places: the rows are r, z, n.
n + r * n_h → n + n_h
    The reset gate is missing from the candidate.
torch.tanh(n + r * n_h) → n + r * n_h
    The tanh of the candidate is missing.
torch.sigmoid(z + z_h) → torch.sigmoid(z)
    The gate z does not see the last state: R h and its bias are missing.
torch.sigmoid(r + r_h) → torch.sigmoid(r)
    The gate r does not see the last state: R h and its bias are missing.
(h @ R.mT + b_R) → (h @ R.mT)
    The bias beside R, b_R, is missing.
torch.tanh(n + r * n_h) → torch.tanh(r * (n + n_h))
    r multiplies the input's part of the candidate too: it acts on R h + b_R only.
"""

ALSO = (late("y"), old_state("h"), reversed_in_time("y"))
