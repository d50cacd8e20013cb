"""A million tokens

*Compare the memory of a transformer and of Mamba at their published sizes. · 8 minutes · ●●○ · 1 point*

Two published models of about 8 and 7 billion parameters have read 1,048,576 tokens of one text.

- **Qwen3 8B** keeps its KV cache: 36 layers, 32 query heads that share 8 key-value heads of width 128, in bfloat16.
- **Falcon Mamba 7B** keeps its state: 64 layers of width 4,096, expanded by 2; in each of the expanded channels 16 numbers of state, and the
  last inputs of a convolution over 4 tokens (the newest input is not kept, it is still to come). All in float32.

How many times larger is the cache than the state, in bytes? Four digits are enough.
"""

### BEGIN SOLUTION
# layers, k and v, heads, width, bytes, tokens
cache = 36 * 2 * 8 * 128 * 2 * 2**20
state = 64 * (2 * 4096) * (16 + 4 - 1) * 4  # layers, channels, numbers, bytes
cache_over_mamba = cache / state
### END SOLUTION

WHY = r"""
**Solution.** The cache: 36 layers · 2 (a key and a value) · 8 heads · 128 · 2 bytes · 1,048,576 tokens = 154.6 GB, ten times the weights. The
state: 64 layers · 8,192 channels · (16 + 3) numbers · 4 bytes = 39.8 MB, for any length of text. The ratio is about 3,880.

The cache equals the state after 270 tokens. Everything that Mamba knows of a million tokens has to fit into the room of 270.

*Common mistakes:* counting the 32 query heads; forgetting that channels are expanded; 4 inputs of the convolution instead of 3; a million as
1,000,000; bytes of the other model.
"""

HINTS = (
    "Count numbers first, then bytes: 2 for bfloat16, 4 for float32.",
    "Cache: layers × 2 × key-value heads × width × tokens. State: layers × expanded channels × (16 + 3).",
    "cache = 36 * 2 * 8 * 128 * 2 * 2**20; state = 64 * (2 * 4096) * (16 + 4 - 1) * 4; cache / state.",
)

reference = 36 * 2 * 8 * 128 * 2 * 2**20 / (64 * 8192 * 19 * 4)

TOLERANCE = 2e-4

OUTPUTS = ("cache_over_mamba",)

ALTERNATIVES = (3880.0, 154_618_822_656 / 39_845_888)

MISTAKES = """
36 * 2 * 8 → 36 * 8
    The ratio is half of what it should be: the cache keeps a key and a value for each token, or its numbers were counted
    as one byte (bfloat16 has 2).
2 * 8 * 128 → 2 * 32 * 128
    The cache is counted with the 32 query heads: they share 8 key-value heads, and those are cached.
(2 * 4096) → 4096
    The ratio is twice what it should be: either the channels are not expanded (there are 2 · 4,096 in each layer), or the
    state has 2 bytes a number (float32 has 4), or the cache has 4 (bfloat16 has 2).
(16 + 4 - 1) → (16 + 4)
    Four inputs of the convolution are kept: it needs the last 3, the fourth is the newest, still to come.
(16 + 4 - 1) → 16
    The inputs that the convolution keeps are missing: 3 for each channel.
cache / state → state / cache
    The fraction is upside down: how many times larger is the cache?
2**20 → 1_000_000
    The tokens are counted as 1,000,000: the text has 1,048,576.
2**20 → 1
    The cache is counted for one token: it keeps a key and a value for each of the 1,048,576.
state = 64 * → state =
    One layer of Mamba is counted: each of the 64 has its own state.
cache = 36 * → cache =
    One layer of the transformer is counted: each of the 36 has its own cache.
cache / state → cache / 2**30
    This is the cache alone, in GiB: how many times larger than the state is it?
cache / state → cache
    This is the cache alone, or the cache minus the state, in bytes: how many times larger is a quotient.
"""
