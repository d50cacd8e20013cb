r"""Project: five instructions

*Choose RWKV-7's gates by hand, so that its table becomes a set of registers. · 20 minutes · ●●● · 3 points*

A head of RWKV-7 with K = 4 and V = 1 shall be a little machine with four registers. Each token is an instruction for one register, given as `(op, register, number)`:

| op | what it does to the register |
|---|---|
| 0 | *set* it to the number |
| 1 | *add* the number to it |
| 2 | *halve* it |
| 3 | *clear* it |
| 4 | *read*: y must be what it holds |

Write `gates(op, register, number)`, which returns $q, k, v, w, κ, a$ for all tokens: q, k, w, κ and a are (T, 4), v is (T, 1). The machine is the chapter's `goose`: $S ← S\,(\mathrm{diag}(w) - κ\,(a \odot κ)^\top) + v k^\top$, then $y = S q$.

- Right at every read of texts of up to 2,000 tokens, to 0.01; the other registers keep what they hold.
- κ has length 1, a is between 0 and 1, w is between 0.545 and 1 (both ends allowed).
- The numbers of a token depend on that token alone.
"""

import torch
import torch.nn.functional as F

from seqlab.course.exercise import Case, Requirement


def gates(op, register, number):
    """op and register (T,) of whole numbers, number (T,). Returns q, k, v, w, kappa and a: all (T, 4), but v (T, 1)."""
    ### BEGIN SOLUTION
    here = F.one_hot(register, 4).float()
    erase = torch.tensor([1.0, 0.0, 0.5, 1.0, 0.0])[op]
    write = (op < 2).float()
    a = erase[:, None].expand(-1, 4)
    k = write[:, None] * here
    return here, k, number[:, None], torch.ones_like(here), here, a
    ### END SOLUTION


WHY = r"""
**Solution.** One key channel is one register. With κ = the register's own direction the gate multiplies it by $w - a$ and leaves the others at $w$. So w = 1 keeps the others, and a = 1 clears, a = ½ halves, a = 0 keeps. *Set* is clear and write in one token, *add* only writes.

A decay alone could do this with columns as registers as well ($w$ near 0 clears a column). But RWKV-7's w is at least 0.545: it needs the erasing. And a learned κ may be *any* direction, so registers need not be columns.

What no choice can do: negate a register. That needs $w - a = -1$, and the smallest is $0.545 - 1$.

*Common mistakes:* w below 1 somewhere, which fades the other registers; k left on at *read*; a = 1 at *add*.
"""

HINTS = (
    "Let each key channel be a register. What does the gate do to a channel if κ points along it?",
    "It multiplies that channel by w - a, and the others by w. Which a sets, adds, halves, clears?",
    "kappa = one_hot(register); w = 1; a = 1, 0, 0.5, 1, 0 by op; k = one_hot where op < 2; q = one_hot.",
)


def cases(rng):
    def program(name, T, ops=(0, 1, 2, 3, 4)):
        op = torch.tensor(ops)[torch.randint(len(ops), (T,), generator=rng)]
        register = torch.randint(4, (T,), generator=rng)
        number = torch.randint(-9, 10, (T,), generator=rng).float()
        return Case(name, {"op": op, "register": register, "number": number})

    long = program("set once, then 1,990 reads and a few halves elsewhere", 2000, (4,))
    long.inputs["op"][:4] = 0
    long.inputs["register"][:4] = torch.arange(4)
    long.inputs["op"][10:16] = 2
    long.inputs["register"][10:16] = 3
    return [
        program("one token", 1),
        program("set and read", 60, (0, 4)),
        program("set, add and read", 60, (0, 1, 4)),
        program("set, halve and read", 60, (0, 2, 4)),
        program("set, clear and read", 60, (0, 3, 4)),
        program("all instructions", 500),
        long,
    ]


NAMES = ("q", "k", "v", "w", "kappa", "a")


def run(parts):
    """Every y (T,), in float64."""
    q, k, v, w, kappa, a = (x.detach().double() for x in parts)
    S, ys = torch.zeros(1, 4).double(), []
    for q_t, k_t, v_t, w_t, e, a_t in zip(q, k, v, w, kappa, a, strict=True):
        S = S * w_t - torch.outer(S @ e, a_t * e) + torch.outer(v_t, k_t)
        ys.append((S @ q_t)[0])
    return torch.stack(ys)


def expected(op, register, number):
    """What each token's register holds after it."""
    held, found = [0.0] * 4, []
    rows = zip(op.tolist(), register.tolist(), number.tolist(), strict=True)
    for what, at, x in rows:
        held[at] = [x, held[at] + x, held[at] / 2, 0.0, held[at]][what]
        found.append(held[at])
    return torch.tensor(found).double()


def right_shapes(inputs, values):
    for given, parts in zip(inputs, values, strict=True):
        T = len(given["op"])
        shapes = [tuple(x.shape) for x in parts]
        if shapes != [(T, 1 if name == "v" else 4) for name in NAMES]:
            return False, ", ".join(map(str, shapes))
    return True, "they fit"


def in_range(inputs, values):
    w, kappa, a = (
        torch.cat([parts[i].double() for parts in values]) for i in (3, 4, 5)
    )
    off = (kappa.norm(dim=1) - 1).abs().max().item()
    fine = off < 1e-4 and a.min() >= 0 and a.max() <= 1
    fine = fine and w.min() >= 0.545 and w.max() <= 1
    said = f"w from {w.min():.3g} to {w.max():.3g}, a from {a.min():.3g} to {a.max():.3g}, "
    return bool(fine), said + f"κ off by {off:.2g}"


def of_the_token_alone(inputs, values):
    seen = {}
    for given, parts in zip(inputs, values, strict=True):
        rows = torch.cat([x.double() for x in parts], 1)
        tokens = zip(*(given[name].tolist() for name in given), strict=True)
        for token, row in zip(tokens, rows, strict=True):
            if not torch.equal(row, seen.setdefault(token, row)):
                return (
                    False,
                    f"instruction {token} has different gates at different places",
                )
    return True, "they do"


def worst(inputs, values, which):
    """The largest error of a read in the cases `which`."""
    most = 0.0
    for i in which:
        reads = inputs[i]["op"] == 4
        error = (run(values[i]) - expected(**inputs[i])).nan_to_num(1e9).abs()[reads]
        most = max(most, error.max().item() if len(error) else 0.0)
    return most <= 0.01, f"the largest error of a read is {most:.3g}"


REQUIREMENTS = (
    Requirement(
        "q, k, v, w, kappa and a",
        right_shapes,
        "The shapes do not fit: all are (T, 4), but v is (T, 1).",
    ),
    Requirement(
        "numbers in range",
        in_range,
        "Some number is out of RWKV-7's range: κ has length 1, a is between 0 and 1, w between 0.545 and 1.",
    ),
    Requirement(
        "of the token alone",
        of_the_token_alone,
        "The gates of an instruction depend on where it stands: they may depend on op, register and number only.",
    ),
    Requirement(
        "set",
        lambda i, v: worst(i, v, (1,)),
        "After set and read alone some read is wrong: set has to take the old number away whole and write the new one, and read must change nothing.",
    ),
    Requirement(
        "add",
        lambda i, v: worst(i, v, (2,)),
        "Set works, and add does not: it writes, and takes nothing away.",
    ),
    Requirement(
        "halve",
        lambda i, v: worst(i, v, (3,)),
        "Set works, and halve does not: one half of what is found has to stay, and nothing is written.",
    ),
    Requirement(
        "clear",
        lambda i, v: worst(i, v, (4,)),
        "Set works, and clear does not: all of what is found has to go, and nothing is written.",
    ),
    Requirement(
        "long texts",
        lambda i, v: worst(i, v, (5, 6)),
        "In short texts every instruction works; over 2,000 tokens a register fades: what multiplies the registers that a token does not name?",
    ),
)


def _turned(op, register, number):
    """Registers along another basis than the channels."""
    basis = (
        torch.tensor([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]) / 2
    )
    here = basis[register]
    a = torch.where(op == 2, 0.5, torch.where((op == 0) | (op == 3), 1.0, 0.0))
    k = here * (op <= 1)[:, None]
    v, ones = number.unsqueeze(1), torch.ones(len(op), 4)
    return here, k, v, ones, here, a[:, None] * ones


ALTERNATIVES = (_turned,)

OUTPUTS = NAMES

MISTAKES = """
number[:, None] → number
    The shapes do not fit: all are (T, 4), but v is (T, 1).
torch.ones_like(here), here, a → torch.ones_like(here), 2 * here, a
    Some number is out of RWKV-7's range: κ has length 1, a is between 0 and 1, w between 0.545 and 1.
number[:, None], → number[:, None] + (torch.arange(len(op)) == 40)[:, None],
    The gates of an instruction depend on where it stands: they may depend on op, register and number only.
[1.0, 0.0, 0.5, 1.0, 0.0] → [0.0, 0.0, 0.5, 1.0, 0.0]
    After set and read alone some read is wrong: set has to take the old number away whole and write the new one, and read must change nothing.
[1.0, 0.0, 0.5, 1.0, 0.0] → [1.0, 1.0, 0.5, 1.0, 0.0]
    Set works, and add does not: it writes, and takes nothing away.
[1.0, 0.0, 0.5, 1.0, 0.0] → [1.0, 0.0, 0.4, 1.0, 0.0]
    Set works, and halve does not: one half of what is found has to stay, and nothing is written.
[1.0, 0.0, 0.5, 1.0, 0.0] → [1.0, 0.0, 0.5, 0.9, 0.0]
    Set works, and clear does not: all of what is found has to go, and nothing is written.
torch.ones_like(here) → torch.full_like(here, 0.99999)
    In short texts every instruction works; over 2,000 tokens a register fades: what multiplies the registers that a token does not name?
"""
