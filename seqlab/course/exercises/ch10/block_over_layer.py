r"""From 2024 to 7B

*Compare what two generations of the mLSTM keep. · 8 minutes · ●●○ · 1 point*

Both have d_model = 4,096.

- **The block of 2024** works in a space twice as wide, with 4 heads; keys and values are as wide as a head.
- **The layer of xLSTM 7B** works in the model's own width, with 8 heads; values are as wide as a head, keys half as wide.

Each head keeps the table S and the normaliser n. (Leave out m and the convolution.) How many times as many numbers does the block of 2024 keep? Let Python divide, and do not round.
"""

### BEGIN SOLUTION
block = 4 * (2048 * 2048 + 2048)
layer = 8 * (512 * 256 + 256)
ratio = block / layer
### END SOLUTION

WHY = r"""
**Solution.** A head of 2024 is 8,192 / 4 = 2,048 wide and keeps 2,048² + 2,048 numbers: 16.8 million in all four. A head of the 7B layer is 4,096 / 8 = 512 wide and keeps 512 · 256 + 256: 1.05 million in all eight. The ratio is about 16:
a factor of 2² from the wider space, of 2 from half as many heads, and of 2 from keys of full width.

*Common mistakes:* forgetting that the state grows with the square of a head's width; half the width of *values*; counting one head.
"""

HINTS = (
    "How wide is a head in each? Then: numbers per head, times heads.",
    "2,048 x 2,048 for 4 heads, against 512 x 256 for 8, and one n for each head, as wide as a key.",
    "4 * (2048 * 2048 + 2048) / (8 * (512 * 256 + 256)).",
)

reference = 15.976608187134502

TOLERANCE = 1e-8

OUTPUTS = ("ratio",)

ALTERNATIVES = (16785408 / 1050624 * 1.0, 4 * 2048 * 2049 / (8 * 256 * 513))

MISTAKES = """
block = 4 * (2048 * 2048 + 2048) → block = 4 * (1024 * 1024 + 1024)
    The block's space is taken to be 4,096 wide: it is twice that, so a head is 2,048 wide.
layer = 8 * (512 * 256 + 256) → layer = 8 * (512 * 512 + 512)
    The layer's keys are taken to be as wide as its values: they are half as wide.
layer = 8 * (512 * 256 + 256) → layer = 8 * (256 * 256 + 256)
    The layer's values are halved, too: only its keys are.
block = 4 * (2048 * 2048 + 2048) → block = 4 * 2048 * 2048 ; layer = 8 * (512 * 256 + 256) → layer = 8 * 512 * 256
    Both tables are right; the normalisers n are missing, one for each head and as wide as a key.
block / layer → layer / block
    This is the layer's share of the block: how many times the layer fits into the block is asked.
layer = 8 * (512 * 256 + 256) → layer = 512 * 256 + 256 ; block = 4 * (2048 * 2048 + 2048) → block = 2048 * 2048 + 2048
    This compares one head with one head: there are 4 and 8 of them.
ratio = block / layer → ratio = 8192 / 4096
    This is the ratio of the widths: a table grows with the square of a head's width.
"""
