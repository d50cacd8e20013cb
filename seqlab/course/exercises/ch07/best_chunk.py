"""The chunk with the fewest multiplications

*Count the work of the four steps, and find its minimum. · 10 minutes · ●●○ · 1 point*

One head has N = 128 and P = 64. Count multiplications for each token as a function of the chunk's length C:

- step 1 makes all C × C scores of a chunk, N multiplications each, and multiplies them by the values, P each (count all C²
  pairs, as a matrix product does, and leave out the mask);
- step 2 writes: an N × P table for each token; step 4 reads it: the same again;
- step 3, as a loop over chunks, decays one N × P table for each chunk.

For which C is the sum smallest? C need not be whole; give it to within 0.005.
"""

import math

### BEGIN SOLUTION
N, P = 128, 64
inside = N + P  # multiplications for each pair of a chunk
# per token: C · inside + 2 N P + N P / C; the derivative, inside - N P / C², is 0 at
best_chunk = math.sqrt(N * P / inside)
### END SOLUTION

WHY = r"""
**Solution.** For one token the count is $f(C) = C (N + P) + 2 N P + N P / C$. Only the first and the last term depend on C;
they balance where $N + P = N P / C^2$, at $C = \sqrt{N P / (N + P)} = 6.53$. The term 2 N P, 16,384, is larger than both
there (1,254 each): in multiplications, the choice hardly matters up to C of some dozens.

And yet kernels use 64 to 256. A matrix unit multiplies tiles of 16 to 128 rows; with 6 of them it idles. And the loop of step
3 waits: each turn costs a trip to memory. The count of multiplications is not the clock, as section 1 of the chapter says.

*Common mistakes:* N + P multiplied in step 3; the square root forgotten; half of the pairs, C² / 2.
"""

HINTS = (
    "Write the count for a whole chunk, then divide by C. Which terms depend on C?",
    "Per token: step 1 costs C (N + P), steps 2 and 4 cost N P each, step 3 costs N P / C.",
    "Set the derivative to 0: N + P = N P / C².",
)

reference = math.sqrt(128 * 64 / 192)

OUTPUTS = ("best_chunk",)

TOLERANCE = 0.005 / 6.532

ALTERNATIVES = (6.53,)

MISTAKES = """
math.sqrt(N * P / inside) → N * P / inside
    The square root is missing: the derivative N + P - N P / C² is 0 at C² = N P / (N + P).
math.sqrt(N * P / inside) → math.sqrt(2 * N * P / inside)
    Half of the pairs are counted in step 1. The text asks for all C × C: a matrix product makes
    them all, and the mask throws half away.
inside = N + P → inside = N
    Only the scores are counted in step 1, or only N in its cost. The weights also multiply the
    values: P more for each pair.
inside = N + P → inside = P
    Either step 1 counts only the product with the values (each score costs N multiplications too), or
    steps 2 and 4 are counted once for each chunk, beside step 3 (they write and read for each token).
math.sqrt(N * P / inside) → math.sqrt(inside / (N * P))
    The fraction is upside down. A larger state makes step 3 dearer, so it must make the best chunk
    longer.
math.sqrt(N * P / inside) → math.sqrt(N * P)
    This balances N P / C against C alone. The C × C pairs of a chunk cost N + P multiplications
    each.
math.sqrt(N * P / inside) → 6
    This is rounded down to 6. The answer is asked for to within 0.005.
math.sqrt(N * P / inside) → 7
    This is rounded up to 7. The answer is asked for to within 0.005.
"""
