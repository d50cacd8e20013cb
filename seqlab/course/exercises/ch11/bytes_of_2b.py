r"""What RecurrentGemma 2B keeps

*Compute the memory of one text. · 8 minutes · ●●○ · 1 point*

RecurrentGemma 2B has 26 layers, in the order recurrent, recurrent, attention, and so on from the start.

- A recurrent layer keeps $h$, 2,560 numbers, and the last 3 inputs of its convolution, which are as wide. All in float32.
- An attention layer has **one** head of keys and one of values, both 256 wide, for its last 2,048 tokens. They are in bfloat16.

How many **bytes** does it keep after 131,072 tokens? (Work it out for 2,048 and for 1,048,576 as well, and compare.)
"""

### BEGIN SOLUTION
recurrent, local = 18, 8
state = recurrent * 2560 * (1 + 3) * 4
tokens = 2048  # the window: less than 131,072
cache = local * 2 * 256 * tokens * 2
kept = state + cache
### END SOLUTION

WHY = r"""
**Solution.** 26 = 8 · 3 + 2: eight times recurrent, recurrent, attention, and two recurrent layers more. So 18 are recurrent and 8 attend. The states take 18 · 2,560 · 4 numbers of 4 bytes, 0.7 MB; the caches 8 · 2 · 256 · 2,048 numbers of
2 bytes, 16.8 MB. Together 17.5 MB, after 2,048 tokens as after a million: at 2,048 the window is just full. Nearly all of it is the window. The chapter computes it with `seqlab.zoo.memory`, from the layers.

*Common mistakes:* a cache that grows with the text; 26 / 3 layers; keys without values; one type for both.
"""

HINTS = (
    "Count the layers of each kind first: every third layer attends, and 26 is not a multiple of 3.",
    "18 recurrent, 8 local. State: 18 * 2560 * 4 numbers of 4 bytes. Cache: 8 * 2 * 256 numbers a token, of 2 bytes, for at most 2,048 tokens.",
    "18 * 2560 * 4 * 4 + 8 * 2 * 256 * 2048 * 2.",
)

reference = 17514496

TOLERANCE = 1e-8

OUTPUTS = ("kept",)

ALTERNATIVES = (737280 + 16777216, 17514496.0)

MISTAKES = """
tokens = 2048 → tokens = 131072
    The caches grow with the text here: a window keeps at most 2,048 tokens.
recurrent, local = 18, 8 → recurrent, local = 17, 9
    There are 8 layers of attention: the last two of the 26 layers are recurrent.
recurrent, local = 18, 8 → recurrent, local = 26 * 2 / 3, 26 / 3
    This counts thirds of layers: write down the order of 26 layers, and count.
local * 2 * 256 → local * 256
    Either keys or values are missing from the cache: both are kept.
tokens * 2 → tokens * 4
    The cache is taken to be float32: it is bfloat16, 2 bytes a number.
(1 + 3) * 4 → 4
    The three inputs of the convolution are missing from the state, in each recurrent layer.
(1 + 3) * 4 → (1 + 3) * 2
    The state is taken to be bfloat16: it is float32, 4 bytes a number.
local * 2 * 256 → local * 10 * 2 * 256
    Each head of q is given keys and values of its own: all ten share one.
kept = state + cache → kept = cache
    The states of the recurrent layers are missing.
kept = state + cache → kept = state
    The caches of the attention layers are missing.
kept = state + cache → kept = (state + cache) / 2**20
    This is in MiB: bytes are asked for.
"""
