r"""A million tokens, with windows

*Compute what is kept if most layers have a sliding window. · 6 minutes · ●○○ · 1 point*

The chapter computed the KV cache of Llama 3.1 70B. Suppose that only every fourth of its layers kept all keys and values, and the other three quarters had a sliding window of 8,192 tokens. How large would the cache of one text of
1,048,576 tokens be, in GB (10⁹ bytes), in bfloat16?

The sizes are in `recipe("Transformer 2026").published["Llama 3.1 70B"]` of `seqlab.zoo`. Four digits are enough.
"""

from seqlab.zoo import recipe

### BEGIN SOLUTION
llama = recipe("Transformer 2026").published["Llama 3.1 70B"]
d_head = llama["d_model"] // llama["n_heads"]
each = 2 * llama["n_kv_heads"] * d_head * 2  # bytes of k and v in one layer
kept = llama["n_layers"] * (0.25 * 2**20 + 0.75 * 2**13)  # tokens, in all layers
cache_gb = each * kept / 10**9
### END SOLUTION

WHY = r"""
**Solution.** One layer keeps 2 · 8 · 128 numbers of 2 bytes for a token: 4,096 bytes. Twenty layers keep 1,048,576 tokens, 85.9 GB. Sixty layers keep 8,192 tokens, 2.0 GB. Together
87.9 GB, in place of 343.6 GB.

The windows cost almost nothing; the twenty full layers pay nearly everything. So a model can have wide windows, and saves only by having few full layers. Gemma 3 has one in six; chapter 18 is about such hybrids.

*Common mistakes:* 64 heads in place of the 8 that are cached; keys without values; a window of 8,192 in *all* layers; 2³⁰ bytes for a GB.
"""

HINTS = (
    "Count the bytes of one token in one layer first. How many layers keep how many tokens?",
    "One layer: 2 (k and v) · 8 heads · 128 channels · 2 bytes. 20 layers keep 2²⁰ tokens, 60 keep 2¹³.",
    "cache_gb = 2 * 8 * 128 * 2 * (20 * 2**20 + 60 * 2**13) / 1e9.",
)


def _from_the_zoo():
    sizes = recipe("Transformer 2026").published["Llama 3.1 70B"]
    width = sizes["n_kv_heads"] * sizes["d_model"] / sizes["n_heads"]
    windows = [2**20 if layer % 4 == 3 else 2**13 for layer in range(sizes["n_layers"])]
    return sum(4 * width * tokens for tokens in windows) / 1e9


reference = _from_the_zoo()

TOLERANCE = 2e-4

OUTPUTS = ("cache_gb",)

ALTERNATIVES = (87.91, 87.9, 4096 * (20 * 1_048_576 + 60 * 8192) / 1e9)

MISTAKES = """
2 * llama["n_kv_heads"] → 2 * llama["n_heads"]
    The cache is eight times what it should be: the 64 query heads are counted in place of the 8 key heads, or a head is taken to be 8,192 / 8 channels wide.
2 * llama["n_kv_heads"] * d_head * 2 → llama["n_kv_heads"] * d_head * 2
    The cache is half of what it should be: it holds a key and a value for each token, of 2 bytes a number (bfloat16).
2 * llama["n_kv_heads"] * d_head * 2 → 2 * llama["n_kv_heads"] * d_head * 4
    The cache is twice what it should be: a number is counted with 4 bytes (bfloat16 has 2), or something is counted twice.
0.25 * 2**20 + 0.75 * 2**13 → 2**20
    This is the cache without windows: in three layers of four only the last 8,192 tokens are kept.
0.25 * 2**20 + 0.75 * 2**13 → 2**13
    Every layer has a window here: one layer in four keeps all tokens.
0.25 * 2**20 + 0.75 * 2**13 → 0.25 * 2**20
    The layers with a window are left out: each keeps its last 8,192 tokens.
0.25 * 2**20 + 0.75 * 2**13 → 0.25 * 2**20 + 2**13
    The windows are counted in all 80 layers: three quarters, 60 of them, have one.
0.25 * 2**20 + 0.75 * 2**13 → 0.75 * 2**20 - 0.75 * 2**13
    This is what the windows save: the question is for what is kept.
10**9 → 10**6
    This is in MB: a GB has 10⁹ bytes.
10**9 → 10**12
    This is in TB: a GB has 10⁹ bytes.
0.25 * 2**20 + 0.75 * 2**13 → 0.75 * 2**20 + 0.25 * 2**13
    The shares have changed places: one layer in four keeps everything.
10**9 → 2**30
    This is in GiB, 2³⁰ bytes: the question is for 10⁹.
llama["n_layers"] * (0.25 * 2**20 + 0.75 * 2**13) → (0.25 * 2**20 + 0.75 * 2**13)
    One layer is counted on average: there are 80.
2**20 → 1_000_000
    The tokens are counted as 1,000,000: the text has 1,048,576.
2**13 → 8000
    The window is counted as 8,000 tokens: it has 8,192.
d_head = llama["d_model"] // llama["n_heads"] → d_head = llama["d_model"]
    Each head is counted with all 8,192 channels: a head has 8,192 / 64 = 128 of them.
each * kept / 10**9 → each * kept
    This is in bytes: divide by 10⁹.
"""
