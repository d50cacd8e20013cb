"""Project: choose chunk and block

*Find sizes that a device can live with, for any head. · 30 minutes · ●●● · 4 points*

Exercise 25.7 knew one constraint, bytes. A library must choose for every model and text. `choose(T, H, K, V, processors)` returns `torch.tensor([C, B])`, two whole numbers, for the page's two kernels with a gate per head, states in float32 and 2 bytes for all else. They must be so that

- B and C are powers of two, 16 ≤ B ≤ C ≤ 1,024;
- a program of `read_kernel`, with 128 threads, fits: B · B + B · (K + V) + K · V / 4 numbers, shared by all threads, are at most 200 for each (the page's compile reports show roughly how such a count ends);
- there are at least `processors` programs, ⌈T / B⌉ · H, if any B that fits gives so many; if none does, as many programs as possible;
- the walk has at most 64 steps, ⌈T / C⌉;
- among all pairs (C, B) that do this, yours asks for at most 1 per cent more bytes than the best. Bytes for a token: 4 (K + V) + 2 (K + V) (C / B + 1) / 2 + 4 K V (1 / C + 1 / B).

T, H, K and V are given so that some pair exists: T is at most 65,536.
"""

from math import ceil, log2

import torch

from seqlab.course.exercise import Case, Requirement


def choose(T, H, K, V, processors):
    """C and B as a tensor (2,) of int64."""
    ### BEGIN SOLUTION
    sizes = [16, 32, 64, 128, 256, 512, 1024]
    fits = [B for B in sizes if (B * B + B * (K + V) + K * V / 4) / 128 <= 200]
    programs = {B: -(-T // B) * H for B in fits}
    enough = min(processors, max(programs.values()))
    busy = [B for B in fits if programs[B] >= enough]

    def asked(pair):
        C, B = pair
        again = (K + V) * (C / B + 1)
        return again + 4 * K * V * (1 / C + 1 / B)

    pairs = [(C, B) for B in busy for C in sizes if C >= B and -(-T // C) <= 64]
    return torch.tensor(min(pairs, key=asked))
    ### END SOLUTION


WHY = """
**Solution.** There are 28 pairs. Filter them by what is required, and take the cheapest: nothing here needs to be clever, as long as each constraint is written down.

**What decides?** For short texts and few heads, B: small blocks make more programs. For wide heads, registers hold B down. For long texts the number of steps holds C up. Only what is left is decided by bytes.

**What is missing** for a real choice: shared memory, stages of a pipeline, the L2 cache, and the time itself. This is why libraries tune on the device, over the few pairs that such a filter leaves. (`kernels/` fixes C = 64 and tunes tiles.)
"""

HINTS = (
    "How many pairs are there in all? Need anything be solved, or is it enough to try them?",
    "First the blocks that fit, then those that give enough programs, then the chunks for each: C ≥ B and ⌈T / C⌉ ≤ 64. Last, the fewest bytes.",
    "programs = {B: ⌈T / B⌉ · H for each B that fits}; keep B with programs[B] ≥ min(processors, the largest); torch.tensor(min(pairs, key=bytes)).",
)


def cases(rng):
    models = {
        "a long text": (65536, 16, 128, 128, 132),
        "short, few heads": (512, 4, 64, 64, 132),
        "wide heads": (8192, 8, 256, 256, 132),
        "narrow, many heads": (4096, 64, 32, 32, 132),
        "small device": (2048, 8, 64, 128, 20),
        "tiny": (48, 1, 32, 32, 132),
    }
    names = "T", "H", "K", "V", "processors"
    return [Case(n, dict(zip(names, m, strict=True))) for n, m in models.items()]


SIZES = [2**n for n in range(4, 11)]


def blocks_that_fit(i):
    K, V = i["K"], i["V"]
    return [B for B in SIZES if B * B + B * (K + V) + K * V / 4 <= 200 * 128]


def programs(i, B):
    return ceil(i["T"] / B) * i["H"]


def enough(i, B):
    most = max(programs(i, B) for B in blocks_that_fit(i))
    return programs(i, B) >= min(i["processors"], most)


def bytes_of(i, C, B):
    K, V = i["K"], i["V"]
    read = 4 * (K + V) + (K + V) * (C / B + 1)
    return read + 4 * K * V / C + 4 * K * V / B


def each(test):
    """Whether test(inputs, C, B) holds in each case, and the first in which it does not."""

    def measure(inputs, values):
        for i, (C, B) in zip(inputs, (x.tolist() for x in values), strict=True):
            if not test(i, C, B):
                return (
                    False,
                    f"not for T = {i['T']:,}, H = {i['H']}, K = {i['K']}, V = {i['V']}",
                )
        return True, "in each case"

    return measure


def shapes(inputs, values):
    for x in values:
        if not isinstance(x, torch.Tensor) or x.shape != (2,) or x.dtype != torch.int64:
            return False, "not a tensor (2,) of int64"
        C, B = x.tolist()
        if not 16 <= B <= C <= 1024 or log2(B) % 1 or log2(C) % 1:
            return False, "not powers of two with 16 ≤ B ≤ C ≤ 1,024"
    return True, "as asked"


def cheap(i, C, B):
    pairs = [
        (c, b)
        for b in blocks_that_fit(i)
        for c in SIZES
        if c >= b and enough(i, b) and ceil(i["T"] / c) <= 64
    ]
    return bytes_of(i, C, B) <= 1.01 * min(bytes_of(i, *pair) for pair in pairs)


REQUIREMENTS = (
    Requirement(
        "powers of two, 16 ≤ B ≤ C ≤ 1,024",
        shapes,
        "The answer must be torch.tensor([C, B]): two whole numbers, powers of two, with 16 ≤ B ≤ C ≤ 1,024.",
    ),
    Requirement(
        "at most 200 numbers a thread",
        each(lambda i, C, B: B in blocks_that_fit(i)),
        "A block is too large: its program holds more than 200 numbers for each thread.",
    ),
    Requirement(
        "enough programs",
        each(lambda i, C, B: enough(i, B)),
        "There are fewer programs than processors, though a smaller block would give more.",
    ),
    Requirement(
        "at most 64 steps in a row",
        each(lambda i, C, B: ceil(i["T"] / C) <= 64),
        "The walk has more than 64 steps: chunks are too short.",
    ),
    Requirement(
        "at most 1 per cent above the fewest bytes",
        each(cheap),
        "Another pair that meets everything asks for fewer bytes.",
    ),
)


def from_below(T, H, K, V, processors):
    """The largest block that is allowed has the fewest bytes for each C: try its chunks."""
    best = None
    for B in (1024, 512, 256, 128, 64, 32, 16):
        if B * B + B * (K + V) + K * V / 4 > 25600:
            continue
        if ceil(T / B) * H < processors and B > 16:
            continue
        for C in SIZES:
            if C < B or ceil(T / C) > 64:
                continue
            cost = (K + V) * C / B + (K + V) + 4 * K * V / C + 4 * K * V / B
            if best is None or cost < best[0]:
                best = cost, (C, B)
    return torch.tensor(best[1])


ALTERNATIVES = (from_below,)

MISTAKES = """
return torch.tensor(min(pairs, key=asked)) → return torch.tensor(min(pairs, key=asked)[::-1])
    The answer must be torch.tensor([C, B]): two whole numbers, powers of two, with 16 ≤ B ≤ C ≤ 1,024.
(B * B + B * (K + V) + K * V / 4) / 128 <= 200 → (B * B + B * (K + V) + K * V / 4) / 256 <= 200
    A block is too large: its program holds more than 200 numbers for each thread.
if programs[B] >= enough → if B > 0
    There are fewer programs than processors, though a smaller block would give more.
if C >= B and -(-T // C) <= 64 → if C >= B
    The walk has more than 64 steps: chunks are too short.
return torch.tensor(min(pairs, key=asked)) → return torch.tensor(max(pairs))
    Another pair that meets everything asks for fewer bytes.
"""
