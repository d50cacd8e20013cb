"""Predict a smeared read

*Say what a read returns when the stored keys overlap and one of them was written twice. · 5 minutes · ●●○ · 1 point*

Keys are rarely orthogonal. Two keys of length 1 have the overlap k₁·k₂ = 0.6. A memory of single numbers starts
empty. Three writes follow, in this order:

1. the value 10 under k₁,
2. the value 5 under k₂,
3. the value 4 under k₁.

What does a read with q = k₁ return? There is no normaliser and no decay. Work it out on paper and write down the
number.
"""

import torch

### BEGIN SOLUTION
smeared = 1.0 * 10 + 0.6 * 5 + 1.0 * 4
### END SOLUTION

WHY = r"""
**Solution.** S = 10 k₁ᵀ + 5 k₂ᵀ + 4 k₁ᵀ, so S k₁ = 10 (k₁·k₁) + 5 (k₂·k₁) + 4 (k₁·k₁) = 10 + 3 + 4 = 17.

Two things happen here that a dictionary would not do. The value under k₂ leaks into the read of k₁, in proportion
to the overlap: the read is *smeared*. And the third write did not replace the first: a memory that only adds keeps
the old value for ever. Orthogonal keys would end the first problem, but only K of them fit into K dimensions. Later
chapters work on the second one: decay (04, 05) and the delta rule (08).

*Common mistakes:* 14 (the leak is forgotten), 7 (the third write taken for an overwrite), 19 (overlaps forgotten).
"""

HINTS = (
    "Write S as a sum of three writes, then read it: S k₁ is a sum of three terms.",
    "A write (k, v) answers the read q with (k·q) v. For unit keys k·k = 1, and here k₁·k₂ = 0.6.",
    "(k₁·k₁)·10 + (k₂·k₁)·5 + (k₁·k₁)·4",
)

reference = 10 + 0.6 * 5 + 4

OUTPUTS = ("smeared",)

ALTERNATIVES = (17, torch.tensor(17.0).item())

MISTAKES = """
0.6 → 0.0
    This would be the read of orthogonal keys. The overlap is 0.6: what does (k₂, 5) add to a read
    at k₁?
1.0 * 10 → 0.0 * 10
    This is 0.6 · 5 + 4: the first write is missing, or taken as overwritten by the third. A memory
    that only adds keeps both 10 and 4.
1.0 * 10 + 0.6 * 5 + 1.0 * 4 → 4.0
    This is the last value written under k₁, as in a dictionary. The first write is still there; k₂
    leaks.
0.6 → 1.0
    This is the plain sum of the three values. Each is weighted by the overlap of its key with k₁:
    one overlap is only 0.6.
1.0 * 10 + 0.6 * 5 + 1.0 * 4 → 0.6 * 10 + 1.0 * 5 + 0.6 * 4
    This is the read at k₂, not at k₁. At k₁ the values 10 and 4 count whole and 5 counts 0.6.
1.0 * 10 + 0.6 * 5 + 1.0 * 4 → (1.0 * 10 + 0.6 * 5 + 1.0 * 4) / (1.0 + 0.6 + 1.0)
    This is divided by the sum of the overlaps. No normaliser is used here: y = S k₁.
1.0 * 10 + 0.6 * 5 + 1.0 * 4 → (1.0 * 10 + 0.6 * 5 + 1.0 * 4) / 3
    This is divided by the number of writes. A read is a sum, not a mean.
+ 0.6 → - 0.6
    The overlap is subtracted. A positive k₂·k₁ adds to the read; only a negative one would take
    away.
0.6 → 0.6**2
    The overlap is squared. The key meets the query once, in k₂·k₁ = 0.6.
+ 1.0 * 4 →
    The third write is missing: 10 + 0.6 · 5 are the first two. What does (k₁, 4) add?
"""
