"""The rank of a block

*Count what can pass from the first half of a text to the second. · 8 minutes · ●●○ · 1 point*

A layer adds up three things over 64 tokens: two Mamba-2 heads with N = 5 each, with gates between 0 and 1 and keys and
queries in general position, and a sliding window of softmax attention in which each token reads itself and the three
tokens before it. Add their three 64 × 64 matrices. Take the block with rows 32 to 63 and columns 0 to 31: what the second
half reads of the first.

What is its rank? You may reason or build it.
"""

### BEGIN SOLUTION
heads = 2 * 5  # each head passes a state of N columns
window = 3  # token 32 reads 29, 30, 31; token 33 reads 30, 31; token 34 reads 31
rank = heads + window
### END SOLUTION

WHY = r"""
**Solution.** A head's block is a read times a write, of width N: rank 5 each, and 10 for two heads in general position.
The window reaches over the cut for three tokens only: 32 reads 29, 30 and 31, 33 reads 30 and 31, and 34 reads 31. These six
weights form a triangle in the corner of the block, of rank 3. Together 13: fewer than 32, so the sum of all three can be
computed with a state of 13 columns. (A window's state is its cache: the last three tokens.)

*Common mistakes:* the whole window, 4, although a token's read of itself never crosses the cut. N for both heads together.
The size of the block, 32, as if nothing limited it.
"""

HINTS = (
    "Which tokens of the first half can a token of the second half read, and through what?",
    "Ranks add at most. A head's block is a read (32, N) times a write (N, 32). Which window weights lie in the block?",
    "Two heads give 2 N. The window has weights only for (32: 29, 30, 31), (33: 30, 31), (34: 31): a triangle.",
)

reference = 13

OUTPUTS = ("rank",)

TOLERANCE = 1e-6

ALTERNATIVES = (13.0,)

MISTAKES = """
window = 3 → window = 4
    You count 4 for the window. One of its four weights is the token's own, and that never crosses
    from the first half to the second.
window = 3 → window = 6
    You count the six weights of the window that lie in the block. They form a triangle of 3 rows
    and 3 columns, so their rank is 3.
window = 3 → window = 0
    This is the two heads alone. Token 32 also reads tokens 29, 30 and 31 through the window.
2 * 5 → 5
    One head is counted. Each of the two has a state of its own, and their ranks add.
2 * 5 → 2 * 1
    Either each head is counted with rank 1 (its mask L has that rank, but the scores C·B have rank N),
    or this is N, one head without the other and without the window.
heads + window → 32
    This is the size of the block. A state limits what can pass: a head's block is a read of width N
    times a write of width N.
heads + window → heads * window
    The ranks are multiplied. The matrices are added, so their ranks add.
heads + window → 64
    This is the size of the whole matrix, which has ones or weights on its diagonal. The question is
    about the block below it.
2 * 5 → 5 * 5
    The two widths are multiplied. The matrices of the heads are added, so their ranks add: 5 + 5.
"""
