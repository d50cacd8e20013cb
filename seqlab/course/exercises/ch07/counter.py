r"""Project: a memory that counts in circles

*Choose the numbers of a rotating state so that it counts modulo m. · 30 minutes · ●●● · 3 points*

A gate between 0 and 1 can fade a state, but it cannot tell an even count from an odd one after many tokens. Let the state *turn* instead,
as in the chapter's "Further". The memory is two numbers, a point in the plane. Each token turns it by an angle, scales it, and adds something:

$$S_t = e^{\lambda}\,R(\theta)\,S_{t-1} + u \qquad \text{answer} = \arg\max_c\; r_c \cdot S_t$$

with $R(\theta)$ the rotation by $\theta$ counter-clockwise. There is one triple $(\theta, \lambda, u)$ for each kind of token, and one
vector $r_c$ for each answer c = 0, …, m − 1.

Write `counter(steps, m)`. `steps` lists the kinds of token: a whole number is added to the count; None sets the count to 0. It returns four float32 tensors,
`angle (n,)`, `log_a (n,)`, `write (n, 2)` and `read (m, 2)`, with n the number of kinds, such that

- every angle lies between −π and π, and no log_a is above 0;
- the count is right after each of 200 random tokens, and after each of 4,096;
- resets work: right after a None the answer is 0, whatever came before.

A text always begins with a None, from a state of zeros, and `steps` always holds one. The numbers in `steps` may be negative, and larger than m.
"""

import math

import torch

from seqlab.course.exercise import Case, Requirement


def counter(steps, m):
    """The numbers of a state that counts modulo m: (angle, log_a, write, read).

    steps: a list, one entry for each kind of token: a whole number to add, or None to set the count to 0. m: at least 2.
    """
    ### BEGIN SOLUTION
    turn = 2 * math.pi / m
    angle, log_a, write = [], [], []
    for step in steps:
        reset = step is None
        by = 0 if reset else (step + m // 2) % m - m // 2  # the short way round
        angle.append(by * turn)
        log_a.append(-torch.inf if reset else 0.0)
        write.append([1.0, 0.0] if reset else [0.0, 0.0])
    where = turn * torch.arange(m)
    read = torch.stack([where.cos(), where.sin()], dim=-1)
    return torch.tensor(angle), torch.tensor(log_a), torch.tensor(write), read
    ### END SOLUTION


WHY = r"""
**Solution.** Put the count c at the angle 2π c / m on the unit circle. A token that adds d turns the state by 2π d / m and neither fades nor writes: λ
= 0, u = 0. A reset is a gate of 0 with a write of (1, 0), the place of count 0. Of m vectors on the same circle, the one with the largest
dot product is the nearest.

Angles larger than π are the same rotation as one on the other side: reduce d modulo m to the range from −m/2 to m/2.

A state that fades even a little (λ = −0.01) loses its length, not its direction: with these reads the answer stays right until the numbers underflow, after some
ten thousand tokens. A reset that keeps a little, e^λ = 0.05 say, leaves
a remainder that pulls the state by up to 3°: too little to matter among 12 places, but not among 100.

**What it means.** Two real numbers and a rotation do what no state with gates between 0 and 1 does at every length. Mamba-3's heads turn
their keys by angles that the token chooses: the same mechanism, learned. Chapter 08 has another: a gate of −1, a reflection.
"""

HINTS = (
    "Where on a circle would you put the counts 0 … m - 1? What does adding 1 do there?",
    "Adding d turns by 2π d / m, brought into (-π, π]. A reset forgets everything and writes the place of 0. Read with the m places themselves.",
    "angle = 2π/m · ((d + m//2) % m - m//2), log_a = 0, write = (0, 0); for None: angle 0, log_a = -inf, write = (1, 0); read = (cos, sin) of 2π c/m.",
)


def cases(rng):
    kinds = {
        "parity": ([1, 0, None], 2),
        "modulo 3, forward and back": ([1, -1, 0, None], 3),
        "modulo 5, steps larger than 5": ([7, -12, None, 2], 5),
        "modulo 12, a clock": ([1, 5, None], 12),
    }
    return [Case(name, {"steps": steps, "m": m}) for name, (steps, m) in kinds.items()]


def _text(steps, T, seed):
    """Random kinds of token that begin with a reset; resets are rare, so that long counts happen."""
    generator = torch.Generator().manual_seed(seed)
    chance = torch.tensor([0.01 if s is None else 1.0 for s in steps])
    tokens = torch.multinomial(
        chance, T, replacement=True, generator=generator
    ).tolist()
    return [steps.index(None), *tokens[1:]]


def _counts(steps, m, tokens):
    count, found = 0, []
    for token in tokens:
        count = 0 if steps[token] is None else count + steps[token]
        found.append(count % m)
    return found


def _answers(value, tokens):
    angle, log_a, write, read = value
    a, c, s = log_a.exp(), angle.cos(), angle.sin()
    gates = (
        torch.stack([torch.stack([c, -s], -1), torch.stack([s, c], -1)], -2)
        * a[:, None, None]
    )
    S, states = torch.zeros(2), []
    for token in tokens:
        S = gates[token] @ S + write[token]
        states.append(S)
    return (torch.stack(states) @ read.T).argmax(-1).tolist()


def _right(inputs, values, T):
    shares = []
    for given, value in zip(inputs, values, strict=True):
        tokens = _text(**{"steps": given["steps"]}, T=T, seed=T)
        right, got = (
            _counts(given["steps"], given["m"], tokens),
            _answers(value, tokens),
        )
        shares.append(sum(a == b for a, b in zip(right, got, strict=True)) / T)
    return min(shares)


def shapes(inputs, values):
    right = all(
        angle.shape == log_a.shape == (len(i["steps"]),)
        and write.shape == (len(i["steps"]), 2)
        and read.shape == (i["m"], 2)
        and all(u.dtype == torch.float32 for u in (angle, log_a, write, read))
        for i, (angle, log_a, write, read) in zip(inputs, values, strict=True)
    )
    return right, "as asked" if right else "not as asked"


def in_range(inputs, values):
    widest = max(angle.abs().max().item() for angle, *_ in values)
    highest = max(log_a.max().item() for _, log_a, *_ in values)
    return (
        widest <= math.pi + 1e-6 and highest <= 0,
        f"angles up to {widest:.3g}, log_a up to {highest:.3g}",
    )


def resets(inputs, values):
    wrong = 0
    for given, value in zip(inputs, values, strict=True):
        steps = given["steps"]
        for kind in range(len(steps)):
            tokens = [steps.index(None), *[kind] * 7, steps.index(None)]
            wrong += _answers(value, tokens)[-1] != 0
    return wrong == 0, f"{wrong} resets answered wrongly"


def short(inputs, values):
    share = _right(inputs, values, 200)
    return share == 1, f"{share:.1%} right"


def long(inputs, values):
    share = _right(inputs[:2], values[:2], 4096)
    return share == 1, f"{share:.1%} right"


REQUIREMENTS = (
    Requirement(
        "four float32 tensors of the asked shapes",
        shapes,
        "The shapes or types are not as asked: angle (n,), log_a (n,), write (n, 2), read (m, 2), all float32.",
    ),
    Requirement(
        "angles within ±π, no gate above 1",
        in_range,
        "An angle lies outside −π … π, or a log_a is above 0: bring each step the short way round the circle, and let nothing grow.",
    ),
    Requirement(
        "a reset answers 0",
        resets,
        "After a None the answer is not 0: a reset must forget everything that came before, and write the place of the count 0.",
    ),
    Requirement(
        "right after each of 200 tokens",
        short,
        "Some counts are wrong within 200 tokens: does every kind of token turn the state by its own share of the circle, in the direction "
        "in which your reads are laid out?",
    ),
    Requirement(
        "right after each of 4,096 tokens",
        long,
        "Short texts are right, long ones are not: something fades or grows from token to token. A token that counts should only turn.",
    ),
)

OUTPUTS = ("angle", "log_a", "write", "read")


def _complex(steps, m):
    """The same with complex roots of 1, mirrored: counts run clockwise."""
    root = torch.polar(torch.ones(m), -2 * math.pi * torch.arange(m) / m)
    places = torch.view_as_real(root).contiguous()
    angle = torch.tensor(
        [0.0 if s is None else root[s % m].angle().item() for s in steps]
    )
    none = torch.tensor([s is None for s in steps])
    log_a = torch.where(none, torch.tensor(-100.0), torch.tensor(0.0))
    return angle, log_a, none[:, None] * places[0], 3 * places


ALTERNATIVES = (_complex,)

MISTAKES = """
torch.tensor(angle), torch.tensor(log_a), torch.tensor(write), read → torch.tensor(angle), torch.tensor(log_a), torch.tensor(write), read.double()
    The shapes or types are not as asked: angle (n,), log_a (n,), write (n, 2), read (m, 2), all float32.
(step + m // 2) % m - m // 2 → step
    An angle lies outside −π … π, or a log_a is above 0: bring each step the short way round the circle, and let nothing grow.
-torch.inf if reset → 0.0 if reset
    After a None the answer is not 0: a reset must forget everything that came before, and write the place of the count 0.
[where.cos(), where.sin()] → [where.cos(), -where.sin()]
    Some counts are wrong within 200 tokens: does every kind of token turn the state by its own share of the circle, in the direction in which your reads are laid out?
else 0.0) → else -0.1)
    Short texts are right, long ones are not: something fades or grows from token to token. A token that counts should only turn.
"""
