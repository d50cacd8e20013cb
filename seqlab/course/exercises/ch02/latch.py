r"""Project: a latch

*Set the weights of an LSTM by hand, so that it keeps one bit for as long as you like. · 25 minutes · ●●● · 4 points*

Training found gates that keep a symbol. Now find them by thinking. At each token the input is a pair $x_t = (v, w)$. If $w = 1$, then $v$ is +1 or -1, and the network must *store* it. If
$w = 0$, then $v$ is noise between -1 and 1, and the network must ignore it. A readout $C\,h_t$ must give the value stored last.

Write `latch(length)`, which returns the weights W, R, b of an LSTM as the chapter has it (rows i, f, g, o) and the readout C, for D cells of your choice, so that

- there are **at most 4 cells**, whatever the length;
- right **after a store** $C\,h_t$ is within 0.1 of the value;
- a **new value replaces** the old one: after +1 and then -1, it is within 0.1 of -1;
- **noise is ignored**: after 100 tokens of noise it is still within 0.1;
- it **lasts**: after `length` tokens of noise, it is still within 0.1. The check asks for 100 and for 5,000.

The check starts from $h = c = 0$ and computes in float32.
"""

import torch

from seqlab.course.exercise import Case, Requirement


def latch(length):
    """(W, R, b, C): W (4D, 2), R (4D, D), b (4D,), rows i, f, g, o, and C (D,) with C·h the value that was stored last."""
    ### BEGIN SOLUTION
    #                     v     w
    W = torch.tensor([[0.0, 40.0], [0.0, -40.0], [2.0, 0.0], [0.0, 0.0]])
    b = torch.tensor([-20.0, 20.0, 0.0, 20.0])
    R = torch.zeros(4, 1)
    C = 1 / torch.tensor([2.0]).tanh().tanh()
    return W, R, b, C
    ### END SOLUTION


WHY = r"""
**Solution.** One cell is enough, and h is not needed: R = 0. The flag w alone moves the gates. At w = 1 the input gate is $\sigma(20) ≈ 1$ and the forget gate $\sigma(-20) ≈ 0$, so the cell becomes
$g = \tanh(2v)$, whatever it was. At w = 0 they have changed places, and the cell keeps $1 - 2 · 10^{-9}$ of itself per token, which float32 rounds to 1. The output gate is always open, and C undoes the two
tanh.

That is a flip-flop, and it is why gates are gates. Chapters 05 to 08 build the same from linear parts, where the gates see only $x_t$, as here.

*Other ways:* several cells that share the work; a cell that grows with each store and is read through a saturated tanh; R may keep the value, too.

*Common mistakes:* a bias of 5 keeps 103 tokens, not 5,000; a forget gate that stays open at a store adds the new value to the old one.
"""

HINTS = (
    "Which of the two inputs should the gates see, and which one the candidate? Take one cell and R = 0.",
    "i = σ(40 w - 20), f = σ(20 - 40 w), g = tanh(2 v), o = 1. What does h hold after a store of ±1?",
    "W = [[0, 40], [0, -40], [2, 0], [0, 0]], b = [-20, 20, 0, 20], R = 0, and C = 1 / tanh(tanh(2)).",
)

SECONDS = 10.0


def cases(rng):
    return [Case(f"{n:,} tokens", {"length": n}) for n in (100, 5000)]


def read_out(value, x):
    """C·h after each token of x (B, T, 2)."""
    W, R, b, C = (u.detach().float() for u in value)
    zero = torch.zeros(1, len(x), R.shape[1])
    weights = [W, R, b, torch.zeros_like(b)]
    h, _, _ = torch.lstm(x, (zero, zero), weights, True, 1, 0.0, False, False, True)
    return h @ C


def stores(*signs):
    """Texts of two rows: the values in `signs`, and their opposites, one at a token."""
    v = torch.tensor([signs, signs]) * torch.tensor([[1.0], [-1.0]])
    return torch.stack([v, torch.ones_like(v)], dim=-1)


def noise(length):
    v = 2 * torch.rand(2, length, generator=torch.Generator().manual_seed(length)) - 1
    return torch.stack([v, torch.zeros_like(v)], dim=-1)


def off(values, x, wanted):
    """The largest distance of the last readout from ±wanted."""
    target = wanted * torch.tensor([1.0, -1.0])
    found = max((read_out(v, x)[:, -1] - target).abs().max().item() for v in values)
    return found if found == found else float("inf")


def right_shapes(inputs, values):
    for W, R, b, C in values:
        D = R.shape[-1]
        if (
            W.shape != (4 * D, 2)
            or R.shape != (4 * D, D)
            or b.shape != (4 * D,)
            or C.shape != (D,)
        ):
            return (
                False,
                f"W {tuple(W.shape)}, R {tuple(R.shape)}, b {tuple(b.shape)}, C {tuple(C.shape)}",
            )
    return True, "they fit"


def few(inputs, values):
    n = max(R.shape[1] for _, R, _, _ in values)
    return n <= 4, f"{n} cells"


def stored(inputs, values):
    found = off(values, stores(1.0), 1.0)
    return found <= 0.1, f"off by {found:.2f}"


def replaced(inputs, values):
    found = max(
        off(values, stores(1.0, -1.0), -1.0), off(values, stores(1.0, 1.0, -1.0), -1.0)
    )
    return found <= 0.1, f"off by {found:.2f}"


def ignored(inputs, values):
    found = off(values, torch.cat([stores(1.0), noise(100)], dim=1), 1.0)
    return found <= 0.1, f"off by {found:.2f}"


def lasts(inputs, values):
    found = max(
        off([value], torch.cat([stores(1.0), noise(i["length"])], dim=1), 1.0)
        for i, value in zip(inputs, values, strict=True)
    )
    return found <= 0.1, f"off by {found:.2f}"


REQUIREMENTS = (
    Requirement(
        "W (4D, 2), R (4D, D), b (4D,), C (D,)",
        right_shapes,
        "The shapes do not fit: W must be (4D, 2), R (4D, D), b (4D,) and C (D,), with one D.",
    ),
    Requirement(
        "at most 4 cells",
        few,
        "There are too many cells: at most 4, also for 5,000 tokens.",
    ),
    Requirement(
        "a store is read at once",
        stored,
        "Right after a store, C·h is not the value: is the input gate open at w = 1, and what do the two tanh make of ±1?",
    ),
    Requirement(
        "a new value replaces the old",
        replaced,
        "A second store does not replace the first: what should the forget gate be at w = 1?",
    ),
    Requirement(
        "noise is ignored",
        ignored,
        "A hundred tokens of noise change the readout: is the input gate shut at w = 0, and the forget gate open?",
    ),
    Requirement(
        "it lasts",
        lasts,
        "A hundred tokens are survived, thousands are not: what is the half-life of your forget gate, and how much noise comes in?",
    ),
)


def _two_cells(length):
    W, _, b, C = latch(length)
    return (
        W.repeat_interleave(2, 0),
        torch.zeros(8, 2),
        b.repeat_interleave(2),
        C.repeat(2) / 2,
    )


def _saturated(length):
    """A large cell, read through a tanh that is flat: it must be overwritten all the same."""
    W = torch.tensor([[0.0, 60.0], [0.0, -60.0], [30.0, 0.0], [0.0, 0.0]])
    b = torch.tensor([-30.0, 30.0, 0.0, 30.0])
    return W, torch.zeros(4, 1), b, torch.ones(1) / torch.ones(1).tanh()


def _through_h(length):
    """The candidate sees h too, a little: the flag is what counts."""
    W, R, b, C = latch(length)
    R = R.clone()
    R[2] = 0.01
    return W, R, b, C


OUTPUTS = ("W", "R", "b", "C")

ALTERNATIVES = (_two_cells, _saturated, _through_h)

MISTAKES = """
torch.zeros(4, 1) → torch.zeros(1, 4)
    The shapes do not fit: W must be (4D, 2), R (4D, D), b (4D,) and C (D,), with one D.
return W, R, b, C → return W.repeat_interleave(5, 0), torch.zeros(20, 5), b.repeat_interleave(5), C.repeat(5) / 5
    There are too many cells: at most 4, also for 5,000 tokens.
1 / torch.tensor([2.0]).tanh().tanh() → torch.ones(1)
    Right after a store, C·h is not the value: is the input gate open at w = 1, and what do the two tanh make of ±1?
[0.0, -40.0] → [0.0, 0.0]
    A second store does not replace the first: what should the forget gate be at w = 1?
torch.tensor([-20.0, 20.0, 0.0, 20.0]) → torch.tensor([-2.0, 20.0, 0.0, 20.0])
    A hundred tokens of noise change the readout: is the input gate shut at w = 0, and the forget gate open?
torch.tensor([-20.0, 20.0, 0.0, 20.0]) → torch.tensor([-20.0, 8.0, 0.0, 20.0])
    A hundred tokens are survived, thousands are not: what is the half-life of your forget gate, and how much noise comes in?
"""
