"""Programs, bytes and intensity

*Predict from sizes alone what a kernel asks for. · 10 minutes · ●●○ · 1 point*

The page's matmul multiplies a (1,024 × 384) by b (384 × 512) in bfloat16 (2 bytes), with tiles
BM = 128, BN = 64, BK = 32; c is stored in bfloat16 too. How many programs are there, what does each
load and store, and how many flops are there for each byte asked for, loads and stores together?

Give the last of these, flops per byte, to within 0.001. A multiply-add is two flops.
"""

### BEGIN SOLUTION
M, N, K = 1024, 512, 384
programs = (M // 128) * (N // 64)
# Each program reads a strip of a and one of b.
loaded = programs * (128 * K + K * 64) * 2
stored = M * N * 2
intensity = 2 * M * N * K / (loaded + stored)
### END SOLUTION

WHY = r"""
**Solution.** There are 8 · 8 = 64 programs. Each loads a strip of a (128 × 384) and a strip of b
(384 × 64), 144 KiB together, and stores a tile of 16 KiB. That makes 9,437,184 bytes in and
1,048,576 out for 402,653,184 flops: 38.4 flops a byte.

BK does not matter for the bytes: it only says in how many steps a strip is loaded. Without the store it
would be BM BN / (BM + BN) = 42.67. An H100's ridge is near 295 flops a byte: without the L2 cache this
kernel would be bound by memory.

*Common mistakes:* each matrix counted once (that is what must come from memory, not what is asked for);
numbers in place of bytes; one flop for a multiply-add.
"""

HINTS = (
    "How many tiles has c? What does one program read on its way along K?",
    "A program reads BM × K numbers of a and K × BN of b, whatever BK is, and stores BM × BN once.",
    "64 programs · (128 + 64) · 384 · 2 bytes in, 1,024 · 512 · 2 out, 2 · 1,024 · 512 · 384 flops.",
)

reference = 2 * 1024 * 512 * 384 / (64 * 192 * 384 * 2 + 1024 * 512 * 2)

OUTPUTS = ("intensity",)

TOLERANCE = 0.001 / 38.4

ALTERNATIVES = (38.4, 1 / (1 / (128 * 64 / 192) + 1 / 384))

MISTAKES = """
2 * M * N * K / (loaded + stored) → 2 * M * N * K / loaded
    The stores of c are missing.
2 * M * N * K / (loaded + stored) → M * N * K / (loaded + stored)
    A multiply-add is two flops.
loaded = programs * (128 * K + K * 64) * 2 → loaded = (M * K + K * N) * 2
    Each matrix is counted once: that is the least that must come from memory. The programs ask for more.
loaded = programs * (128 * K + K * 64) * 2 → loaded = programs * (128 * K + K * 64) ; stored = M * N * 2 → stored = M * N
    These are flops for each number: a number has two bytes.
loaded = programs * (128 * K + K * 64) * 2 → loaded = programs * (128 * 32 + 32 * 64) * 2
    Only one step along K is counted for each program: it takes K / BK steps.
loaded = programs * (128 * K + K * 64) * 2 → loaded = programs * 128 * K * 2
    The strips of b are missing.
loaded = programs * (128 * K + K * 64) * 2 → loaded = programs * K * 64 * 2
    The strips of a are missing.
2 * M * N * K / (loaded + stored) → (loaded + stored) / (2 * M * N * K)
    This is bytes for each flop: the other way round.
"""
