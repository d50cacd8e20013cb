r"""One step of the sLSTM

*Write the cell with two exponential gates, stabilised. · 8 minutes · ●○○ · 1 point*

The chapter's sLSTM forgets by $f = σ(\tilde f)$. The paper also allows $f = e^{\tilde f}$, and asks for an output gate $σ(\tilde o)$. Write one step of *that* cell. Four numbers
come from the token (they are called i, f, z and o, before any gate function), three from the state: c and n are divided by $e^m$, and m is $-∞$ before the first token.

Return h, c, n and m after this token. The names of the parameters must stay.
"""

import torch

from seqlab.course.exercise import Case
from seqlab.course.exercises.ch10.shared import randn


def slstm_step(i, f, z, o, c, n, m):
    """One token of c ← eᶠ c + eⁱ tanh(z), n ← eᶠ n + eⁱ, h = σ(o) c / n, with c and n kept divided by eᵐ.

    All inputs have one shape. Returns (h, c, n, m).
    """
    ### BEGIN SOLUTION
    old = f + m
    m = torch.maximum(old, i)
    keep, write = torch.exp(old - m), torch.exp(i - m)
    c = keep * c + write * torch.tanh(z)
    n = keep * n + write
    return torch.sigmoid(o) * c / n, c, n, m
    ### END SOLUTION


WHY = r"""
**Solution.** $\log f$ is $\tilde f$ itself, so the two exponents in play are $\tilde f + m_{t-1}$ and $\tilde\imath$. The larger becomes the new m, and both gates are divided by $e^{m}$. Before the first token $m =
-∞$: then $\tilde f + m = -∞$, its exponential is 0, and m becomes $\tilde\imath$.

*Another way:* one softmax-like pair, `torch.softmax(torch.stack([old, i]), 0)`, has gates that add up to 1. Then n is always 1 and c is h; but that changes the scale that is handed on.

*Common mistakes:* taking m from the gates themselves in place of their exponents; leaving n without the forget gate; dividing by $e^m$ only where something is written.
"""

HINTS = (
    "Work with exponents. Which two are there, that of the old memory and that of the new token?",
    "m = max(f + m_old, i). The gates are exp(f + m_old - m) and exp(i - m).",
    "old = f + m; m = torch.maximum(old, i); c = exp(old - m) * c + exp(i - m) * tanh(z); n likewise with 1; h = sigmoid(o) * c / n.",
)


def reference(i, f, z, o, c, n, m):
    """In float64 with the true logarithms: the sums as log-sum-exps, signs apart."""
    i, f, z, o, c, n, m = (u.double() for u in (i, f, z, o, c, n, m))
    top = torch.where(m.isinf(), i, torch.stack([f + m, i]).amax(0))
    parts = torch.stack([(f + m - top).exp() * c, (i - top).exp() * z.tanh()])
    sizes = torch.stack([(f + m - top).exp() * n, (i - top).exp()])
    c, n = parts.sum(0), sizes.sum(0)
    h = c / n / (1 + (-o).exp())
    return tuple(u.float() for u in (h, c, n, top))


def cases(rng):
    def case(name, *shape, size=2.0, first=False):
        i, f, z, o = size * randn(rng, 4, *shape)
        c, n, m = randn(rng, *shape), 1 + randn(rng, *shape).abs(), randn(rng, *shape)
        if first:
            c, n, m = 0 * c, 0 * n, torch.full_like(m, -torch.inf)
        given = {"i": i, "f": f, "z": z, "o": o}
        given = {name: x.requires_grad_() for name, x in given.items()}
        return Case(name, {**given, "c": c, "n": n, "m": m})

    return [
        case("one number", 1),
        case("a table", 3, 5),
        case("the first token", 2, 4, first=True),
        case("exponents of a hundred", 4, 3, size=100.0),
        case("the first token, exponents of a hundred", 4, size=100.0, first=True),
    ]


def _by_hand(i, f, z, o, c, n, m):
    m, before = torch.max(m + f, i), m
    gate = torch.exp(f + before - m)
    n, c = gate * n + (i - m).exp(), gate * c + (i - m).exp() * z.tanh()
    return o.sigmoid() * (c / n), c, n, m


def _detached(i, f, z, o, c, n, m):
    top = torch.maximum(f + m, i)
    keep, write = (f + m - top).exp(), (i - top).exp()
    c, n = c * keep + write * z.tanh(), n * keep + write
    return c / n / (1 + (-o).exp()), c, n, top


ALTERNATIVES = (_by_hand, _detached)

OUTPUTS = ("h", "c", "n", "m")

TIME_AXIS = None

TOLERANCE = 1e-4

MISTAKES = """
old = f + m → old = torch.nn.functional.logsigmoid(f) + m
    The forget gate is a sigmoid here: this cell forgets by e^f, so its logarithm is f itself.
n = keep * n + write → n = n + write
    The normaliser does not forget: n fades by the same gate as c.
write * torch.tanh(z) → write * z
    tanh is missing: what is written is tanh(z).
torch.sigmoid(o) * c / n → c / n
    The output gate is missing: h is σ(o) c / n.
torch.sigmoid(o) * c / n → torch.sigmoid(o) * c
    h is not divided by the normaliser n.
m = torch.maximum(old, i) → m = torch.maximum(m, i)
    The forget gate is missing from m: the old memory's exponent is f + m.
keep, write = torch.exp(old - m), torch.exp(i - m) → keep, write = torch.exp(f), torch.exp(i - m)
    The old memory was divided by e^(old m) and is not brought to the new scale: its gate is exp(f + old m - new m).
keep, write = torch.exp(old - m), torch.exp(i - m) → keep, write = torch.exp(old - m), torch.exp(i)
    The write is not divided by e^m: its gate is exp(i - m).
n = keep * n + write → n = torch.maximum(keep * n + write, torch.full_like(n, 2.0))
    n is kept from becoming small. It need not: after the stabiliser one of the two gates is exactly 1.
"""
