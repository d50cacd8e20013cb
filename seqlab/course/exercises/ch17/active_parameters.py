"""What a token uses

*Count the active parameters of a whole model. · 10 minutes · ●●○ · 1 point*

A mixture in the style of DeepSeekMoE has vocabulary 100,000, width 2,048 and 28 layers. Attention has 16 query heads and 4 key-value heads of width 128, and no
biases. Layer 1 has a dense SwiGLU of width 10,944. The other 27 layers have 64 routed experts of width 1,408, of which a token uses 6, and 2 shared experts of the
same width. All experts are SwiGLU: three matrices. The router is one matrix. Embedding and head are two separate matrices, and both count. Leave the norms out.

How many parameters does one token use? Give the exact number.
"""

### BEGIN SOLUTION
vocab, D, layers, width = 100_000, 2048, 28, 1408
attention = 2 * D * 16 * 128 + 2 * D * 4 * 128  # q and out; k and v
dense = 3 * D * 10_944
sparse = (6 + 2) * 3 * D * width + 64 * D  # routed, shared, router
tokens = 2 * vocab * D
active = layers * attention + dense + 27 * sparse + tokens
### END SOLUTION

WHY = r"""
**Solution.** Each layer: attention, 4 · 2048² for the queries and the output with 16 heads (2 · 2048 · 2048), and 2 · 2048 · 512 for keys and values. The dense layer: 3 · 2048 · 10,944. A
sparse layer uses 8 experts of 3 · 2048 · 1,408, and the whole router, which scores all 64. Embedding and head: 2 · 100,000 · 2,048. Together 2,642,542,592. All
experts together make a total of 16 billion.

A third of what a token uses has nothing to do with experts. Published "active" counts differ in just this: some leave out embedding and head.

*Common mistakes:* the shared experts forgotten, or counted as chosen among the 6; two matrices for each expert; experts in all 28 layers.
"""

HINTS = (
    "Go through the model part by part: attention, the dense layer, a sparse layer, embedding and head. Which experts does one token use?",
    "8 experts of 3 D · 1408 in each of 27 layers, and a router of 64 D. Keys and values have 4 heads of 128.",
    "28 (2 D · 2048 + 2 D · 512) + 3 D · 10944 + 27 (8 · 3 D · 1408 + 64 D) + 2 · 100000 · D with D = 2048.",
)


def _count():
    matrices = [(100_000, 2048)] * 2
    for layer in range(28):
        matrices += [(2048, 2048)] * 2 + [(512, 2048)] * 2
        used, width = (1, 10_944) if layer == 0 else (8, 1408)
        matrices += [(width, 2048)] * 3 * used + [(64, 2048)] * (layer > 0)
    return sum(rows * columns for rows, columns in matrices)


reference = _count()

OUTPUTS = ("active",)

TOLERANCE = 1e-12

ALTERNATIVES = (2_642_542_592, 2642542592.0)

MISTAKES = """
(6 + 2) * 3 → 6 * 3
    The shared experts are missing: every token uses both, beside its 6.
(6 + 2) * 3 → (64 + 2) * 3
    This is the total: a token uses 6 of the 64 routed experts.
(6 + 2) * 3 * D * width → (6 + 2) * 2 * D * width
    Two matrices are counted for each expert: a SwiGLU has three.
tokens = 2 * vocab * D → tokens = vocab * D
    Embedding and head are two matrices here, and one is missing.
tokens = 2 * vocab * D → tokens = 0
    Embedding and head are missing: the text asks to count both.
2 * D * 16 * 128 + 2 * D * 4 * 128 → 4 * D * 16 * 128
    Keys and values have 4 heads, not 16.
dense + 27 * sparse → 28 * sparse
    The first layer is dense: only 27 have experts.
dense + 27 * sparse → 27 * sparse
    The dense feed-forward of the first layer is missing.
layers * attention + dense → dense
    Attention is missing: every layer has it.
+ 64 * D →
    The routers are missing: each scores all 64 experts, with a matrix of 64 rows.
"""
