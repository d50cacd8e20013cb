"""A scan of matrices

*Open question · 6 minutes*

The map of a chunk from exercise 26.5 is a pair of matrices, (M, Z), and two chunks in a row are (M₁ M₂, Z₁ M₂ + Z₂). So a colleague proposes to pass the states of a Gated DeltaNet from chunk to chunk with a scan over chunks instead of a walk. Write three or four sentences: what does a join cost, what does the walk's step cost, when could the scan still win, and what would you count before you write a line?
"""

POINTS = (
    "A join multiplies two K × K matrices and a V × K by a K × K matrix: about 2 K³ + 2 V K² flops. A step of the walk costs some 4 C K V with WY, without ever making M; for C = 64 and K = V = 128 that is half as much, and a scan makes about twice as many joins as there are chunks.",
    "M and Z must be written for every chunk, K² + K V numbers, where the walk keeps the state in registers and reads W and Ũ: C (K + V) numbers.",
    "The scan has a depth of log₂ N instead of N steps in a row. So it can win where the walk has too few programs: one text, few heads, very many chunks (a long prompt at batch 1).",
    "A compromise is cheaper: cut the text into a few long segments, walk in each from an empty state, make M only once for each segment, and correct (the scan with few, long elements).",
    "Count programs against processors, flops and bytes of both ways for the real T, H, K and V. And M is a product of many matrices: does it keep its digits, for β near 2?",
)
