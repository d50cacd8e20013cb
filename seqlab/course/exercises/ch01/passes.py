r"""Where the cache passes the weights

*Find the length from which most of the memory is the text's. · 6 minutes · ●○○ · 1 point*

To fit on fewer cards, the weights of Llama 3.1 70B are often stored in 4 bits a number. The cache stays in bfloat16. From how many tokens on does the cache of one text
take more memory than these weights?

Take the sizes, and the total number of weights, from `recipe("Transformer 2026").published["Llama 3.1 70B"]`. All weights are stored in 4 bits. Four digits are enough.
"""

from seqlab.zoo import recipe

### BEGIN SOLUTION
llama = recipe("Transformer 2026").published["Llama 3.1 70B"]
weights = 0.5 * llama["total"]  # bytes
d_head = llama["d_model"] // llama["n_heads"]
per_token = 2 * llama["n_layers"] * llama["n_kv_heads"] * d_head * 2
tokens = weights / per_token
### END SOLUTION

WHY = r"""
**Solution.** The weights take half a byte each, 35.3 GB. A token takes 2 · 80 · 8 · 128 numbers of 2 bytes, 327,680 bytes. The cache passes the weights at
35.3 · 10⁹ / 327,680 ≈ 107,657 tokens.

The model is made for 131,072 tokens. With weights of 16 bits the cache passes them at 430,626 tokens, far outside; with weights of 4 bits *one* long text already takes more memory than the model. So who makes the weights smaller
has to make the cache smaller next: fewer key heads, windows, fewer bits, or a state of fixed size.

*Common mistakes:* weights of 2 bytes; a cache of 4 bits; 64 heads in place of 8; keys without values.
"""

HINTS = (
    "Write both as bytes: the weights do not depend on the length, the cache is a number of bytes for each token.",
    "Weights: 70.55 · 10⁹ · ½ byte. A token: 2 · 80 layers · 8 heads · 128 channels · 2 bytes.",
    "tokens = 0.5 * llama['total'] / (2 * 80 * 8 * 128 * 2).",
)

reference = 70_553_706_496 / 2 / (80 * 4096)

TOLERANCE = 5e-4

OUTPUTS = ("tokens",)

ALTERNATIVES = (107_657, 107_656, 107_660, 107_700, 35.2768532e9 / 327_680)

MISTAKES = """
0.5 * llama["total"] → 2 * llama["total"]
    This is four times too many: the weights are counted with 2 bytes (4 bits are half a byte), or the cache with half a byte (bfloat16 has 2).
0.5 * llama["total"] → llama["total"]
    This is twice too many: either the weights are counted with 1 byte (4 bits are half a byte), or the cache without its values or with 1 byte a number (bfloat16 has 2).
0.5 * llama["total"] → 4 * llama["total"]
    This is eight times too many: either the weights are counted with 4 bytes (4 bits are half a byte), or one key head is counted (there are 8).
llama["n_kv_heads"] → llama["n_heads"]
    This is eight times too few: the 64 query heads are counted in place of the 8 key heads, or a head is taken to be 8,192 / 8 channels wide.
0.5 * llama["total"] → 0.25 * llama["total"]
    This is half of what it should be: the weights are counted with 2 bits (4 bits are half a byte), or the cache with 4 bytes a number (bfloat16 has 2).
2 * llama["n_layers"] * llama["n_kv_heads"] → 2 * llama["n_kv_heads"]
    One layer is counted: each of the 80 has its own cache.
weights / per_token → per_token / weights
    The fraction is upside down: weights over the bytes of one token.
2 * llama["n_layers"] * llama["n_kv_heads"] * d_head * 2 → 320_000
    A token's 320 KiB are counted as 320,000 bytes: a KiB has 1,024.
weights / per_token → weights / per_token / 1000
    This is in thousands of tokens: the question is for tokens.
weights / per_token → weights
    This is the memory of the weights: divide by what one token takes.
d_head = llama["d_model"] // llama["n_heads"] → d_head = llama["d_model"]
    Each head is counted with all 8,192 channels: a head has 128 of them.
weights / per_token → 131072
    This is the context that the model is made for. Where do the two memories have the same size?
0.5 * llama["total"] → 0.5 * 70e9
    The weights are counted as 70 billion, as in the name: the zoo has the total.
"""
