"""A register budget

*Count what a tile keeps in registers, before the compiler tells. · 8 minutes · ●●○ · 1 point*

The page's forward, with K = V = 128, tiles of BT = 128 queries and BS = 64 keys, inputs in bfloat16, and 8 warps of 32 threads. At the second product a program holds, spread evenly over its threads:

- y, BT × V numbers in float32;
- the scores of the tile, BT × BS numbers in float32, which become the weights;
- the weights once more in bfloat16, for the product: two fit into one register.

A register has 32 bits. How many registers of *each thread* do these three take together? (Queries, keys and values are left in shared memory here, and addresses and statistics not counted.)
"""

### BEGIN SOLUTION
threads = 8 * 32
y = 128 * 128 / threads
scores = 128 * 64 / threads
weights = 128 * 64 / 2 / threads
registers = y + scores + weights
### END SOLUTION

WHY = """
**Solution.** 256 threads: y takes 16,384 / 256 = 64 registers of each, the scores 8,192 / 256 = 32, and the weights in bfloat16 half of that, 16. That makes 112, of 255 that a thread may have.

Section 7 of the page asks the compiler about the same tile with 32 keys. Its budget is 64 + 16 + 8 = 88, and the compiler uses more on every target: addresses and statistics take registers, too, and on some targets the queries. With 4 warps the budget is 224, and what the count left out decides whether it still fits.

*Common mistakes:* bytes in place of registers; weights in float32; the count for a warp, or for the program, in place of a thread.
"""

HINTS = (
    "How many numbers does each of the three tiles have, and how many threads share them?",
    "BT · V / threads for y, BT · BS / threads for the scores, half of that for the weights.",
    "threads = 8 · 32 = 256; 128 · 128 / 256 + 128 · 64 / 256 + 128 · 64 / 2 / 256.",
)

reference = (128 * 128 + 128 * 64 + 128 * 32) / 256

OUTPUTS = ("registers",)

TOLERANCE = 1e-6

ALTERNATIVES = (112, 64 + 32 + 16)

MISTAKES = """
registers = y + scores + weights → registers = y + scores
    The weights in bfloat16 are missing.
registers = y + scores + weights → registers = y + scores + 2 * weights
    The weights are counted in float32: two bfloat16 numbers share a register.
registers = y + scores + weights → registers = scores + weights
    y is missing.
registers = y + scores + weights → registers = 4 * (y + scores + weights)
    These are bytes: a register has four.
threads = 8 * 32 → threads = 32
    This is for one warp: all 8 share the tiles.
threads = 8 * 32 → threads = 8
    This is for each warp: a warp has 32 threads.
threads = 8 * 32 → threads = 1
    This is for the whole program.
y = 128 * 128 / threads → y = 128 * 128 / 2 / threads
    y is counted in bfloat16: the sum stays in float32.
"""
