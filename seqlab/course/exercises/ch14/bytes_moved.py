"""The bytes of one head

*Count what FlashAttention 2 moves with causal tiles. · 10 minutes · ●○○ · 1 point*

One head has T = 8,192 queries and as many keys, K = V = 128, all in bfloat16 (2 bytes). FlashAttention 2 runs with tiles of 128 queries and 32 keys,
causal: a tile in which no query may see a key is skipped, a tile in which some may is loaded whole. Each block of q is read once. k and v are read
for each tile. At the end y is written in bfloat16, and one lse for each row in float32 (4 bytes).

How many MiB (2²⁰ bytes) cross between slow and fast memory, reads and writes together? It is a fraction with a short decimal form: give it to within 0.0001.
"""

### BEGIN SOLUTION
T, width = 8192, 128
blocks = T // 128  # of queries
tiles = sum(4 * (i + 1) for i in range(blocks))  # block i sees 4 (i + 1) blocks of keys
kv = tiles * 32 * 2 * width * 2
q_and_y = 2 * T * width * 2
bytes_moved = (kv + q_and_y + T * 4) / 2**20
### END SOLUTION

WHY = r"""
**Solution.** A block of 128 queries spans four blocks of keys. So block i (from 0) sees the 4 i blocks before it and the four on its diagonal: 4 (i + 1). Over
64 blocks that makes 8,320 tiles, each of 32 rows of k and of v, 16 KiB together: 130 MiB. q and y are 2 MiB each, lse is 32 KiB. Together
134.03125 MiB, nearly all of it k and v. Without causality it would be 260.03.

So to move less, make the blocks of *queries* larger: the blocks of keys do not matter for the bytes, only for what fits on the chip.

*Common mistakes:* 64 tiles on the diagonal where there are 256; a lower triangle without its diagonal; k without v; lse in 2 bytes.
"""

HINTS = (
    "Which of the four tensors are moved once, and which once for each block of queries that sees them?",
    "Block i of 128 queries ends at query 128 (i + 1) - 1. How many blocks of 32 keys begin at or before it?",
    "tiles = Σ 4 (i + 1) for i = 0 … 63; each loads 32 · (128 + 128) · 2 bytes. Add q, y (2 MiB each) and 4 T bytes of lse.",
)

reference = (8320 * 32 * 256 * 2 + 2 * 8192 * 128 * 2 + 4 * 8192) / 2**20

OUTPUTS = ("bytes_moved",)

TOLERANCE = 0.0001 / 134.03125

ALTERNATIVES = (134.03125, 130 + 4 + 1 / 32)

MISTAKES = """
4 * (i + 1) for i → 4 * blocks for i
    Every tile is counted, also those in the future of all their queries: these are skipped.
4 * (i + 1) for i → 4 * i for i
    The tiles on the diagonal are missing: there some queries see some keys, so they are loaded.
4 * (i + 1) for i → 4 * i + 1 for i
    Three tiles for each block of queries are missing: the diagonal crosses four tiles of 32 keys in each
    block of 128 queries.
tiles * 32 * 2 * width * 2 → tiles * 32 * width * 2
    Only one of k and v is counted for each tile.
(kv + q_and_y + T * 4) → (kv + q_and_y)
    The lse is missing: one number of 4 bytes for each row.
T * 4) → T * 2)
    The lse is counted with 2 bytes: it is float32.
q_and_y = 2 * T * width * 2 → q_and_y = T * width * 2
    Only one of q and y is counted: q is read once, y is written once.
q_and_y = 2 * T * width * 2 → q_and_y = tiles * 128 * width * 2 + T * width * 2
    q is loaded for each tile: with queries in the outer loop, a block of q stays on the chip.
/ 2**20 → / 10**6
    These are megabytes, of a million bytes: a MiB has 2²⁰.
/ 2**20 → / 1
    These are bytes: divide by 2²⁰.
"""
