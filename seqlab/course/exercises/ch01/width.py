r"""The width that sharing pays for

*Spend the weights that grouped queries save on a wider SwiGLU. · 7 minutes · ●○○ · 1 point*

A layer of 2017 with D = 4,096 channels has the matrices of attention, $4 D^2$ weights, and an MLP of width $4 D$, another $8 D^2$. A layer of 2026 has
as many weights in all. But its 32 query heads of width 128 share 8 key heads, so its attention needs fewer, and its feed-forward layer is a SwiGLU. How wide is
the SwiGLU?

Count matrices only, no biases or norms. The width need not be a whole number; four digits are enough.
"""

### BEGIN SOLUTION
D, H, h = 4096, 32, 8
attention = (2 + 2 * h / H) * D**2  # q and out are D x D, k and v D x (D h / H)
width = (12 * D**2 - attention) / (3 * D)
### END SOLUTION

WHY = r"""
**Solution.** The maps of q and out keep their $D^2$ weights. Those of k and v shrink to $D^2 \cdot 8/32$ each, so attention has $2.5\,D^2$ weights in place of $4\,D^2$.
Of the $12\,D^2$ weights $9.5\,D^2$ are left for the three matrices of the SwiGLU: $3 D F = 9.5\,D^2$, so $F = 9.5/3\,D ≈ 12{,}971$.

Llama 3.1 8B has these heads and this D, and F = 14,336 = 3.5 D: a little wider still. The feed-forward layer has four fifths of the weights of such a layer.

*Common mistakes:* 8/3 D, which spends nothing of what was saved; two matrices for the SwiGLU; one saving in place of two (k *and* v).
"""

HINTS = (
    "Write down the weights of both layers. Which matrices become smaller when heads share keys, and by how much?",
    "q and out: D² each. k and v: D² h / H each. SwiGLU: 3 D F. Together 12 D².",
    "width = (12 * D**2 - (2 + 2 * 8 / 32) * D**2) / (3 * D).",
)

reference = (12 - 2.5) / 3 * 4096

TOLERANCE = 1e-4

OUTPUTS = ("width",)

ALTERNATIVES = (12_971, 12_970, 12_970.67, 4096 * 19 / 6)

MISTAKES = """
12 * D**2 - attention → 8 * D**2
    This is 8/3 D: it spends the weights of the MLP alone. Those that k and v save are to be spent too.
(2 + 2 * h / H) → (3 + h / H)
    Only one of k and v is made smaller. The key heads are shared, and each has its own values: both shrink.
(2 + 2 * h / H) → (1 + 3 * h / H)
    Three matrices are made smaller. Only those of k and v are: q and out keep all 32 heads.
(3 * D) → (2 * D)
    Two matrices are counted for the SwiGLU. It has three: two maps up and one down.
(12 * D**2 - attention) / (3 * D) → 14336
    This is the width that Llama 3.1 8B has, a little wider than equal weights allow; it also comes out if the output matrix is left out of the attention of 2026. Count q, k, v and out.
12 * D**2 - attention → 8 * D**2 + 2 * D**2 * h / H
    What k and v still need is added to the MLP's weights. To be spent is what they save.
12 * D**2 - attention → 4 * D**2 - attention
    This is the additional width alone: add it to 8/3 D.
2 * h / H → 2 / 8
    The share is taken as 1/8: 8 key heads of 32 are a quarter.
12 * D**2 - attention → 4 * D**2 + attention
    The saving is subtracted: what attention saves makes the SwiGLU wider.
(2 + 2 * h / H) → 4 * h / H
    All four matrices of attention are made smaller. q and out keep all 32 heads.
(2 + 2 * h / H) → 2
    The matrices of k and v are left out: they are smaller, but not gone.
2 * h / H → 2 / H
    One key head is counted: there are 8.
2 * h / H → 2 * H / h
    The share is upside down: k and v have 8/32 of D² weights each.
12 * D**2 → 8 * D**2
    The weights of the old attention are missing: the layer of 2017 has 12 D² weights in all.
(12 * D**2 - attention) / (3 * D) → (12 * D**2 - attention) / (3 * D) / D
    This is a multiple of D, not a width: multiply by D.
(12 * D**2 - attention) / (3 * D) → 4 * D
    This is the width of the MLP: it has two matrices, the SwiGLU three.
"""
