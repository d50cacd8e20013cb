"""How far apart are checkpoints?

*Balance bytes against exponentials. · 10 minutes · ●●○ · 1 point*

A backward of the selective scan saves a state every C tokens and makes the others again. Count what this costs **beyond** a backward that finds every state ready, for one token of one channel with N numbers of state:

- a state is written once a chunk and read once a chunk, 4 bytes a number;
- on average (C - 1) / 2 steps are made again for each token, with N exponentials each.

An H100 moves 3.35 · 10¹² bytes a second and makes 3.9 · 10¹² exponentials. For which C do the bytes and the exponentials take equally long, if each ran at its peak? Treat C as a real number above 1, and give it to within 0.01.
"""

### BEGIN SOLUTION
bandwidth, exponentials = 3.35, 3.9
# 8 N / C / bandwidth = N (C - 1) / 2 / exponentials
product = 16 * exponentials / bandwidth
# C (C - 1) = product
spacing = (1 + (1 + 4 * product) ** 0.5) / 2
### END SOLUTION

WHY = r"""
**Solution.** 8 N / C bytes against N (C - 1) / 2 exponentials; N cancels. So C (C - 1) = 16 · 3.9 / 3.35 = 18.6, and C = (1 + √(1 + 4 · 18.6)) / 2 = 4.84.

So checkpoints belong close together: 4 or 8 tokens, not 64, as long as the states of a chunk are made again one by one. `kernels/selective_scan.py` saves one every 8 tokens, and holds four states at once in registers, so that it steps over half a chunk at most once more.

*Common mistakes:* a state that is only written, not read; (C - 1) steps instead of half as many; numbers in place of bytes. And a floor is not a time: whether both units are busy at once is not known from counts.
"""

HINTS = (
    "How many bytes of states are there for one token, if a state is written and read once in C tokens?",
    "8 N / C / 3.35 = N (C - 1) / 2 / 3.9. What cancels?",
    "C (C - 1) = 16 · 3.9 / 3.35: a quadratic equation.",
)

reference = 4.8448

OUTPUTS = ("spacing",)

TOLERANCE = 0.01 / 4.84

ALTERNATIVES = (
    4.84,
    min(range(101, 3000), key=lambda c: abs(c * (c - 100) / 1e4 - 62.4 / 3.35)) / 100,
)

MISTAKES = """
16 * exponentials / bandwidth → 8 * exponentials / bandwidth
    Either the states are only written, not read, or C - 1 steps are counted for each token: a state moves twice, and half of C - 1 steps are made again on average.
16 * exponentials / bandwidth → 4 * exponentials / bandwidth
    Numbers are counted in place of bytes: a number of the state has 4.
16 * exponentials / bandwidth → 16 * bandwidth / exponentials
    The two peaks are exchanged: bytes are divided by the bandwidth.
(1 + (1 + 4 * product) ** 0.5) / 2 → product ** 0.5
    This takes C / 2 steps again for each token: it is (C - 1) / 2, since the first token of a chunk needs none.
16 * exponentials / bandwidth → 16
    This balances bytes and exponentials as if both peaks were equal.
"""
