"""How many times larger is the cache?

*Count the bytes of a KV cache and of a linear attention's state, and divide. · 8 minutes · ●●○ · 1 point*

Two models of 28 layers are about to answer the next token, after 32,768 tokens of context, for one sequence.

- **Softmax attention** keeps a KV cache: 24 query heads share 4 key-value heads; keys and values are 128 wide and
  stored in bfloat16.
- **Linear attention** keeps its state: 10 heads, K = 128 features and V = 192 value entries, with the normaliser (a
  1 appended to each v), stored in float32.

How many times larger is the cache than the state? Both are counted in bytes, for all layers. Let Python do the
arithmetic; four digits are enough.
"""

### BEGIN SOLUTION
# layers, k and v, tokens, key-value heads, width, bytes
cache = 28 * 2 * 32_768 * 4 * 128 * 2
state = 28 * 10 * (192 + 1) * 128 * 4  # layers, heads, V + 1 rows, K columns, bytes
cache_over_state = cache / state
### END SOLUTION

WHY = r"""
**Solution.** The cache keeps a key *and* a value of width 128 for each token, each key-value head and each layer, 2
bytes a number: 28 · 2 · 32,768 · 4 · 128 · 2 = 1,879,048,192 bytes. The state keeps one (V + 1) × K table for each
head and layer, 4 bytes a number: 28 · 10 · 193 · 128 · 4 = 27,668,480 bytes. The ratio is about 67.9.

The layers cancel, the tokens do not: the cache grows with each of them, the state never does. After 32,768 / 67.9
≈ 482 tokens the two are equal. Below that, linear attention needs *more* memory.

*Common mistakes:* the factor 2 for k and v; the query heads instead of the shared ones; one table for all heads;
the row of the normaliser; bits for bytes on one side.
"""

HINTS = (
    "Count the numbers first, then multiply by the bytes of each number: 2 for bfloat16, 4 for float32.",
    "Cache: layers × 2 (a key and a value) × tokens × key-value heads × 128. State: layers × heads × (V + 1) × K.",
    "cache = 28 * 2 * 32_768 * 4 * 128 * 2; state = 28 * 10 * (192 + 1) * ... * ...; cache / state",
)


# In bytes; the 28 layers count in both, so they cancel: k and v, tokens, key-value heads, K, bfloat16
# over heads, V + 1 rows, K columns, float32.
reference = (2 * 32_768 * 4 * 128 * 2) / (10 * 193 * 128 * 4)

OUTPUTS = ("cache_over_state",)

TOLERANCE = 1e-3

ALTERNATIVES = (67.913,)

MISTAKES = """
28 * 2 * 32_768 → 28 * 1 * 32_768
    The cache is half of what it should be: it keeps a key and a value for each token. Is the factor
    2 there?
32_768 * 4 → 32_768 * 24
    The cache is counted with the 24 query heads. Grouped queries share keys and values: 4 heads are
    cached.
32_768 * 4 → 32_768 * 1
    One key-value head is counted in the cache. There are 4 of them, and each keeps its own keys and
    values.
state = 28 * → state =
    The layers are counted in the cache but not in the state. Every layer has a state of its own.
cache = 28 * → cache =
    The layers are counted in the state but not in the cache. Every layer has a cache of its own.
28 * 10 → 28 * 1
    One table is counted for all heads. Each of the 10 heads of a layer has its own state, 193 ×
    128.
28 * 10 → 28 * 4
    The state is counted with the 4 heads of the cache. The linear model has 10 heads of its own.
28 * 10 → 28 * 24
    The state is counted with the 24 query heads of the other model. The linear model has 10 heads.
(192 + 1) → 192
    The normaliser's row is missing: a 1 is appended to v, so the state of a head is (V + 1) × K.
(192 + 1) → 128
    The state of a head is counted as K × K. Its rows belong to v with its 1, its columns to k: (V +
    1) × K.
128 * 4 → 128 * 2
    Both are counted with the same bytes a number. The cache is bfloat16 (2 bytes), the state
    float32 (4).
cache / state → 8 * cache / state
    The cache is counted in bits, the state in bytes. bfloat16 has 16 bits, which are 2 bytes.
cache / state → cache / state / 8
    The state is counted in bits, the cache in bytes. float32 has 32 bits, which are 4 bytes.
cache / state → cache / state / 32_768
    The tokens are counted at the wrong place. The cache keeps a key and a value for each of the
    32,768 tokens; the state is one table, the same size after any number of them.
cache / state → cache
    This is the cache alone. The question asks cache / state.
cache / state → state
    This is the state alone. The question asks cache / state.
cache / state → cache - state
    This is the difference. How many times larger is a quotient: cache / state.
cache / state → state / cache
    The fraction is upside down: this is state over cache. The question asks cache / state.
(192 + 1) * 128 → 192 * (128 + 1)
    The normaliser's 1 is counted as a column. It is appended to v, so it adds a row: (V + 1) × K.
"""
