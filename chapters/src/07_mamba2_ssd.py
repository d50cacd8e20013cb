# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 07 · Mamba-2 and SSD
#
# **After this chapter you can**
#
# - measure what a scan costs beside a matrix product, and say what a GPU adds to the difference;
# - write a gated recurrence as one structured matrix, and say what rank its blocks have and why;
# - derive the four steps that compute it by matrix products, and write them;
# - say what linear attention, RetNet, gated retention and Mamba-2 share, and the one line in which they differ;
# - write the whole Mamba-2 block, and train a small language model of bytes with it;
# - compute what a million tokens cost Falcon Mamba, Codestral Mamba and a transformer.
#
# **You need** chapters 04 (the chunkwise form), 05 (gates) and 06 (Mamba).
#
# **Time** 80 minutes to read, a minute to run.
#
# **Covers** Mamba-2 · SSD, state space duality · semiseparable matrices · Falcon Mamba · Codestral Mamba ·
# Mamba-3.
#
# Chapter 06 ended with Mamba: a gate that the token chooses, one for each channel and each number of its state. It
# learns what no fixed kernel can. This chapter asks what that gate costs, and how much of it one can give back.
#
# ## 1 · A failure: a scan pays for every number of its state
#
# Mamba keeps $N$ numbers per channel. Each token decays each of them, writes into it and reads it: three
# multiplications. For $T$ tokens and $E$ channels that makes $3\,T E N$. A product of a $T \times 3N$ and a
# $3N \times E$ matrix makes exactly as many. **Before you read on**, commit to an answer:

# %% tags=["measured"]
import torch

from seqlab.course import predict
from seqlab.figures import ssd as figures
from seqlab.mixers.mamba import selective_scan
from seqlab.train import best_seconds

torch.set_num_threads(1)  # one thread keeps the timings steady
T, E, WIDTHS = 1024, 256, (16, 32, 64, 128)


def scan(N):
    x, dt, A = torch.randn(1, T, E), torch.rand(1, T, E) / 10, -torch.rand(E, N)
    B, C = torch.randn(2, 1, T, N)
    return best_seconds(lambda: selective_scan(x, dt, A, B, C))


def product(N):
    left, right = torch.randn(T, 3 * N), torch.randn(3 * N, E)
    return best_seconds(lambda: left @ right)


seconds = {
    "Mamba's scan": {N: scan(N) for N in WIDTHS},
    "one product, as many multiplications": {N: product(N) for N in WIDTHS},
}
slower = seconds["Mamba's scan"][128] / list(seconds.values())[1][128]
shown = f"At N = 128 the scan takes {slower:.0f} times as long"
predict(
    "07-clock",
    "N = 128, the same multiplications: how much longer does the scan take?",
    lambda: figures.state_cost(seconds, title=shown),
    choices=["less than twice as long", "about 5 times", "more than 20 times"],
)

# %% [markdown]
# *What to see.* More than 20 times is right on the machine that built this page. Multiplications are not what the
# scan waits for. It makes $T E N$ numbers each for $a_t$, $b_t$ and $h_t$, chunk by chunk, with an exponential for
# every $a_t$, and moves them through memory. The product loads a number once and multiplies it many times. Both lines
# grow with $N$, but the scan's is the one that a model pays: so Mamba uses $N = 16$ and cannot afford a large state.
#
# On a GPU the scan need not move its states (its kernel keeps them on the chip), but then a second cost appears.
# **Matrix units** do nothing but matrix products. Here are the least times that an H100's published peaks allow for
# one layer with $N = 128$: computed, not measured.

# %% tags=["nbval-check-output"]
from seqlab.gpu.roofline import roofline

tokens, channels, state, chunk = 8192, 8192, 128, 128
moved = 2 * tokens * (2 * channels + 2 * state)  # x and y, and B and C, in bf16
steps = 2 * tokens * channels  # Mamba's Δ; the other has one for each head of 64
by_scan = 3 * tokens * channels * state
by_products = tokens * (channels * (chunk + 2 * state) + chunk * state)
print("scan      ", roofline(moved + steps, 2 * by_scan, "H100", "fp32"))
print("products  ", roofline(moved + steps // 64, 2 * by_products, "H100", "bf16"))

# %% [markdown]
# The second line is the algorithm of this chapter, with chunks of 128. It makes about as many multiplications, but the
# matrix units make them so fast that only moving the inputs is left. (The scan's exponentials are not counted, so its
# bound is kind.) We want such a recurrence, made of matrix products.
#
# ## 2 · One gate per head, one matrix per head
#
# What stands in the way? Unroll Mamba. In channel $e$, the weight of token $j$ in the read of token $i$ is
#
# $$M^{(e)}_{ij} = \sum_{n} C_{in}\, B_{jn}\; \exp\Bigl(A_{en} \sum_{s=j+1}^{i} \Delta_{se}\Bigr)$$
#
# The exponential depends on $e$ and on $n$. So each channel has a matrix of its own, and each entry of it is a sum of
# $N$ exponentials. That is no matrix product. **Mamba-2** makes $A$ one number per *head* of $P$ channels, and
# $\Delta$ one step per head and token. Then the exponential leaves the sum:
#
# $$M_{ij} = \underbrace{(C_i \cdot B_j)}_{\text{a product}}\;\underbrace{a_{j+1}\, a_{j+2} \cdots a_i}_{L_{ij}}
#   \qquad a_t = e^{\Delta_t A} \qquad y = M\,v, \quad v_t = \Delta_t x_t$$
#
# One matrix serves all $P$ channels of a head. Call $C$ a query, $B$ a key and $\Delta x$ a value: this is linear
# attention, masked by $L$. Its diagonal is 1 (no gate between a token and itself).


# %%
def decay_matrix(log_a):
    """L (..., T, T): a_{j+1} ⋯ a_i for j ≤ i, else 0. log_a (..., T)."""
    T = log_a.shape[-1]
    steps = log_a[..., None].expand(*log_a.shape, T)  # row i, column j: log a_i
    return steps.tril(-1).cumsum(-2).exp().tril()


def as_matrix(q, k, v, log_a):
    return (q @ k.mT * decay_matrix(log_a)) @ v


def as_recurrence(q, k, v, log_a):
    S, ys = v.new_zeros(v.shape[-1], k.shape[-1]), []
    for q_t, k_t, v_t, a_t in zip(q, k, v, log_a.exp(), strict=True):
        S = a_t * S + torch.outer(v_t, k_t)
        ys.append(S @ q_t)
    return torch.stack(ys)


# %% tags=["nbval-check-output"]
from seqlab.course import holds

rng = torch.Generator().manual_seed(0)


def randn(*shape):
    return torch.randn(*shape, generator=rng, dtype=torch.float64).requires_grad_()


def same(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


def with_gradients(f, *inputs):
    y = f(*inputs)
    return y, *torch.autograd.grad(y.sin().sum(), inputs)


def gates(*shape):
    """Logarithms of gates between 0 and 1."""
    return torch.nn.functional.logsigmoid(randn(*shape) + 1).detach().requires_grad_()


@holds
def one_matrix_has_two_readings():
    inputs = randn(37, 5), randn(37, 5), randn(37, 3), gates(37)
    same(with_gradients(as_matrix, *inputs), with_gradients(as_recurrence, *inputs))


# %% [markdown]
# This is **state space duality**: the same numbers, read as a matrix with a mask (like attention) or as a recurrence
# (like an RNN). For an arbitrary mask the second reading fails. What makes $L$ special?
#
# Cut the tokens at $m$. Every path from an early token $j \le m$ to a late token $i > m$ passes $m$, so its product
# of gates splits there:
#
# $$L_{ij} = (a_{m+1} \cdots a_i)\,(a_{j+1} \cdots a_m)$$
#
# A number for the row times a number for the column: **every block below the diagonal has rank 1**. A matrix of
# this kind is called *1-semiseparable*. For $M$ the row has a vector, $(a_{m+1} \cdots a_i)\, C_i$, and the column
# has $(a_{j+1} \cdots a_m)\, B_j$. So its blocks have rank $N$: the state at $m$ has $N$ numbers per channel, and
# nothing else can pass.


# %% tags=["nbval-check-output"]
@holds
def a_block_is_a_read_times_a_write():
    T, m = 37, 20
    q, k, log_a = randn(T, 5), randn(T, 5), gates(T)
    M = q @ k.mT * decay_matrix(log_a)
    to_end = log_a[:m].flip(0).cumsum(0).flip(0) - log_a[:m]  # a_{j+1} ⋯ a_m
    write = to_end.exp()[:, None] * k[:m]
    read = log_a[m:].cumsum(0).exp()[:, None] * q[m:]
    same(M[m:, :m], read @ write.mT)


# %%
with torch.no_grad():
    q, k, log_a = randn(64, 16), randn(64, 16), gates(64) / 16
    L = decay_matrix(log_a)
    scores = (q @ k.mT / 4).masked_fill(L == 0, -torch.inf)
    lower = {"L": L, "M, with N = 16": q @ k.mT * L, "softmax": scores.softmax(-1)}
    lower = {name: matrix[32:, :32] for name, matrix in lower.items()}
figures.singular_values(
    lower,
    title="A block of L has rank 1, of M rank 16; softmax attention has full rank",
)

# %% [markdown]
# *What to see.* The lower left quarter of each matrix, 32 × 32, and its singular values. Those of $L$ end after 1,
# those of $M$ after 16; the rest is rounding. Softmax attention, with the same $q$ and $k$, has no such end. It needs
# all keys and values of the past, and no state of 16 columns can stand for them.
#
# ## 3 · The four steps
#
# Now use both readings at once. Cut the tokens into chunks. Blocks on the diagonal are small: compute them as
# matrices. A block below the diagonal is read × decay × write, all of low rank: never build it, pass a state instead.

# %%
figures.blocks([1, 2, 4, 6, 8, 12, 24])

# %% [markdown]
# *What to see.* Move the slider. Each cell is a pair of tokens, coloured by the step that computes it. With $C = 24$
# there is one block, and every pair is computed: the matrix reading. With $C = 1$ only the diagonal is left: the
# recurrence. In between, the work inside grows with $C$, the number of states to pass with $1/C$. An edge of a
# block stands for the *write* of the chunk that it reads (step 2) or the *read* (step 4); step 3 lies between.


# %%
import torch.nn.functional as F
from einops import rearrange


def ssd(q, k, v, log_a, chunk=64, S=None):
    """q, k (B, T, H, N), v (B, T, H, P), log_a (B, T, H), S (B, H, P, N): y, S."""
    q, k, v = (rearrange(u, "b (c l) h d -> b h c l d", l=chunk) for u in (q, k, v))
    log_a = rearrange(log_a, "b (c l) h -> b h c l", l=chunk)

    # 1. Pairs inside each chunk: the diagonal blocks, as matrices.
    L = decay_matrix(log_a)
    y = (q @ k.mT * L) @ v

    # 2. Write: what each chunk adds to the state by its own end.
    writes = v.mT @ (L[..., -1, :, None] * k)  # (B, H, c, P, N)

    # 3. Pass on: the state before each chunk, by the same matrix over chunks.
    first = torch.zeros_like(writes[:, :, 0]) if S is None else S
    writes = torch.cat([first[:, :, None], writes], dim=2)
    across = decay_matrix(F.pad(log_a.sum(-1), (1, 0)))  # (B, H, c + 1, c + 1)
    states = torch.einsum("bhij, bhjpn -> bhipn", across, writes)

    # 4. Read: what the state before the chunk gives to each token in it.
    since_start = log_a.cumsum(-1).exp()[..., None]
    y = y + since_start * (q @ states[:, :, :-1].mT)
    return rearrange(y, "b h c l p -> b (c l) h p"), states[:, :, -1]


# %% tags=["nbval-check-output"]
from seqlab.core.recurrence import chunkwise


@holds
def four_steps_are_seqlabs_chunkwise():
    q, k, v = randn(2, 48, 3, 5), randn(2, 48, 3, 5), randn(2, 48, 3, 4)
    inputs = q, k, v, gates(2, 48, 3), randn(2, 3, 4, 5)

    def theirs(q, k, v, log_a, S):
        return chunkwise(q, k, v, log_a=log_a[..., None], state=S, chunk_size=7)

    for C in (1, 8, 16, 48):
        same(ssd(*inputs[:4], C, inputs[4]), theirs(*inputs))
        ours = with_gradients(lambda *xs, C=C: ssd(*xs[:4], C, xs[4])[0], *inputs)
        same(ours, with_gradients(lambda *xs: theirs(*xs)[0], *inputs))


# %% [markdown]
# Steps 1, 2 and 4 are matrix products for all chunks at once. Step 3 is the recurrence again, but over $T/C$ chunks
# instead of $T$ tokens, and its matrix is 1-semiseparable too. As a matrix it costs $(T/C)^2$, which is little while
# chunks are few; for a long text one would pass the state on, or cut into chunks again. (`chunkwise` merges steps 2 to
# 4 into a loop over chunks, and takes any $T$.) Back to the clock:


# %% tags=["measured"]
def four_steps(N, H=4):
    q, k = torch.randn(2, 1, T, H, N)
    v, log_a = torch.randn(1, T, H, E // H), -torch.rand(1, T, H) / 10
    return best_seconds(lambda: ssd(q, k, v, log_a))


steps = {N: four_steps(N) for N in WIDTHS}
faster = seconds["Mamba's scan"][128] / steps[128]
figures.state_cost(
    {**seconds, "the four steps": steps},
    title=f"At N = 128 the four steps are {faster:.0f} times as fast",
)

# %% [markdown]
# *What to see.* The four steps lie far below the scan, and at first they rise slowly with $N$: the pairs inside a
# chunk cost the same for any state. So Mamba-2 takes $N = 64$ to $256$ where Mamba took 16. That is the bargain of
# this chapter: **a poorer gate, one number for a whole head, and for it a state many times larger.**
#
# ## 4 · One function, four gates
#
# `ssd` does not know where its gates come from. Four layers of this course are this one function:
#
# | layer | gate $a_t$ of a head | who chooses it |
# |---|---|---|
# | linear attention (03) | 1 | nobody |
# | RetNet (04) | $\gamma = 1 - 2^{-5-h}$ | the designer |
# | gated retention (05) | $\sigma(w \cdot x_t)^{1/16}$ | the token |
# | Mamba-2 | $e^{\Delta_t A}$, with $v_t = \Delta_t x_t$ | the token, with one step for gate and write |
#
# A mixer of `seqlab` takes any function as its form, so each whole layer can be run, and trained, with ours:

# %% tags=["nbval-check-output"]
from functools import partial

from seqlab.mixers import GatedRetention, LinearAttention, Mamba2, RetNet


def our_form(q, k, v, *, log_a=None, state=None):
    log_a = q.new_zeros(*q.shape[:3], 1) if log_a is None else log_a
    return ssd(q, k, v, log_a[..., 0], 16, state)


LAYERS = {
    "linear attention": LinearAttention,
    "RetNet": RetNet,
    "gated retention": GatedRetention,
    "Mamba-2": partial(Mamba2, d_state=8),
}


def answer_of(make, form, x):
    torch.manual_seed(0)
    layer = make(16, n_heads=2, form=form).double()
    y, _ = layer(x)
    return y, *torch.autograd.grad(y.sin().sum(), [*layer.parameters()])


@holds
def four_layers_are_one_function():
    x = randn(2, 48, 16)
    for make in LAYERS.values():
        same(answer_of(make, our_form, x), answer_of(make, "recurrent", x))


# %%
x = torch.randn(1, 48, 32, generator=torch.Generator().manual_seed(1))
masks = {}
for name, make in LAYERS.items():
    torch.manual_seed(3)
    log_a = make(32, n_heads=2).project(x).get("log_a", torch.zeros(1, 48, 2, 1))
    masks[name] = decay_matrix(log_a.detach()[0, :, 0, 0])
figures.masks(
    masks, title="Four masks: no gate, a constant one, and two chosen by tokens"
)

# %% [markdown]
# *What to see.* Each panel is the mask $L$ of one untrained head. Linear attention keeps everything. RetNet's mask
# has the same values along each diagonal: only age counts. In the other two each token chooses, so rows and columns
# differ: where the shade steps, in a column and in a row, a token forgot. Mamba-2's gate and write share one
# $\Delta_t$: a token that closes its step both keeps the past and writes nothing. A token that opens it forgets the
# past *and* writes strongly.
#
# ## 5 · The whole block
#
# One projection makes everything: a gate $z$, the values' $x$, the keys $B$, the queries $C$ and the step. A short
# convolution of four tokens and a silu run over $x$, $B$ and $C$ together. Groups of heads share one $B$ and one $C$,
# as grouped-query attention shares keys. A skip $D x$ goes around the memory; then the gate, then the norm.


# %%
def our_mamba2(layer, u):
    """Mamba-2's forward: only the weights are `layer`'s."""
    (d_inner, d_keys), H, G = layer.widths, layer.n_heads, layer.n_groups
    z, xBC, w = layer.in_proj(u).split([d_inner, d_inner + 2 * d_keys, H], dim=-1)
    weight, bias = layer.conv.weight[:, None], layer.conv.bias
    xBC = F.conv1d(F.pad(xBC.mT, (3, 0)), weight, bias, groups=len(bias)).mT
    x, B, C = F.silu(xBC).split([d_inner, d_keys, d_keys], dim=-1)
    x = rearrange(x, "b t (h p) -> b t h p", h=H)
    B, C = (rearrange(m, "b t (g n) -> b t g n", g=G) for m in (B, C))
    k, q = (m.repeat_interleave(H // G, dim=2) for m in (B, C))
    dt = F.softplus(w + layer.dt_bias)  # (B, T, H)
    y, _ = ssd(q, k, dt[..., None] * x, -dt * layer.A_log.exp(), 16)
    y = rearrange(y + layer.D[:, None] * x, "b t h p -> b t (h p)") * F.silu(z)
    y = F.rms_norm(rearrange(y, "b t (g e) -> b t g e", g=G), [d_inner // G], eps=1e-5)
    return layer.out(layer.norm * rearrange(y, "b t g e -> b t (g e)"))


# %% tags=["nbval-check-output"]
@holds
def our_block_is_seqlabs_mamba2():
    layer, u = Mamba2(16, n_heads=4, d_state=8, n_groups=2).double(), randn(2, 48, 16)
    answers = []
    for y in (our_mamba2(layer, u), layer(u)[0]):
        answers.append(
            (y, *torch.autograd.grad(y.sin().sum(), [u, *layer.parameters()]))
        )
    same(*answers)


@holds
def one_token_at_a_time_is_the_whole_sequence():
    layer, u = Mamba2(16, n_heads=4, d_state=8).double(), randn(2, 48, 16)
    state, ys = None, []
    for u_t in u.split(1, dim=1):
        y, state = layer(u_t, state)
        ys.append(y)
    same(torch.cat(ys, dim=1), our_mamba2(layer, u))


# %% [markdown]
# The second check is decoding. The state has two parts: the memory $S$, and the last three inputs of the convolution.
#
# Is it also the Mamba-2 that others use? If `transformers` is installed, this cell makes one of its models with random
# weights, loads it by `seqlab.hub`, and compares the logits:

# %%
from importlib.util import find_spec

if find_spec("transformers"):
    import transformers

    from seqlab.hub import from_transformers

    transformers.logging.set_verbosity_error()
    sizes = {"hidden_size": 32, "num_heads": 4, "head_dim": 16, "n_groups": 2}
    theirs = transformers.Mamba2ForCausalLM(
        transformers.Mamba2Config(num_hidden_layers=2, **sizes)
    ).eval()
    tokens = torch.randint(1000, (2, 40))
    with torch.inference_mode():
        off = from_transformers(theirs)(tokens)[0] - theirs(tokens).logits
    assert off.abs().max() < 1e-5
    print("transformers' Mamba-2 and ours: the same logits, to 1e-5 in float32")

# %% [markdown]
# ## 6 · A language model of bytes
#
# Python ships with half a megabyte of help texts. A token is a byte, so there is no tokenizer. The last tenth of the
# topics is held out. The model has one block of width 64 with four heads and $N = 32$; it reads 200 batches of 8
# excerpts of 64 bytes, at a learning rate of 0.01, three times with seeds 0, 1 and 2. Beside it stands the oldest
# language model there is: a **5-gram**, which guesses a byte from the four before it by counting. It counts the very
# excerpts that the model of seed 0 reads.

# %%
import math

from seqlab.model import LanguageModel, generate
from seqlab.tasks import Text, ngram_bits, python_help
from seqlab.train import bits_per_byte, train

text = python_help()
learned, held_out = text[: len(text) * 9 // 10], text[len(text) * 9 // 10 :]
task, STEPS, BATCH, SEEDS = Text(learned, n_tokens=64), 200, 8, (0, 1, 2)


def language_model(seed):
    torch.manual_seed(seed)
    mixer = partial(Mamba2, n_heads=4, d_state=32)
    return LanguageModel(256, 64, [mixer], ffn=None)


how = {"steps": STEPS, "batch_size": BATCH, "lr": 0.01, "label": "bytes"}
models = [language_model(seed) for seed in SEEDS]
runs = [train(model, task, seed=s, **how) for s, model in enumerate(models)]

draw = torch.Generator().manual_seed(0)  # as in `train` with seed 0
batches = (task.batch(BATCH, draw).tokens for _ in range(STEPS))
excerpts = b"".join(bytes(batch.flatten().tolist()) for batch in batches)
COUNTED = {f"{n}-gram": ngram_bits(excerpts, held_out, n) for n in (3, 5)}
ALL = ngram_bits(learned, held_out)

# %% tags=["measured"]
found = [bits_per_byte(model, held_out) for model in models]
print("bits per byte, held out")
print("Mamba-2, seeds 0, 1, 2:       ", "  ".join(f"{b:.2f}" for b in found))
for name, b in COUNTED.items():
    print(f"{name}, the same excerpts:    {b:.2f}")
print(f"5-gram, all {len(learned):,} bytes:  {ALL:.2f}")

# %% tags=["measured"]
mean = sum(found) / len(found)
figures.bits_per_byte(
    {f"Mamba-2, seed {s}": run.loss for s, run in enumerate(runs)},
    {f"{name}, held out": b for name, b in COUNTED.items()},
    every=10,
    title=f"Held out: Mamba-2 {mean:.2f} bits, a 5-gram {COUNTED['5-gram']:.2f}",
)

# %% [markdown]
# *What to see.* A byte chosen at random costs 8 bits. The model falls quickly to the level of a 3-gram and slows
# down. **The 5-gram is still ahead**, in all three seeds. Counting learns from one sight; a network takes one small
# step for each batch, and ours has read as many bytes as a quarter of the text holds. What it has learned can be read
# off:

# %% tags=["measured"]
for when, model in (("before", language_model(0)), ("after", models[0])):
    draw = torch.Generator().manual_seed(1)
    out = generate(model, torch.tensor([list(b"The ")]), 160, generator=draw)
    print(f"{when}:", ascii(bytes(out[0].tolist()).decode("latin-1"))[:170])

# %% [markdown]
# Before training it draws bytes at random; after it, it writes the letters, spaces and line lengths of documentation,
# with words that are nearly words. A longer run: `python benchmarks/byte_lm.py` trains Mamba-2, a transformer and a
# hybrid (Mamba-2, Mamba-2, attention) of equal size, three seeds each. It shows its progress and goes on where it was
# stopped. The stored result:

# %%
from seqlab.course.paths import root

stored = root() / "benchmarks" / "results" / "byte_lm.md"
print(stored.read_text() if stored.exists() else "run python benchmarks/byte_lm.py")

# %% [markdown]
# With four blocks instead of one, and ten times as many bytes read, Mamba-2 passes the 5-gram. The transformer of the
# same size does not, within these steps; that says how quickly each learns from little, not which is better in the end.
# The hybrid is a little ahead of both.
#
# What does the trained memory do with a text? Each head chooses at each byte how much to forget. Here is its choice as
# a half-life, $\ln\frac12 / (\Delta_t A)$, on held-out words:

# %% tags=["measured"]
excerpt = held_out[2448:2496]
letters = [chr(b).replace(" ", "␣").replace("\n", "⏎") for b in excerpt]
block = models[0].blocks[0]
heard = block.mixer_norm(models[0].embedding(torch.tensor([list(excerpt)]))).detach()
lives = math.log(0.5) / block.mixer.project(heard)["log_a"].detach()[0, ..., 0].T
low, *_, high = lives.median(1).values.sort().values.tolist()
figures.half_lives(
    lives,
    letters,
    title=f"The heads' half-lives: from {low:.2g} to {high:.2g} tokens",
)

# %% [markdown]
# *What to see.* The heads have divided the work: the one with the shortest half-life sees hardly more than the last
# byte, the one with the longest sees tens of bytes. And within a row the half-life changes from byte to byte, which no
# constant decay can do. Under the microscope, the same memory; choose a head.

# %% tags=["measured"]
from seqlab.widgets import explore, microscope

microscope(block.mixer, heard, letters)

# %% [markdown]
# *What to see.* In the panel of weights, compare a head of short half-life with one of long. The first reads the
# bytes next to the diagonal, the second reaches back to the start of the excerpt.
#
# ## 7 · In the wild
#
# **Falcon Mamba** 7B (2024) calls itself the first competitive 7B model without attention. Its layers are Mamba, the
# first, with RMS norms on $\Delta$, $B$ and $C$ that keep a large model stable. **Codestral Mamba** 7B (2024) is
# Mistral's model of code: Mamba-2 in each of 64 layers, 128 heads in 8 groups. What do they keep for one sequence,
# beside the cache of Llama 3.1 8B?

# %% tags=["nbval-check-output"]
from seqlab.zoo import RECIPES

sizes = {row.name: row.published for row in RECIPES}
falcon, codestral = sizes["Falcon Mamba"]["7B"], sizes["Codestral Mamba"]["7B"]
llama = sizes["Transformer 2026"]["Llama 3.1 8B"]


def state_numbers(s):
    """Per layer, the memory and the convolution's last inputs, for all layers."""
    inner = s["expand"] * s["d_model"]
    conved = inner + 2 * s.get("n_groups", 0) * s["d_state"]
    return s["n_layers"] * (inner * s["d_state"] + (s["d_conv"] - 1) * conved)


d_head = llama["d_model"] // llama["n_heads"]
per_token = 2 * llama["n_layers"] * llama["n_kv_heads"] * d_head * 2  # bfloat16
million = 2**20
print(f"Llama 3.1 8B, 1M tokens: {per_token * million / 2**30:7,.2f} GiB")
for name, s in (("Falcon Mamba 7B", falcon), ("Codestral Mamba 7B", codestral)):
    kept = 4 * state_numbers(s)  # float32
    print(f"{name}, any length: {kept / 2**30:5.3f} GiB,", end=" ")
    print(f"as much as {kept / per_token:,.0f} tokens of that cache")

# %%
lengths = [2**n for n in range(8, 21)]
kept = {
    "Llama 3.1 8B, cache": [per_token * t for t in lengths],
    "Codestral Mamba 7B, state": [4 * state_numbers(codestral)] * len(lengths),
    "Falcon Mamba 7B, state": [4 * state_numbers(falcon)] * len(lengths),
}
figures.memory_lines(
    kept, lengths, title="A state costs the same at 256 tokens and at 1M"
)

# %% [markdown]
# *What to see.* Both axes are logarithmic. Codestral's state is about seven times Falcon's, $N = 128$ against 16
# (both also keep a convolution's inputs): that is section 3's bargain, in production. Below about 300 tokens
# for Falcon, and two thousand for Codestral, the transformer is the cheaper one. At a million, its cache is larger than
# the 80 GB of an H100.
#
# The memories of this chapter's models, small and untrained, on the same text (Mamba-3 belongs to the end of the
# chapter):

# %%
from seqlab import figures as course_figures
from seqlab.microscope import observe
from seqlab.zoo import recipe, row

torch.manual_seed(0)
MEMORIES = {
    "Mamba-2": row("Mamba-2").make(32),
    "Falcon Mamba": recipe("Falcon Mamba").build().blocks[0].mixer,
    "Codestral Mamba": recipe("Codestral Mamba").build().blocks[0].mixer,
    "Mamba-3": row("Mamba-3").make(32),
    "Mamba-3, MIMO": row("Mamba-3, MIMO").make(32),
}
story = list("abcabdabeabf")
pictured = torch.randn(6, 32)[[ord(c) - ord("a") for c in story]][None]
traces = {name: observe(mixer, pictured, story) for name, mixer in MEMORIES.items()}
explore(
    lambda model="Mamba-2", t=11: course_figures.microscope(traces[model], t),
    model=list(MEMORIES),
    t=(0, 11),
)

# %% [markdown]
# *What to see.* A head of Mamba-2 is a table: $P$ rows of values by $N$ columns of keys, faded by one gate. In Falcon
# Mamba a head is a single channel, one row, and each of its columns has a gate of its own. Mamba-3 is seen from
# outside: everything it keeps, in one table.
#
# ### Fact check
#
# **"Mamba-2 is 2 to 8 times faster than Mamba."** The paper says that of the *core layer*: SSD against the selective
# scan. A whole model also has projections, which are the same in both.
#
# **"State space duality shows that transformers are SSMs."** It covers attention *without* softmax, under a mask that
# is a product of gates. Section 2 measured the difference: softmax attention has full rank.
#
# **"$L$ is the exponential of differences of one cumulative sum."** In exact arithmetic. In float32 two large sums
# cancel, and in bfloat16 nothing is left. `decay_matrix` sums each span on its own; exercise 07.1 shows the damage.
#
# ## 8 · Practise
#
# In a terminal, `seqlab start 07` puts your own copy of the exercises into `work/`.

# %% [markdown] tags=["exercises"]
# The table of exercises is made from their files.

# %% [markdown]
# The notebook is [exercises/07_mamba2_ssd.ipynb](../exercises/07_mamba2_ssd.ipynb); work on the copy in `work/`.
#
# ## Recap, in five lines
#
# 1. A gate per channel and number must be scanned: on a CPU that waits for memory, on a GPU it leaves the matrix units
#    idle. So Mamba's state is small.
# 2. One gate per head leaves the sum over $N$: a head is one matrix $M_{ij} = (C_i \cdot B_j)\,a_{j+1} \cdots a_i$.
# 3. Every block below its diagonal has rank $N$: so pairs inside chunks, then write, pass on and read a state.
# 4. Linear attention, RetNet, gated retention and Mamba-2 are that one function; they differ in who chooses the gate.
# 5. One block of Mamba-2 after 100,000 bytes loses to a 5-gram; four blocks after a million (the stored run) win. Its
#    gates cannot turn a state: parity needs Mamba-3 (below), or chapter 08.
#
# Next, chapter 08: a memory that corrects itself.
#
# ## Further: Mamba-3, a state that turns
#
# A gate between 0 and 1 can only fade. Feed it ones: $S_t = a\,S_{t-1} + w$ runs towards a limit, and soon an even
# number of ones looks like an odd one. So **parity**, the smallest task of state tracking, is out of reach at length
# ([Grazzi et al.](https://arxiv.org/abs/2411.12537) prove it). **Mamba-3** (2026) changes three things. First, a step
# is integrated by both of its ends, weighted by a $\lambda_t$ that the token chooses (an *exponential-trapezoidal*
# rule). So a token also writes its neighbour, and the short convolution can go. Second, the state **turns**, by
# angles $\theta_t$ that the token chooses:
#
# $$S_t = a_t\,S_{t-1} R(\theta_t) + (1 - \lambda_t)\,\Delta_t\,a_t\,v_{t-1} \tilde k_{t-1}^\top
#   + \lambda_t\,\Delta_t\,v_t k_t^\top$$
#
# ($\tilde k_{t-1}$ is the last key, turned as well.) Third, a token may have several keys, queries and values (MIMO):
# more arithmetic for the same state. The turn needs no new algorithm. Turn keys and queries by the sum of all angles
# so far, as RoPE does, and the four steps run unchanged:


# %% tags=["nbval-check-output"]
def turned(u, angle):
    """Pairs of channels of u (T, N), turned by angle (T, N/2)."""
    pairs = torch.view_as_complex(u.unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * torch.exp(1j * angle)).flatten(-2)


@holds
def turned_keys_make_a_state_that_turns():
    q, k, v, log_a, theta = (
        randn(40, 6),
        randn(40, 6),
        randn(40, 3),
        gates(40),
        randn(40, 3),
    )
    phi = theta.cumsum(0)
    y = as_matrix(turned(q, phi), turned(k, phi), v, log_a)
    S, ys = torch.zeros(3, 6).double(), []
    for t in range(40):
        # its rows turn back, as the query turns on
        S = log_a[t].exp() * turned(S, -theta[t].expand(3, 3))
        S = S + torch.outer(v[t], k[t])
        ys.append(S @ q[t])
    same(y, torch.stack(ys))


# %% [markdown]
# Parity now needs two numbers: turn by half a circle at each 1, stand still at each 0. Can a model find that? One
# layer of width 32, four heads, $N = 16$, trained on 16 bits: 200 steps, learning rate 0.01, seeds 0, 1 and 2. In
# both models $\Delta$ starts near 1, so that a turn of half a circle is within reach.

# %%
from seqlab.mixers import Mamba3
from seqlab.tasks import Parity
from seqlab.train import accuracy


def counts_ones(mixer, seed):
    def wide_awake(d_model):
        made = mixer(d_model, n_heads=4, d_state=16)
        made.dt_bias.data.fill_(0.5)
        return made

    torch.manual_seed(seed)
    model = LanguageModel(2, 32, [wide_awake], ffn=None)
    train(model, Parity(16), steps=200, lr=0.01, seed=seed, label="parity")
    return model


counters = {M.__name__: [counts_ones(M, s) for s in SEEDS] for M in (Mamba2, Mamba3)}

# %% tags=["measured"]
from seqlab.figures.retention import accuracy as accuracy_figure

BITS = [8, 16, 32, 64, 128]
bits_read = [Parity(n).batch(100, torch.Generator().manual_seed(1)) for n in BITS]
right = {
    n: [[accuracy(m, b) for b in bits_read] for m in ms] for n, ms in counters.items()
}
accuracy_figure(
    {name: (BITS, shares) for name, shares in right.items()},
    title="A state that turns learns parity, and goes beyond its length for a while",
    x="bits read (log scale)",
    chance=0.5,
    log=True,
    marks={"trained length": 16},
)

# %% [markdown]
# *What to see.* Mamba-2 is right more often than not on the first few bits, and then guesses. Mamba-3 is right on all
# 16, or nearly all, in all three seeds, and still better than guessing at four times the length; then it fades: its
# angle is not exactly half a circle, and its gate is below 1. What did it learn? For each seed, the pair of channels
# that comes nearest to the machine above; and the same models with every turn set to 0:

# %% tags=["measured"]
for seed, model in enumerate(counters["Mamba3"]):
    block = model.blocks[0]
    each = block.mixer_norm(model.embedding(torch.tensor([[0], [1]])))
    turns = block.mixer(each)[1].angle.detach().flatten(1).rad2deg()  # (2, pairs)
    off = (turns - torch.tensor([[0.0], [180.0]]) + 180).remainder(360) - 180
    at_0, at_1 = off[:, off.abs().sum(0).argmin()].tolist()
    block.mixer.in_proj.weight.data[-block.mixer.n_angles :] = 0
    print(
        f"seed {seed}: turn at 0 {at_0:4.0f}°, at 1 {180 + at_1:4.0f}°; 16 bits:",
        end=" ",
    )
    without = accuracy(model, bits_read[1])
    print(f"{right['Mamba3'][seed][1]:.0%}, without turns {without:.0%}")

# %% [markdown]
# In each seed some pair of channels turns by about half a circle at a 1, and hardly at a 0. Without turns the trained
# model does little better than guessing. This is one task, one width and one start of $\Delta$: with the usual small
# $\Delta$ most of our runs did not learn it in 200 steps. The number of pairs matters as well: with $N = 8$ one seed
# in four fell short. In the zoo this is *Mamba-3*, and *Mamba-3, MIMO*; project 07.10 builds such a counter by hand.
# Chapter 08 has another way to parity: a gate of $-1$.
#
# ## References
#
# - T. Dao, A. Gu. [*Transformers are SSMs: Generalized Models and Efficient Algorithms Through Structured State Space
#   Duality*](https://arxiv.org/abs/2405.21060) (Mamba-2). 2024.
# - A. Gu, T. Dao. [*Mamba: Linear-Time Sequence Modeling with Selective State
#   Spaces.*](https://arxiv.org/abs/2312.00752) 2023.
# - A. Lahoti et al. [*Mamba-3: Improved Sequence Modeling using State Space
#   Principles.*](https://arxiv.org/abs/2603.15569) 2026. Details from state-spaces/mamba.
# - R. Grazzi et al. [*Unlocking State-Tracking in Linear RNNs Through Negative
#   Eigenvalues*](https://arxiv.org/abs/2411.12537) (why gates between 0 and 1 cannot do parity). 2024.
# - J. Zuo et al. [*Falcon Mamba: The First Competitive Attention-free 7B Language
#   Model.*](https://arxiv.org/abs/2410.05355) 2024.
# - Mistral AI. [*Mamba-Codestral-7B-v0.1*](https://huggingface.co/mistralai/Mamba-Codestral-7B-v0.1), model card. 2024.
# - Y. Sun et al. [*You Only Cache Once*](https://arxiv.org/abs/2405.05254) (gated retention). 2024.
# - Y. Sun et al. [*Retentive Network*](https://arxiv.org/abs/2307.08621) (RetNet). 2023.
# - A. Katharopoulos et al. [*Transformers are RNNs.*](https://arxiv.org/abs/2006.16236) 2020.
# - I. Witten, T. Bell. [*The Zero-Frequency Problem*](https://doi.org/10.1109/18.87000) (how our n-gram shares its
#   trust). 1991.
