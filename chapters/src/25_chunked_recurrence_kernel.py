# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 25 · Chunked recurrence kernel
#
# **After this chapter you can**
#
# - write a recurrence as a kernel with the fewest bytes possible, and say what its roofline does not see;
# - write it in chunks, with two kernels that serve linear attention, RetNet, gated retention, Mamba-2 and GLA;
# - choose sums of logarithms that neither overflow nor lose digits, for a gate per head and a gate per channel;
# - derive the backward, and get it from the forward with its roles exchanged;
# - count bytes, flops and steps for each length of a chunk, and choose by counting.
#
# **You need** chapters 04 and 05 (the chunkwise form, gates, secondary chunks) and chapter 23 (programs, masks,
# `trace`, `sanitize`, `compile_report`). Chapter 07 helps. No GPU. Triton itself is installed on Linux only; on macOS
# and Windows this page can be read, but its kernels do not run.
#
# **Time** 75 minutes to read, two minutes to run.
#
# **Covers** recurrent kernel · states between chunks · outputs of a chunk · log-space gates · secondary chunks ·
# first and last state · backward · chunk size.
#
# ## 1 · A failure that no count of bytes can see
#
# Chapters 04 to 07 share one equation. The state $S_t$ is a table with $V$ rows and $K$ columns; $a_t$ is a number
# per head, or one per column:
#
# $$S_t = S_{t-1}\,\mathrm{diag}(a_t) + v_t k_t^\top \qquad y_t = S_t\, q_t$$
#
# As a kernel it is a loop. A program keeps the state of one head in registers, reads a token, and writes its $y$.
# Rows of $S$ never meet, so a program may also own only BV of the rows.

# %%
import torch

from seqlab.gpu.anywhere import tl, triton
from seqlab.gpu.trace import trace


@triton.jit
def recurrent_kernel(p_q, p_k, p_v, p_a, p_y, T, H,
                     K: tl.constexpr, V: tl.constexpr, BV: tl.constexpr):  # fmt: skip
    i_h, b_S = tl.program_id(1), tl.zeros((BV, K), tl.float32)
    o_k, o_v = tl.arange(0, K), tl.program_id(0) * BV + tl.arange(0, BV)
    for t in range(0, T):
        row = t * H + i_h
        b_k, b_v = tl.load(p_k + row * K + o_k), tl.load(p_v + row * V + o_v)
        a = tl.exp(tl.load(p_a + row))
        b_S = a * b_S + b_v[:, None] * b_k[None, :]
        b_y = tl.sum(b_S * tl.load(p_q + row * K + o_k)[None, :], 1)
        tl.store(p_y + row * V + o_v, b_y.to(p_y.dtype.element_ty))


rng = torch.Generator().manual_seed(0)
q, k, v = torch.randn(3, 256, 2, 64, generator=rng).half()
log_a = -torch.rand(256, 2, 1, generator=rng) / 10
y, sizes = torch.empty_like(v), {"K": 64, "V": 64}
one = trace(recurrent_kernel, (1, 2), q, k, v, log_a, y, 256, 2, **sizes, BV=64)
print(f"bytes asked for: {one.bytes:,}, of these read again: {one.bytes_read_again}")
print(one.floor("H100"))
print(f"programs: {len(one.programs)}, matrix products: {len(one.dots)}")

# %% [markdown]
# Each number is read once or written once; the state never leaves the chip. No kernel can ask for less. If bytes were
# all that matters, this chapter would end here. (The floor counts the flops of matrix products alone, and there are
# none.)
#
# It does not, for two reasons that a roofline has no axis for. There are as many programs as heads: with 16 heads,
# 116 of the 132 multiprocessors of an H100 have nothing to do. (With BV = 16 there are four times as many programs,
# and each reads all of $q$ and $k$.) And each program makes $T$ steps, one *after* the other. No step is a product of
# two matrices, so the units that make nearly all of the device's flops stand idle.
#
# The chunked form of chapter 04 answers both: many chunks at once, made of matrix products. **Before you read on**,
# commit to an answer. `kernels/chunk_recurrence.py` has that form as two kernels. In chunks of 64, for the same heads
# of width 64, how do the bytes that it asks for compare?

# %%
from seqlab.course import predict
from seqlab.figures import chunk_kernel as figures
from seqlab.figures.flash_kernel import moved
from seqlab.kernels.chunk_recurrence import read_chunks, walk_states

books = {"recurrent": figures.asked(one)}
for C in (16, 64):
    S, last = torch.empty(256 // C, 2, 64, 64).half(), torch.empty(2, 64, 64)
    how = {**sizes, "A": 1, "C": C, "PRECISION": "ieee", "BK": 64, "BV": 64}
    args = k, v, log_a, None, S, last, 256, 2
    walked = trace(walk_states, (1, 1, 2), *args, **how, BACK=False)
    read = trace(read_chunks, (256 // C, 2), q, k, v, log_a, S, y, 256, 2, **how)
    books[f"chunks of {C}"] = figures.asked(walked, read)
more = sum(books["chunks of 64"].values()) / one.bytes
predict(
    "25-bytes",
    "In chunks of 64: how many bytes, compared with the recurrent kernel?",
    lambda: moved(books, f"In chunks of 64: {more:.1f} times the bytes"),
    choices=["a quarter", "a half", "about as many", "more than twice as many"],
)

# %% [markdown]
# *What to see.* More than twice as many. The chunked form *loses* in bytes: it reads k and v in both kernels, and
# it writes and reads states that the loop keeps in registers (S, which shrinks with longer chunks). If you said
# fewer, you may have thought of attention, where tiles save bytes. Here they are paid for something else: in chunks of
# 64 there are 4 steps in a row instead of 256, and all other work is matrix products that run side by side. What a
# chunk costs in bytes, and what it buys, is the subject of this chapter.
#
# ## 2 · From loop to tiles
#
# Take a chunk of $C$ tokens, and $S$ as it was before the first. Three kinds of decay appear, all of them products of
# gates over a span of tokens:
#
# - $b_i$, from the chunk's start up to token $i$, its own gate included;
# - $f_j$, from after token $j$ to the chunk's end;
# - $d_{ij}$, from after token $j$ up to token $i$, for $j \le i$.
#
# A read finds what came before the chunk, and the writes of the chunk up to itself. A write survives to the end:
#
# $$y_i = S\,(b_i\, q_i) + \sum_{j \le i} d_{ij}\,(q_i \cdot k_j)\, v_j \qquad
# S' = b_C\, S + \sum_j v_j\,(f_j\, k_j)^\top$$
#
# In PyTorch, for one head with a gate per head, in two passes as the kernels will have them: first the states, one
# after the other; then all outputs. The ledger of chapter 14 counts what crosses into the fast memory.

# %%
from seqlab.gpu.ledger import Ledger


def by_chunks(q, k, v, log_a, ledger, C=16):
    spans = torch.arange(len(q)).split(C)
    S, states = v.new_zeros(v.shape[1], k.shape[1]), []
    for span in spans:
        ledger.store("S", torch.empty_like(S), S.detach())
        states.append(S)
        b_k, b_v = ledger.load("k", k[span]), ledger.load("v", v[span])
        f = (log_a[span].flip(0).cumsum(0).flip(0) - log_a[span]).exp()
        S = log_a[span].sum().exp() * S + b_v.mT @ (f * b_k)
    ledger.clear()
    ys = []
    for span, before in zip(spans, states, strict=True):
        b_q, b_k = ledger.load("q", q[span]), ledger.load("k", k[span])
        b_v, b_S = ledger.load("v", v[span]), ledger.load("S", before)
        G = log_a[span].cumsum(0)
        d = (G - G.mT).exp().tril()
        ys.append((b_q * G.exp()) @ b_S.mT + (b_q @ b_k.mT * d) @ b_v)
        ledger.store("y", torch.empty_like(ys[-1]), ys[-1].detach())
    return torch.cat(ys), S


# %% [markdown]
# ## 3 · One kernel, four gates
#
# All four families differ only in the gate, and the gate only in its width $A$: 1 for a gate per head, $K$ for one
# per column.
#
# | layer | log a | width |
# |---|---|---|
# | linear attention (03) | 0 | 1 |
# | RetNet (04) | a constant of the head | 1 |
# | gated retention (05), Mamba-2 (07) | chosen by the token | 1 |
# | GLA (05) | chosen by the token, for each channel | K |
#
# Tensors are (time, heads, width); `rows` loads N tokens of a head. The first kernel **walks** over the chunks,
# leaves the state before each, and at the end the last one. It takes a first state, so a text can go on where another
# call stopped. `(N, A)` tiles of gates broadcast against `(N, K)` tiles of keys, for either width. With BACK it walks
# from the last chunk to the first; ignore that until section 6.


# %%
@triton.jit
def rows(p, first, T, i_h, H, N: tl.constexpr, W: tl.constexpr):
    """Tokens first … first + N of a head of (T, H, W); 0 past the end."""
    o_t, o_w = first + tl.arange(0, N)[:, None], tl.arange(0, W)[None, :]
    return tl.load(p + (o_t * H + i_h) * W + o_w, mask=o_t < T, other=0.0)


@triton.jit
def walk_kernel(p_k, p_v, p_a, p_first, p_S, p_last, T, H,
                K: tl.constexpr, V: tl.constexpr, A: tl.constexpr, C: tl.constexpr,
                BV: tl.constexpr, BACK: tl.constexpr):  # fmt: skip
    o_v, i_h = tl.program_id(0) * BV + tl.arange(0, BV), tl.program_id(1)
    o_c, o_k = tl.arange(0, C)[:, None], tl.arange(0, K)[None, :]
    at = (i_h * V + o_v[:, None]) * K + o_k
    b_S = tl.load(p_first + at)
    chunks = tl.cdiv(T, C)
    for n in range(0, chunks):
        c = chunks - 1 - n if BACK else n
        tl.store(p_S + c * H * V * K + at, b_S)
        b_k, b_a = rows(p_k, c * C, T, i_h, H, C, K), rows(p_a, c * C, T, i_h, H, C, A)
        at_v = ((c * C + o_c) * H + i_h) * V + o_v[None, :]
        b_v = tl.load(p_v + at_v, mask=c * C + o_c < T, other=0.0)
        b_f = tl.cumsum(b_a, 0) if BACK else tl.cumsum(b_a, 0, reverse=True) - b_a
        b_k = (b_k * tl.exp(b_f)).to(b_v.dtype)
        b_S *= tl.exp(tl.sum(b_a, 0))[None, :]
        b_S = tl.dot(tl.trans(b_v), b_k, b_S, input_precision="ieee")
    tl.store(p_last + at, b_S)


# %% [markdown]
# Past the end of the text, `rows` gives k = 0 and log a = 0: such tokens write nothing and forget nothing, so the
# last state needs no case of its own.
#
# The second kernel computes outputs. A program owns a **block** of B tokens. It computes the pairs inside its block
# (`pairs`, next), then goes *back* through the earlier blocks of its chunk, and at last reads the state before the
# chunk. On its way it adds up, in `b_R`, the logs of the gates that lie between. With B = C there is nothing to go
# back through; section 4 needs the blocks.


# %%
@triton.jit
def pairs(b_q, b_k, b_G, B: tl.constexpr, A: tl.constexpr):
    """Σ_k q_ik k_jk d_ijk inside a block (B, B). b_G: sums of logs from its start."""
    o_i, o_j = tl.arange(0, B)[:, None], tl.arange(0, B)[None, :]
    if A == 1:
        b_d = tl.where(o_i >= o_j, b_G - tl.trans(b_G), float("-inf"))
        b_P = tl.dot(b_q, tl.trans(b_k), input_precision="ieee") * tl.exp(b_d)
    else:
        b_P = tl.zeros((B, B), tl.float32)
        for j in range(0, B):
            b_kj = tl.sum(tl.where(o_i == j, b_k, 0.0), 0)[None, :]
            b_Gj = tl.sum(tl.where(o_i == j, b_G, 0.0), 0)[None, :]
            b_d = tl.where(o_i >= j, b_G - b_Gj, float("-inf"))
            b_Pj = tl.sum(b_q * b_kj * tl.exp(b_d), 1)[:, None]
            b_P = tl.where(o_j == j, b_Pj, b_P)
    return b_P


@triton.jit
def read_kernel(p_q, p_k, p_v, p_a, p_S, p_y, T, H,
                K: tl.constexpr, V: tl.constexpr, A: tl.constexpr, C: tl.constexpr,
                B: tl.constexpr):  # fmt: skip
    start, i_h = tl.program_id(0) * B, tl.program_id(1)
    o_t, o_v = start + tl.arange(0, B)[:, None], tl.arange(0, V)
    b_q = rows(p_q, start, T, i_h, H, B, K)
    b_k, b_v = rows(p_k, start, T, i_h, H, B, K), rows(p_v, start, T, i_h, H, B, V)
    b_G = tl.cumsum(rows(p_a, start, T, i_h, H, B, A), 0)
    b_P = pairs(b_q, b_k, b_G, B, A).to(b_v.dtype)
    b_y = tl.dot(b_P, b_v, input_precision="ieee")
    b_qG, b_R = (b_q * tl.exp(b_G)).to(b_q.dtype), tl.zeros((1, A), tl.float32)
    for n in range(0, start % C // B):
        first = start - (n + 1) * B
        b_k, b_v = rows(p_k, first, T, i_h, H, B, K), rows(p_v, first, T, i_h, H, B, V)
        b_a = rows(p_a, first, T, i_h, H, B, A)
        b_f = tl.cumsum(b_a, 0, reverse=True) - b_a
        b_k = (b_k * tl.exp(b_f + b_R)).to(b_q.dtype)
        b_P = tl.dot(b_qG, tl.trans(b_k), input_precision="ieee").to(b_v.dtype)
        b_y = tl.dot(b_P, b_v, b_y, input_precision="ieee")
        b_R += tl.sum(b_a, 0)[None, :]
    at_S = ((start // C * H + i_h) * V + o_v[:, None]) * K + tl.arange(0, K)[None, :]
    b_S = tl.load(p_S + at_S).to(b_q.dtype)
    b_q = (b_q * tl.exp(b_G + b_R)).to(b_q.dtype)
    b_y = tl.dot(b_q, tl.trans(b_S), b_y, input_precision="ieee")
    at_y = p_y + (o_t * H + i_h) * V + o_v[None, :]
    tl.store(at_y, b_y.to(p_y.dtype.element_ty), mask=o_t < T)


def walk(k, v, log_a, first, C, BACK=False):
    """The state before each chunk (chunks, H, V, K), and the last."""
    (T, H, K), V, A = k.shape, v.shape[2], log_a.shape[2]
    S, last = first.new_empty(triton.cdiv(T, C), H, V, K), torch.empty_like(first)
    how = {"K": K, "V": V, "A": A, "C": C, "BV": 16, "BACK": BACK}
    walk_kernel[(V // 16, H)](k, v, log_a, first, S, last, T, H, **how)
    return S, last


def chunked(q, k, v, log_a, first=None, C=32, B=16):
    """q, k (T, H, K), v (T, H, V), log_a (T, H, A), first (H, V, K): y and last."""
    (T, H, K), V, A = q.shape, v.shape[2], log_a.shape[2]
    first = torch.zeros(H, V, K) if first is None else first
    S, last = walk(k, v, log_a, first, C)
    y, how = torch.empty_like(v), {"K": K, "V": V, "A": A, "C": C, "B": B}
    read_kernel[(triton.cdiv(T, B), H)](q, k, v, log_a, S, y, T, H, **how)
    return y, last


# %% [markdown]
# States and sums are float32; what enters a product has the type of q. Are the two kernels the recurrence, for every
# gate, a ragged end, and a first state? Would a GPU find a fault? And are they a form that whole layers can use? A
# text's heads are independent, and so are texts: to the kernel, a batch is more heads.

# %% tags=["nbval-check-output"]
from functools import partial

from einops import rearrange
from torch.nn.functional import logsigmoid

from seqlab.core.recurrence import recurrent
from seqlab.course import holds
from seqlab.gpu.sanitize import sanitize
from seqlab.mixers import GLA, GatedRetention, LinearAttention, Mamba2, RetNet

SINGLE = 2e-5  # float32: some tens of roundings of 6e-8, of sums up to 10


def randn(*shape):
    return torch.randn(*shape, generator=rng, dtype=torch.float64)


def same(ours, theirs, atol=1e-9):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=atol)


def drawn(T, A=1, H=2, K=16, V=32):
    """q, k, v, log_a and a first state, in float64."""
    qkv = randn(T, H, K) / K**0.5, randn(T, H, K), randn(T, H, V)
    return *qkv, logsigmoid(randn(T, H, A)), randn(H, V, K)


def expected(q, k, v, log_a, S):
    y, last = recurrent(q[None], k[None], v[None], log_a=log_a[None], state=S[None])
    return y[0], last[0]


def our_form(q, k, v, *, log_a=None, state=None):
    """The page's kernels as a form of seqlab's mixers: (B, T, H, ·), (B, H, V, K)."""
    log_a = q.new_zeros(*q.shape[:3], 1) if log_a is None else log_a
    flat = [rearrange(u, "b t h k -> t (b h) k").contiguous() for u in (q, k, v, log_a)]
    y, last = chunked(*flat, None if state is None else state.flatten(0, 1))
    y = rearrange(y, "t (b h) v -> b t h v", b=len(q))
    return y, last.unflatten(0, (len(q), -1))


@holds
def tiles_and_kernels_are_one_recurrence():
    for T, A in ((1, 1), (32, 16), (45, 1), (45, 16)):
        given = drawn(T, A)
        for C, B in ((16, 16), (64, 16), (64, 32)):
            ours = chunked(*(x.float() for x in given), C=C, B=B)
            for one, other in zip(ours, expected(*given), strict=True):
                same(one.double(), other, SINGLE)
    (*given, first), book = drawn(45), Ledger(2**20)
    y, _ = expected(*given, 0 * first)
    same(by_chunks(*(x[:, 0] for x in given), book)[0], y[:, 0])
    assert book.moved == 2 * (45 * 3 * (16 + 32) + 2 * 3 * 16 * 32)


@holds
def a_gpu_finds_no_fault():
    q, k, v, log_a, first = (x.float() for x in drawn(45, A=16))
    S, last, how = torch.zeros(2, 2, 32, 16), first.clone(), {"K": 16, "V": 32, "A": 16}
    args = k, v, log_a, first, S, last, 45, 2
    assert not sanitize(walk_kernel, (2, 2), *args, **how, C=32, BV=16, BACK=False)
    args = q, k, v, log_a, S, torch.empty_like(v), 45, 2
    assert not sanitize(read_kernel, (3, 2), *args, **how, C=32, B=16)


@holds
def five_layers_are_these_two_kernels():
    x = torch.randn(1, 37, 32, generator=rng)
    options = {RetNet: {"expand_v": 1}, Mamba2: {"d_state": 16, "d_head": 32}}
    options |= {GatedRetention: {}, GLA: {"expand_k": 1.0}}
    options |= {LinearAttention: {"normalize": False}}
    for make, more in options.items():
        layer = make(32, n_heads=2, form="recurrent", **more)
        right, layer.form = layer(x)[0], our_form
        same(layer(x)[0], right, SINGLE)


# %% [markdown]
# (The tiles in PyTorch agree to 1e-9, in float64; their ledger has q and y once, k and v twice, and S twice for each
# chunk. The kernels compute in float32.)
#
# Watch the second kernel. One head of 64 tokens, chunks of 32, blocks of 16:

# %%
q, k, v = torch.randn(3, 64, 1, 16, generator=rng).half()
log_a, S = -torch.rand(64, 1, 16, generator=rng) / 10, torch.zeros(2, 1, 16, 16)
how = {"K": 16, "V": 16, "A": 16, "C": 32, "B": 16}
trace(read_kernel, (4, 1), q, k, v, log_a, S, torch.empty_like(v), 64, 1, **how)

# %% [markdown]
# *What to see.* Drag the slider, or press Play. Programs 0 and 2 begin a chunk and read only their own block; 1 and 3
# also read the block before them. Each reads exactly one state: that is all they know of earlier chunks, and no
# program waits for another.
#
# ## 4 · Sums of logarithms
#
# A decay over a span is exp of a sum of logs. There are three ways to get all the sums of a chunk:
#
# - **factors**: $e^{G_i}\, e^{-G_j}$ with $G_i$ the sum up to $i$. One product of matrices, but the second factor
#   overflows (chapter 04);
# - **differences**: $e^{G_i - G_j}$, as `pairs` does it. No overflow, but $G_i - G_j$ loses the digits that $G$
#   lacks;
# - **own spans**: sum the logs of each span by itself, $C \times C$ sums.
#
# And the sums may be kept in float32, or, since the inputs are in half precision anyway, in float16. How wrong do
# decays get?

# %%
SEEDS, LENGTHS = (0, 1, 2), (16, 64, 256)


def decays(log_a):
    """{way: d_ij for all pairs of a chunk}, from its log gates (C,)."""
    G, half = log_a.cumsum(0), log_a.half()
    for i in range(1, len(half)):  # a sum in float16 is rounded at each token
        half[i] += half[i - 1]

    def differences(G):
        return (G[:, None] - G).float().clamp(max=0).exp()

    found = {
        "factors": G.exp()[:, None] * (-G).exp(),
        "differences, sums in float16": differences(half),
        "differences": differences(G),
        "own spans": log_a[:, None].expand(-1, len(G)).tril(-1).cumsum(0).exp(),
    }
    return {way: d.tril() for way, d in found.items()}


errors = figures.errors_of(decays, LENGTHS, SEEDS)

# %% tags=["measured"]
lost = max(errors["differences, sums in float16"][64])
figures.decay_errors(
    errors, f"Sums in float16: decays off by up to {lost:.3f} at C = 64"
)

# %% [markdown]
# *What to see.* The gates lose one unit of log on average for each token, a factor of $e$; three seeds. Factors end
# at inf or NaN in a chunk of 256. Sums in float16 give decays that are wrong in the second digit: $G$ reaches 64, where
# float16 numbers are 1/16 apart. Differences in float32 are good, and get worse as $G$ grows; own spans stay at
# rounding. So this page keeps gates in float32, whatever the type of q, and its kernels take differences only within a
# block of B tokens. Across blocks, `b_f + b_R` adds spans that lie between i and j, and nothing is subtracted but a
# token's own gate. Exercise 25.4 is a kernel that got this wrong.
#
# **A gate per channel** cannot use $e^{G_i - G_j}$ as a mask, because it depends on the channel as well. This is what
# chapter 05's secondary chunks are for, and what the blocks of `read_kernel` do. Between two blocks the decay splits
# at the border: from the write to its block's end and on to the border (in k), and from the border to the read (in
# q). Both exponents are negative, so it *is* one product. Only inside a block, `pairs` goes channel by channel.

# %%
figures.blocks([2, 4, 8, 16, 32])

# %% [markdown]
# *What to see.* Move the slider. 64 tokens in chunks of 32: pairs of different chunks (blue) go through the state,
# pairs of different blocks are one matrix product, and only the vermilion triangles are computed channel by channel.
# Small blocks leave little of it, but a matrix unit wants tiles of 16, so 16 is the choice of GLA's authors and ours.
#
# ## 5 · Do trained gates need this?
#
# An untrained GLA forgets little: $\sigma(0)^{1/16} = 0.96$. Train some: one layer of width 32 with two heads, on the
# names of chapter 05, 120 steps, learning rate 0.01, three seeds; once as published, with $\tau = 16$, and once with
# $\tau = 1$. Then add up $-\log a$ over chunks of texts of 256 tokens, for every channel. That sum is the exponent that
# `factors` would need.

# %%
from seqlab.model import LanguageModel
from seqlab.tasks import Names
from seqlab.train import accuracy, train

task, long = (Names(n_names=8, n_fillers=8, length=n) for n in (64, 256))
texts = long.batch(4, torch.Generator().manual_seed(99))


reached, models, scores = {}, {}, []
for tau in (16.0, 1.0):
    for seed in SEEDS:
        torch.manual_seed(seed)
        make = partial(GLA, n_heads=2, expand_k=1.0, tau=tau)
        model = LanguageModel(task.vocab, 32, [make], ffn=None)
        if tau == 16 and seed == 0:
            reached["untrained, τ = 16"] = figures.exponents_of(model, texts, LENGTHS)
        train(model, task, steps=120, batch_size=16, lr=0.01, seed=seed, show=False)
        models[tau, seed], name = model, f"τ = {tau:.0f}, seed {seed}"
        reached[name] = figures.exponents_of(model, texts, LENGTHS)
        scores.append(accuracy(model, texts))
print(f"right answers on texts of 256 tokens: {min(scores):.0%} to {max(scores):.0%}")

# %% tags=["measured"]
limits = {"float16": torch.tensor(65504.0).log().item(), "bfloat16, float32": 88.7}
top = max(by[64][2] for name, by in reached.items() if name.startswith("τ = 16"))
figures.exponents(
    reached, limits, f"Trained with τ = 16, chunks of 64 reach an exponent of {top:.0f}"
)

# %% [markdown]
# *What to see.* Marks are medians over channels, heads and chunks; bars reach from the 1st to the 99th percentile.
# Untrained, no exponent is a problem for 64 tokens. Training on a task that asks to forget multiplies them. With
# $\tau = 16$ chunks of 64 pass the limit of float16 in some channels, and chunks of 256 come to that of float32; with
# $\tau = 1$ many pass it within 64 tokens. So a kernel with factors would work at first, and turn to NaN *during*
# training. This is one small task; what it shows is that such gates are learned, not how often.
#
# The blocks do not care. Here is a trained layer of each kind, run through this page's kernels. (Logits reach 20 and
# more, so they are compared to ten times the tolerance.)


# %% tags=["nbval-check-output"]
@holds
@torch.no_grad()
def a_trained_layer_gives_the_same_answers_through_the_kernels():
    for model in (models[16, 0], models[1, 0]):
        right, _ = model(texts.tokens[:2, :96])
        model.blocks[0].mixer.form = our_form
        same(model(texts.tokens[:2, :96])[0], right, 10 * SINGLE)


# %% [markdown]
# ## 6 · The backward is the forward, three times
#
# Let $d_{ij}$ be the decay from $j$ to $i$ in the whole text, for a gate per head. Then $y_i = \sum_{j \le i} d_{ij}
# (q_i \cdot k_j) v_j$, and each gradient is such a sum again:
#
# $$dq_i = \sum_{j \le i} d_{ij}\,(dy_i \cdot v_j)\,k_j \qquad dk_j = \sum_{i \ge j} d_{ij}\,(v_j \cdot dy_i)\,q_i
# \qquad dv_j = \sum_{i \ge j} d_{ij}\,(k_j \cdot q_i)\,dy_i$$
#
# The first *is* the forward, with $dy, v, k$ in the places of $q, k, v$. The other two run from the last token to the
# first: the forward on reversed time. There, token $j$ is reached through the gate of $j + 1$. The gradient of a
# gate needs no kernel: $\log a_t$ scales every path from a write before $t$ to a read at $t$ or later. Paths that
# *end* at $t$ or later, less those that *begin* there, are exactly these:
#
# $$d\log a_t = \sum_{i \ge t} \bigl(q_i \cdot dq_i - k_i \cdot dk_i\bigr) + \langle S_T, dS_T \rangle$$


# %%
class Chunked(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, log_a, first):
        y, last = chunked(q, k, v, log_a, first)
        ctx.save_for_backward(q, k, v, log_a, first, last)
        return y, last

    @staticmethod
    def backward(ctx, dy, dlast):
        q, k, v, log_a, first, last = ctx.saved_tensors
        dq, _ = chunked(dy.contiguous(), v, k, log_a, first.mT.contiguous())
        q_, k_, v_, dy_ = (x.flip(0) for x in (q, k, v, dy))
        later = torch.cat([torch.zeros_like(log_a[:1]), log_a.flip(0)[:-1]])
        dv, dS = chunked(k_, q_, dy_, later, dlast.contiguous())
        dk, _ = chunked(v_, dy_, q_, later, dlast.mT.contiguous())
        dk, dv = dk.flip(0), dv.flip(0)
        passed = (q * dq - k * dk).sum(-1, keepdim=True)
        through = (last * dlast).sum((1, 2))[:, None]
        d_log_a = passed.flip(0).cumsum(0).flip(0) + through
        return dq, dk, dv, d_log_a, dS * log_a[0].exp()[..., None]


# %% tags=["nbval-check-output"]
def with_gradients(f, given):
    given = [x.detach().clone().requires_grad_() for x in given]
    y, last = f(*given)
    loss = y.sin().sum() + last.sin().sum()
    return [x.double() for x in torch.autograd.grad(loss, given)]


@holds
def exchanged_roles_give_all_five_gradients():
    for T in (1, 45):
        given = drawn(T)
        ours = with_gradients(Chunked.apply, [x.float() for x in given])
        theirs = with_gradients(expected, given)
        for one, other in zip(ours, theirs, strict=True):
            same(one, other, 10 * SINGLE)  # sums of T such numbers


# %% [markdown]
# With a gate per channel the exchange fails: the decay belongs to k and q, and in the first sum k has the place of the
# values. And three forwards load everything three times. A backward of its own keeps, beside the state $S$ before
# each chunk, the gradient $dS$ of the state *after* it. It obeys the same recurrence, from the end:
#
# $$dS = b_C\, dS' + \sum_i dy_i\,(b_i\, q_i)^\top$$
#
# where $dS'$ is that of the next chunk. So it is `walk_kernel` over q and dy, from the last chunk to the first, with
# $b_i$ in the place of $f_j$: BACK. With $S$ and $dS$, the gradients of a chunk need nothing else from outside it, and
# all chunks can be computed at once. You write dV in exercise 25.6, and the pairs of dQ for a gate per channel in 25.5.


# %% tags=["nbval-check-output"]
@holds
def walking_back_gives_the_gradient_of_every_state():
    for A in (1, 16):
        q, k, v, log_a, first = drawn(45, A)
        dy, dlast, right = randn(45, 2, 32), randn(2, 32, 16), []
        for end in (16, 32):  # the loss as a function of the state before this token
            S = first.clone().requires_grad_()
            y, last = expected(*(x[end:] for x in (q, k, v, log_a)), S)
            loss = (y * dy[end:]).sum() + (last * dlast).sum()
            right.append(torch.autograd.grad(loss, S)[0])
        dS, _ = walk(*(x.float() for x in (q, dy, log_a, dlast)), C=16, BACK=True)
        same(dS.double(), torch.stack([*right, dlast]), 10 * SINGLE)


# %% [markdown]
# Count both ways. The page's runs each of its kernels three times. `kernels/` walks for S again, walks back for dS, and
# runs one more kernel for all gradients of a chunk, which makes each product once, where the three forwards compute the
# pairs of dy and v twice. It also works for either width of the gate.
#
# ## 7 · How long is a chunk?
#
# Now the sizes of a real head: $K = V = 128$, inputs of two bytes, states in float32. For each token the kernels ask
# for k and v (walk), q and y (read), and k and v for each block that reads them. A state is written once a chunk and
# read by each block. Long chunks have few states, but many blocks to go back through:
#
# $$\text{bytes}(C, B) = \underbrace{4(K + V)}_{\text{k, v; q, y}} + \underbrace{2(K + V)\,\tfrac{C/B + 1}{2}}_{\text{k,
# v, by blocks}} + \underbrace{4KV\bigl(\tfrac1C + \tfrac1B\bigr)}_{\text{states}} + \text{gates}$$
#
# Turn the sizes:

# %%
from seqlab.widgets import explore

explore(figures.counts, K=[32, 64, 128, 256], V=[32, 64, 128, 256], B=[16, 32, 64])


# %% tags=["nbval-check-output"]
@holds
def the_count_is_what_a_trace_sees():
    for C, B in ((16, 16), (64, 16), (64, 32)):
        q, k, v = torch.randn(3, 128, 1, 32, generator=rng).half()
        log_a, first = torch.zeros(128, 1, 1), torch.zeros(1, 32, 32)
        S, how = torch.zeros(128 // C, 1, 32, 32), {"K": 32, "V": 32, "A": 1, "C": C}
        args = k, v, log_a, first, S, first.clone(), 128, 1
        walked = trace(walk_kernel, (1, 1), *args, **how, BV=32, BACK=False)
        args = q, k, v, log_a, S, v.clone(), 128, 1
        read = trace(read_kernel, (128 // B, 1), *args, **how, B=B)
        n_bytes, _, flops = figures.counted(32, 32, C, B)
        ends = 2 * 4 * 32 * 32  # the first state and the last
        assert walked.bytes + read.bytes == 128 * n_bytes + ends
        assert walked.flops + read.flops == 128 * flops


# %% [markdown]
# *What to see.* The dotted line is what the recurrent kernel asks for. Bytes first fall with $C$, because there
# are fewer states, and then rise, because blocks read each other's keys again. Flops rise all the time. Steps in a row
# fall with $1/C$. For $K = V = 128$ and blocks of 64 the fewest bytes are asked for with chunks of 128, but the curve
# is flat. Exercise 25.7 asks for the minimum of others. What a count of bytes asked for does not know is which of them
# a cache serves: what several blocks of a chunk read, states and keys, is likely to be there; what the walk wrote may
# have left.
#
# Under the roof of an H100:

# %%
from seqlab.figures.roofline import roofline as roofline_figure

counts = {C: figures.counted(128, 128, C, min(C, 64)) for C in (16, 64, 256)}
placed = {f"C = {C}": (4096 * b, 4096 * flops) for C, (b, _, flops) in counts.items()}
low, *_, high = (flops / b for b, _, flops in counts.values())
title = f"{low:.0f} to {high:.0f} flops a byte: memory bounds every chunk size"
roofline_figure(placed, title=title)

# %% [markdown]
# *What to see.* All three are far left of the ridge, so by this count flops are free, and longer chunks are better
# until their bytes rise again. That is a floor. It says nothing about how well a program hides the time that it waits,
# and nobody here has measured it.
#
# ## 8 · What the compiler makes of it
#
# `read_kernel` holds q, k, the pairs and y of a block, and loads a whole state of $V \times K$ for one product. Compile
# both kernels for four GPUs, which nobody here owns:

# %%
from seqlab.figures.flash_kernel import registers
from seqlab.gpu.compile import compile_report


def compiled(kernel, width, A, B, warps):
    """{target: (registers, spilled bytes, whether it fits)} at K = V = width."""
    T, H = 4096, 16
    x = torch.empty(T, H, width, dtype=torch.bfloat16, device="meta")
    log_a = torch.empty(T, H, A, device="meta")
    S = torch.empty(T // 64, H, width, width, device="meta")
    how = {"K": width, "V": width, "A": A, "C": 64, "num_warps": warps, "num_stages": 2}
    given, how = (x, x, x, log_a, S, x), how | {"B": B}
    if kernel is walk_kernel:
        given, how["BV"], how["BACK"] = (
            (x, x, log_a, S[0], S, S[0]),
            how.pop("B"),
            False,
        )
    found = compile_report(kernel, *given, T, H, **how).targets.items()
    return {t: (c.registers, c.spills, c.occupancy.blocks > 0) for t, c in found}


used = {
    "walk, 128, 32 rows, 4 warps": compiled(walk_kernel, 128, 1, 32, 4),
    "read, 64, B = 64, 4 warps": compiled(read_kernel, 64, 1, 64, 4),
    "read, 128, B = 64, 4 warps": compiled(read_kernel, 128, 1, 64, 4),
    "read, 128, B = 64, 8 warps": compiled(read_kernel, 128, 1, 64, 8),
    "read, 128, per channel, B = 16": compiled(read_kernel, 128, 128, 16, 4),
}
clean = sum(all(fits and not s for _, s, fits in by.values()) for by in used.values())
registers(used, f"{clean} of {len(used)} kernels fit in registers on all four targets")

# %% [markdown]
# *What to see.* Registers of a thread; orange cells spill. At a width of 64 everything fits. At 128 the outputs of a
# block with 4 warps spill on the A100 (sm_80); with 8 warps they fit everywhere. A block of 16 tokens with a gate per
# channel fits, but each of its programs loads a whole state, 64 KiB, for 16 tokens. Tiles of K and V would help all
# of them, and `kernels/` has such tiles.
#
# ## 9 · In the wild
#
# How much are the states that pass between kernels? For two published models, each layer in bf16, chunks of 64
# against the tokens' own vectors:

# %% tags=["nbval-check-output"]
from seqlab.zoo import recipe

for name, kind in {"Codestral Mamba": Mamba2, "YOCO": GatedRetention}.items():
    size, published = next(iter(recipe(name).published.items()))
    layer = next(m for m in recipe(name).full(size).modules() if isinstance(m, kind))
    u = layer.project(torch.empty(1, 1, published["d_model"], device="meta"))
    (H, K), V = u["q"].shape[2:], u["v"].shape[-1]
    state, token = 2 * H * K * V / 64, 2 * published["d_model"]
    print(f"{name} {size}: {H} heads of {K} × {V}; ", end="")
    print(
        f"states {state / 1024:.0f} KiB a token, {state / token:.1f} times its vector"
    )

# %% [markdown]
# Libraries cut the work in other places. [Mamba-2](https://arxiv.org/abs/2405.21060)'s code splits the walk: one kernel
# computes what each chunk adds to the state, for all chunks at once, and a second, small one passes the states on
# (exercises 25.1 and 25.2). [GLA](https://arxiv.org/abs/2312.06635) introduced secondary chunks for gates per channel.
# The forward of [Lightning Attention-2](https://arxiv.org/abs/2401.04658) walks and reads in one kernel: no state
# leaves the chip, and a head's chunks follow one another.
#
# **How `kernels/` differs** from this page, and why. `chunk_recurrence.py` takes a batch and any widths (padded to a
# power of two, masked, in tiles of K and V); it stores states in the type of q, since the product would round them
# anyway. Its decays are sums over own spans, so a gate of exactly 0, whose log is -∞, is allowed; here $-\infty +
# \infty$ would give NaN. For a gate per channel it uses no blocks of 16 but borders at every power of two: a pair
# meets at the highest bit in which i and j differ, so $\log_2 C$ products cover the chunk and nothing is computed
# channel by channel. Its backward sums $d\log a$ over the paths that pass each gate, because the page's formula
# subtracts two large sums, and under strong decay loses everything. Distances are 64 bits wide, and tiles are tuned.
# Nobody has measured either on a GPU yet.
#
# ### Fact check
#
# **"Chunked kernels move less memory than the recurrence."** Section 1: more than twice as much. They win steps and
# matrix products.
#
# **"Half-precision inputs may be summed in half precision."** The gates' logs may not (section 4).
#
# **"A longer chunk is always more work."** More flops; in bytes there is a minimum (section 7).
#
# **"RetNet needs a kernel of its own."** A constant gate is a gate. This page's kernels read it as one number a token.
#
# ## 10 · Practise
#
# In a terminal, `seqlab start 25` puts your own copy of the exercises into `work/`. `check` takes your kernel along
# to a process of its own, compares it with a reference, and looks at each launch as `sanitize` does.

# %% [markdown] tags=["exercises"]
# The table of exercises is made from their files.

# %% [markdown]
# The notebook is [exercises/25_chunked_recurrence_kernel.ipynb](../exercises/25_chunked_recurrence_kernel.ipynb);
# work on the copy in `work/`.
#
# ## Recap, in five lines
#
# 1. The recurrent kernel asks for the fewest bytes there can be; it has few programs, many steps, and no products.
# 2. In chunks, one kernel walks and leaves states, another computes all outputs at once; to both, a kind of gate is
# only a width.
# 3. Sum logs in float32, over spans between the two tokens; a gate per channel meets at the borders of blocks.
# 4. With a gate per head the backward is the forward with roles exchanged; a fused one keeps S and dS of each chunk.
# 5. Chunk length trades states against repeated keys, flops and steps; counting gives a floor, not a speed.
#
# Next, chapter 26: scans, and the delta rule in chunks.
#
# ## References
#
# - Y. Sun et al. [*Retentive Network: A Successor to Transformer for Large Language
#   Models.*](https://arxiv.org/abs/2307.08621) 2023.
# - S. Yang et al. [*Gated Linear Attention Transformers with Hardware-Efficient
#   Training.*](https://arxiv.org/abs/2312.06635) 2023.
# - Z. Qin et al. [*Lightning Attention-2: A Free Lunch for Handling Unlimited Sequence Lengths in Large Language
#   Models.*](https://arxiv.org/abs/2401.04658) 2024.
# - Y. Sun et al. [*You Only Cache Once: Decoder-Decoder Architectures for Language
#   Models.*](https://arxiv.org/abs/2405.05254) 2024.
# - T. Dao, A. Gu. [*Transformers are SSMs: Generalized Models and Efficient Algorithms Through Structured State Space
#   Duality.*](https://arxiv.org/abs/2405.21060) 2024.
