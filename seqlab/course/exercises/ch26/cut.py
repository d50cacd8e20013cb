"""Project: cut a scan among programs

*Find sizes for a linear scan that keep a device busy with the fewest bytes. · 30 minutes · ●●● · 4 points*

A linear scan over T tokens and W channels can give its programs BW channels each, and, as in exercise 26.6, cut time into S segments. `cut(T, W, processors)` returns `torch.tensor([BW, S])`, two whole numbers, so that

- BW is 2, 4, 8, 16, 32 or 64; S is a power of two from 1 to 256, and a segment has at least 64 tokens (T / S ≥ 64), unless S is 1;
- there are at least `processors` programs, ⌈W / BW⌉ · S, if any allowed pair gives so many; if none does, as many as possible;
- among all pairs that do this, yours asks for the fewest bytes. An element of a, b or h has 4 bytes. With S = 1 each is moved once, 12 bytes; with S > 1 a and b are read twice, 20 bytes. But memory moves in sectors of 32 bytes: with BW = 4 only half of each sector is used, with BW = 2 a quarter, so these pay twice and four times as much;
- among those with the fewest bytes, yours has the fewest steps in a row: ⌈T / S⌉ for S = 1, and 2 ⌈T / S⌉ + S for S > 1 (each segment twice, and the states between them one after another);
- if two pairs are still equal, either will do.
"""

from math import ceil, log2

import torch

from seqlab.course.exercise import Case, Requirement


def cut(T, W, processors):
    """BW and S as a tensor (2,) of int64."""
    ### BEGIN SOLUTION
    widths = [2, 4, 8, 16, 32, 64]
    segments = [2**n for n in range(9) if n == 0 or 64 * 2**n <= T]
    pairs = [(BW, S) for BW in widths for S in segments]

    def programs(pair):
        BW, S = pair
        return -(-W // BW) * S

    def cost(pair):
        BW, S = pair
        moved = (12 if S == 1 else 20) * max(1, 8 / BW)
        steps = T if S == 1 else 2 * -(-T // S) + S
        return moved, steps

    enough = min(processors, max(map(programs, pairs)))
    busy = [pair for pair in pairs if programs(pair) >= enough]
    return torch.tensor(min(busy, key=cost))
    ### END SOLUTION


WHY = """
**Solution.** There are at most 54 pairs: filter, then take the smallest by (bytes, steps), which Python compares in this order.

**What decides?** Wide layers fill the device with S = 1, and then nothing is worth a second look at a and b. With few channels, narrow programs come first: down to BW = 8 they cost nothing in bytes. BW = 4 with S = 1 asks for 24 bytes an element, more than the 20 of a cut in time; so time is cut before sectors are wasted.

**What is missing** for a real choice: what a cache keeps between the two passes, how many programs one processor holds at once, and time itself. `kernels/linear_scan.py` never cuts time: models have wide layers, and batches.
"""

HINTS = (
    "How many pairs are there in all? Is it enough to try them?",
    "Filter by the segment's length and the number of programs. For the rest compare tuples (bytes, steps).",
    "enough = min(processors, the most programs of any pair); min(pairs with enough, key=lambda p: (bytes(p), steps(p))).",
)


def cases(rng):
    models = {
        "wide": (4096, 4096, 132),
        "few channels": (8192, 64, 132),
        "a short text": (100, 256, 132),
        "narrow and long": (65536, 16, 132),
        "nothing is enough": (512, 8, 304),
        "channels are enough": (2048, 1056, 132),
    }
    names = "T", "W", "processors"
    return [
        Case(name, dict(zip(names, sizes, strict=True)))
        for name, sizes in models.items()
    ]


OUTPUTS = ("BW and S",)


def allowed(T):
    return [
        (BW, S)
        for BW in (2, 4, 8, 16, 32, 64)
        for S in (1, 2, 4, 8, 16, 32, 64, 128, 256)
        if S == 1 or T / S >= 64
    ]


def programs_of(i, BW, S):
    return ceil(i["W"] / BW) * S


def bytes_of(BW, S):
    return (12 if S == 1 else 20) * max(1, 8 / BW)


def steps_of(i, BW, S):
    return i["T"] if S == 1 else 2 * ceil(i["T"] / S) + S


def busy(i):
    pairs = allowed(i["T"])
    most = max(programs_of(i, *pair) for pair in pairs)
    return [p for p in pairs if programs_of(i, *p) >= min(i["processors"], most)]


def each(test):
    """Whether test(inputs, BW, S) holds in each case, and the first in which it does not."""

    def measure(inputs, values):
        for i, (BW, S) in zip(inputs, (x.tolist() for x in values), strict=True):
            if not test(i, BW, S):
                return False, f"not for T = {i['T']:,}, W = {i['W']:,}"
        return True, "in each case"

    return measure


def shapes(inputs, values):
    for x in values:
        if not isinstance(x, torch.Tensor) or x.shape != (2,) or x.dtype != torch.int64:
            return False, "not a tensor (2,) of int64"
        BW, S = x.tolist()
        if not 2 <= BW <= 64 or log2(BW) % 1 or not 1 <= S <= 256 or log2(S) % 1:
            return False, f"BW = {BW}, S = {S}"
    return True, "as asked"


def cheap(i, BW, S):
    return bytes_of(BW, S) <= min(bytes_of(*pair) for pair in busy(i))


def short(i, BW, S):
    least = min(bytes_of(*pair) for pair in busy(i))
    found = [steps_of(i, *p) for p in busy(i) if bytes_of(*p) == least]
    return steps_of(i, BW, S) <= min(found)


REQUIREMENTS = (
    Requirement(
        "allowed sizes",
        shapes,
        "The answer must be torch.tensor([BW, S]), powers of two, with BW from 2 to 64 and S from 1 to 256.",
    ),
    Requirement(
        "segments of at least 64 tokens",
        each(lambda i, BW, S: S == 1 or i["T"] / S >= 64),
        "A segment has fewer than 64 tokens: cut into fewer.",
    ),
    Requirement(
        "enough programs",
        each(
            lambda i, BW, S: (
                programs_of(i, BW, S) >= min(programs_of(i, *p) for p in busy(i))
            )
        ),
        "There are fewer programs than processors, though an allowed pair would give more.",
    ),
    Requirement(
        "the fewest bytes",
        each(cheap),
        "Another pair with enough programs asks for fewer bytes.",
    ),
    Requirement(
        "the fewest steps",
        each(short),
        "Another pair with enough programs and the same bytes has fewer steps in a row.",
    ),
)


def by_sorting(T, W, processors):
    found = []
    for BW, S in allowed(T):
        programs = min(processors, ceil(W / BW) * S)
        moved = (3 if S == 1 else 5) * max(8 // BW, 1)
        found.append((-programs, moved, steps_of({"T": T}, BW, S), BW, S))
    return torch.tensor(min(found)[3:])


ALTERNATIVES = (by_sorting,)

MISTAKES = """
return torch.tensor(min(busy, key=cost)) → return torch.tensor(min(busy, key=cost)[::-1])
    The answer must be torch.tensor([BW, S]), powers of two, with BW from 2 to 64 and S from 1 to 256.
segments = [2**n for n in range(9) if n == 0 or 64 * 2**n <= T] → segments = [2**n for n in range(9)]
    A segment has fewer than 64 tokens: cut into fewer.
enough = min(processors, max(map(programs, pairs))) → enough = 1
    There are fewer programs than processors, though an allowed pair would give more.
(12 if S == 1 else 20) * max(1, 8 / BW) → 12 if S == 1 else 20
    Another pair with enough programs asks for fewer bytes.
return moved, steps → return moved, -steps
    Another pair with enough programs and the same bytes has fewer steps in a row.
"""
