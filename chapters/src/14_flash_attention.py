# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 14 · Flash attention
#
# **After this chapter you can**
#
# - measure what the matrix of scores costs, in memory and in bytes moved, and say which of the two a GPU waits for;
# - compute a softmax in one pass from two running numbers, and merge softmaxes that were computed apart;
# - write the loops of FlashAttention 1 and 2, skip tiles for causality and windows, and say what each loop writes
#   back;
# - derive the backward pass that recomputes its weights, and write it in twenty lines;
# - use the same merge for split-K decoding and for a ring of devices;
# - say what FlashAttention 3 added, and check by yourself which kernel PyTorch runs.
#
# **You need** softmax attention as in any transformer, and derivatives of matrix products. Grouped queries and the KV
# cache are mentioned, not needed.
#
# **Time** 60 minutes to read, a minute to run.
#
# **Covers** online softmax · FlashAttention 1, 2 and 3 · backward by recomputation · Flash-Decoding (split-K) · ring
# attention's merge.
#
# ## 1 · A failure: the matrix nobody asked for
#
# Attention reads $q$, $k$ and $v$, of $T \times K$ numbers each, and returns $y$, as many again. On the way it makes
# a matrix of all pairs, $S = q k^\top / \sqrt K$, and its softmax $P$: $T \times T$ numbers. Nobody asked for these.
# Here is what they cost on this machine, for one head with $K = 32$. *Plain* is the formula as it stands; *tiles* is
# `attend_tiled`, which looks at 256 × 256 pairs at a time. **Before you read on**, commit to an answer:

# %% tags=["measured"]
from functools import partial

import torch

from seqlab.core.attention import attend, attend_tiled
from seqlab.course import predict
from seqlab.figures.training import timing_lines
from seqlab.measure import peak_bytes
from seqlab.train import best_seconds

torch.set_num_threads(1)  # one thread keeps the timings steady
LENGTHS = [1024, 2048, 4096, 8192, 16384]


def plain(q, k, v):
    return attend(q, k, v, causal=True)


def tiles(q, k, v):
    return attend_tiled(q, k, v, causal=True, tile=(256, 256))


def measured(form, lengths):
    """{T: seconds}, {T: bytes}."""
    given = {T: torch.randn(3, 1, T, 1, 32) for T in lengths}
    runs = {T: partial(form, *qkv) for T, qkv in given.items()}
    took = {T: best_seconds(run, 1) for T, run in runs.items()}
    return took, {T: peak_bytes(run) for T, run in runs.items()}


FORMS = {"plain": (plain, LENGTHS[:4]), "tiles": (tiles, LENGTHS)}
results = {name: measured(*how) for name, how in FORMS.items()}
seconds = {name: took for name, (took, _) in results.items()}
peak = {name: used for name, (_, used) in results.items()}
MIB = {name: {T: b / 2**20 for T, b in by.items()} for name, by in peak.items()}
sizes = (
    f"{MIB['plain'][8192]:,.0f} MiB as a matrix, {MIB['tiles'][8192]:.1f} MiB by tiles"
)
double = seconds["tiles"][16384] / seconds["tiles"][8192]
predict(
    "14-saves",
    "What does attention by tiles save?",
    lambda: [
        timing_lines(MIB, title=f"8,192 tokens: {sizes}", y="MiB at one time"),
        timing_lines(
            seconds, title=f"16,384 tokens take tiles {double:.1f} times as long"
        ),
    ],
    choices=["memory, not multiplications", "multiplications, not memory", "both"],
)

# %% [markdown]
# *What to see.* The first answer is right; the third is the usual guess, since less memory sounds like less work. The
# exponents in the legends are fitted: the plain form's memory grows with $T^2$, that of tiles much more slowly. The
# time is another matter. Tiles are not an approximation: they multiply the same pairs in another order, so twice the
# tokens are four times the work; the dashed line approaches that slope once the fixed costs of its loop no longer
# count. (Both forms are causal. Tiles are faster here because they skip those in the future, and because a tile stays
# in the processor's cache.) With 32 heads in place of one, the plain form would need 26 GiB at 8,192 tokens.
#
# Is the growth of tiles linear? One part does not depend on $T$: the tile. The rest must double when $T$ doubles.

# %% tags=["nbval-check-output"]
from itertools import pairwise

from seqlab.course import holds


@holds
def the_memory_of_tiles_is_a_constant_and_a_line():
    needs = peak["tiles"]
    steps = [needs[2 * T] - needs[T] for T in LENGTHS[:-1]]
    assert all(later == 2 * sooner for sooner, later in pairwise(steps))
    assert steps[-1] < 8 * 8192 * 32 * 4  # 8,192 tokens more: less than 8 such inputs


# %% [markdown]
# But memory is not why it is called *flash*. Count what a GPU must move. Each of its multiprocessors computes only
# with what is in its own small, fast memory ("on chip"); everything else is in a large, slow one. The plain form is
# three kernels: one writes $S$, the next reads $S$ and writes $P$, the third reads $P$. So it moves $4T^2$ numbers
# beside the $4TK$ that it cannot avoid, a ratio of $T/K$:

# %% tags=["nbval-check-output"]
from seqlab.gpu.roofline import roofline

T, K = 8192, 64
flops, needed = 2 * (2 * T * T * K), 2 * (4 * T * K)  # two products; q, k, v, y in bf16
print("plain:      ", roofline(needed + 2 * (4 * T * T), flops, "H100"))
print("only q … y: ", roofline(needed, flops, "H100"))

# %% [markdown]
# These are floors from published peaks, computed, not measured. Moving $S$ and $P$ takes far longer than all the
# multiplications. If they never left the chip, multiplying would be all that is left. But a row of $S$ does not fit
# on the chip for a long text, and a softmax needs its whole row: first the maximum, then the sum, then the quotients.
# Or does it?
#
# ## 2 · A softmax in one pass
#
# Take scores $s_1, s_2, \dots$ one by one. To avoid overflow we want $e^{s_j - m}$ with $m$ the maximum, but we do
# not know it yet. So use the maximum *so far*, and keep two numbers:
#
# $$m' = \max(m, s) \qquad \ell' = e^{m - m'}\,\ell + e^{s - m'}$$
#
# The sum $\ell$ is a number of units, each $e^m$. When a larger score changes the unit, what was summed so far is
# converted to the new one, once. That **rescaling** is the one idea of this chapter; everything else is bookkeeping.
# At the end, $m + \log \ell$ is $\log \sum_j e^{s_j}$, the *log-sum-exp*, lse for short.


# %%
def online(scores):
    """log Σ exp(scores) in one pass, from two numbers."""
    top, total = torch.tensor(-torch.inf).double(), torch.tensor(0.0).double()
    for s in scores:
        new = torch.maximum(top, s)
        total = (top - new).exp() * total + (s - new).exp()
        top = new
    return top + total.log()


# %% tags=["nbval-check-output"]
rng = torch.Generator().manual_seed(0)


def randn(*shape):
    return torch.randn(*shape, generator=rng, dtype=torch.float64).requires_grad_()


def same(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


def with_gradients(f, *inputs):
    y = f(*inputs)
    return y, *torch.autograd.grad(y.sin().sum(), inputs)


@holds
def one_pass_gives_the_log_sum_exp():
    scores, whole = randn(50), partial(torch.logsumexp, dim=0)
    same(with_gradients(online, scores), with_gradients(whole, scores))
    large = scores.detach() * 1e4  # exp of these is infinite
    same(online(large), whole(large))


# %%
from seqlab.figures import flash as figures

scores = 2 * torch.randn(32, generator=torch.Generator().manual_seed(46))
figures.stream(scores + torch.linspace(0, 4, 32))

# %% [markdown]
# *What to see.* Above, the scores and their running maximum. Below, the sum. Each score adds at most 1. Where a
# larger one appears, the old terms shrink, because they are now counted in a larger unit; the sum may even fall.
#
# Now give each score a value. The read $y = \sum_j e^{s_j - m} v_j$ is a sum in the same unit, so it is rescaled by
# the same factor. It is divided by $\ell$ when all keys have been read. Nothing changes if keys come in blocks, and
# the queries of a block are independent rows. That is FlashAttention's inner loop:


# %%
def flash2(q, k, v, tile=16):
    """Queries outside. q, k (T, K), v (T, V)."""
    ys = []
    for q_i in q.split(tile):
        top = q.new_full((len(q_i), 1), -torch.inf)
        total, y = torch.zeros_like(top), 0
        for k_j, v_j in zip(k.split(tile), v.split(tile), strict=True):
            s = q_i @ k_j.mT / q.shape[1] ** 0.5
            new = torch.maximum(top, s.amax(-1, keepdim=True))
            fade, p = (top - new).exp(), (s - new).exp()
            total = fade * total + p.sum(-1, keepdim=True)
            y = fade * y + p @ v_j
            top = new
        ys.append(y / total)
    return torch.cat(ys)


# %% [markdown]
# There is a second way to see it. Suppose two parts of the keys have been read apart, each with a finished softmax of
# its own. Part 1 has total weight $e^{\mathrm{lse}_1}$, part 2 has $e^{\mathrm{lse}_2}$. The whole is their weighted
# mean:


# %%
def merge(y1, lse1, y2, lse2):
    lse = torch.logaddexp(lse1, lse2)
    w1, w2 = (lse1 - lse).exp(), (lse2 - lse).exp()
    return w1[..., None] * y1 + w2[..., None] * y2, lse


def part(q, k, v):
    """Attention over some of the keys, with its log-sum-exp."""
    s = q @ k.mT / q.shape[-1] ** 0.5
    return s.softmax(-1) @ v, s.logsumexp(-1)


def flash1(q, k, v, tile=16):
    """Keys outside: each block of y is taken up again for each block of keys."""
    qs = q.split(tile)
    y = [q.new_zeros(len(q_i), v.shape[1]) for q_i in qs]
    lse = [q.new_full((len(q_i),), -torch.inf) for q_i in qs]
    for k_j, v_j in zip(k.split(tile), v.split(tile), strict=True):
        for i, q_i in enumerate(qs):
            y[i], lse[i] = merge(y[i], lse[i], *part(q_i, k_j, v_j))
    return torch.cat(y)


# %% tags=["nbval-check-output"]
def one_head(f):
    """A function of (1, T, 1, K) tensors, for (T, K)."""
    return lambda *xs: f(*(x[None, :, None] for x in xs))[0, :, 0]


@holds
def both_loops_are_attention_with_its_gradients():
    inputs = randn(50, 8), randn(50, 8), randn(50, 5)
    expected = with_gradients(one_head(attend), *inputs)
    for loop in (flash2, flash1):
        for tile in (1, 7, 16, 50):
            ours = with_gradients(lambda *xs, f=loop, t=tile: f(*xs, t), *inputs)
            same(ours, expected)
    same(with_gradients(one_head(attend_tiled), *inputs), expected)


# %% [markdown]
# ## 3 · Two loops, and what they write back
#
# `flash1` is the order of the first paper ([Dao et al. 2022](https://arxiv.org/abs/2205.14135)), `flash2` that of the
# second ([Dao 2023](https://arxiv.org/abs/2307.08691)). They visit the same tiles.
#
# | | FlashAttention 1 | FlashAttention 2 |
# |---|---|---|
# | outer loop | blocks of keys | blocks of queries |
# | loaded once | $k$, $v$ | $q$ |
# | loaded for each tile | $q$, $y$, the row's statistics | $k$, $v$ |
# | written for each tile | $y$ and the statistics | nothing |
# | division | in each tile | once, at the end of a row |
# | independent work | heads | heads × blocks of queries |
#
# The last line matters as much as the bytes: with one long text there are few heads, and a GPU has a hundred
# multiprocessors. Now watch the second loop at work.

# %%
shown = torch.randn(3, 16, 4, generator=torch.Generator().manual_seed(1)).double()
figures.tiling(*shown)

# %% [markdown]
# *What to see.* Press Play, or drag. Sixteen tokens in tiles of four; the tile on chip is orange and framed, with the
# rows it changes framed in the other panels. In the first tile of a row every maximum is new; later fewer are, and
# only those rows rescale (the title counts them). $y$ is divided when its row is finished. The white tiles are in the
# future of all their queries: they are **skipped**, not masked. Only tiles on the diagonal need a mask.
#
# The first loop, at a step of your choice. It takes up each block of $y$ again and again:

# %%
from seqlab.widgets import explore

explore(
    lambda order="fa1", step=6: figures.tiling_at(*shown, step, order=order),
    order=["fa1", "fa2"],
    step=(0, 9),
)

# %% [markdown]
# *What to see.* Going down a column, the first loop changes four rows of $y$, leaves them unfinished, and comes back
# in the next column. On a GPU each return is a trip to slow memory.
#
# Causality leaves about half of the tiles, a window leaves a band. How many tiles are computed, and how many of those
# need a mask?

# %%
explore(
    lambda tile=8, window=24: figures.visited(64, tile, window),
    tile=[2, 4, 8, 16, 32],
    window=(1, 64),
)

# %% [markdown]
# *What to see.* Small tiles follow the diagonal closely, but there are more of them. Large tiles compute many pairs
# that the mask throws away. With a window of one tile or less *every* tile needs a mask.
#
# **Grouped queries** cost nothing extra: the query heads that share a head of $k$ are further rows of the same tile,
# so $k$ and $v$ are loaded once for all of them.


# %% tags=["nbval-check-output"]
@holds
def windows_and_grouped_queries_are_the_same_loop():
    q, k, v = randn(2, 37, 4, 6), randn(2, 37, 2, 6), randn(2, 37, 2, 5)
    for window in (None, 1, 9):
        for order in ("fa1", "fa2"):
            how = {"causal": True, "window": window}
            ours = {**how, "order": order, "tile": (8, 5)}
            same(
                with_gradients(lambda *xs, o=ours: attend_tiled(*xs, **o), q, k, v),
                with_gradients(lambda *xs, h=how: attend(*xs, **h), q, k, v),
            )


# %% [markdown]
# ## 4 · A ledger of bytes
#
# A claim about bytes should be counted. `seqlab.gpu.ledger` runs an algorithm with a fast memory of so many bytes.
# What it computes with must be loaded or made on chip first; a tile that does not fit is an error; each load and
# store is written down. Here are 1,024 tokens, $K = 64$, two bytes a number, and square tiles as large as the memory
# allows:

# %%
from seqlab.gpu.ledger import ALGORITHMS, Ledger, largest_tile, paper_bound

NAMES = {"standard": "plain", "fa1": "FlashAttention 1", "fa2": "FlashAttention 2"}


def ledger_of(name, T, size, K=64):
    ledger = Ledger(size)
    rows = torch.randn(3, T, K, generator=torch.Generator().manual_seed(0))
    side = min(T, largest_tile(size, K))
    ALGORITHMS[name](ledger, *rows, tile=(side, side))
    return ledger


SIZES = [2**n for n in range(14, 19)]  # 16 to 256 KiB
books = {n: {size: ledger_of(n, 1024, size) for size in SIZES} for n in ALGORITHMS}
moved = {NAMES[n]: {s: b.moved for s, b in by.items()} for n, by in books.items()}
moved["T² K² / M, the papers' bound"] = {s: paper_bound(s, 1024, 64) for s in SIZES}
gain = moved["plain"][2**17] / moved["FlashAttention 2"][2**17]
figures.traffic(
    moved, title=f"With 128 KiB, FlashAttention 2 moves {gain:.0f} times fewer bytes"
)

# %% [markdown]
# *What to see.* A larger fast memory hardly helps the plain form, whose $S$ and $P$ dominate. It helps both loops:
# with larger tiles, $k$ and $v$ (or $q$ and $y$) are loaded fewer times. FlashAttention 2 is below 1 by what is never
# written back; in a very small memory FlashAttention 1 gains little over the plain form. The paper proves that
# traffic of the order $T^2K^2/M$ can be reached, and that no exact algorithm does better for every $M$ between $K$
# and $TK$. The order has no constant, so only the *slope* can be compared. Ours is less steep, because a square tile
# of scores also takes room.
#
# Who moves what, at 128 KiB? And how does it grow with $T$?

# %% tags=["nbval-check-output"]
for n, name in NAMES.items():
    parts = books[n][2**17].by_tensor().items()
    print(
        f"{name}, MiB:",
        ", ".join(f"{x} {sum(io.values()) / 2**20:.2f}" for x, io in parts),
    )
for n, name in NAMES.items():
    by_T = [ledger_of(n, T, 2**16).moved / 2**20 for T in (512, 1024, 2048)]
    print(f"{name}, 64 KiB, 512 to 2,048 tokens:", ", ".join(f"{b:.1f}" for b in by_T))

# %% [markdown]
# The traffic of flash attention is still quadratic in $T$; it is smaller by a factor. What does the factor buy? Here
# are the same loops with as much fast memory as a block of threads has on an H100:

# %%
from seqlab.figures.roofline import roofline as roofline_figure
from seqlab.gpu.devices import MULTIPROCESSORS

ROOM, work = MULTIPROCESSORS["sm_90"].shared_per_block, 4 * 2048**2 * 64  # 227 KiB
kernels = {name: (ledger_of(n, 2048, ROOM).moved, work) for n, name in NAMES.items()}
fewer = kernels["plain"][0] / kernels["FlashAttention 2"][0]
title = f"FlashAttention 2 computes {fewer:.0f} times as much with each byte moved"
roofline_figure(kernels, ["A100", "H100"], title=title)

# %% [markdown]
# *What to see.* Left of the bend of a roof a kernel waits for memory, right of it for the matrix units. The counts
# are the ledger's for one head, the roofs are published peaks. A query costs $4K$ flops for each key, and a key with
# its value is $4K$ bytes, loaded once for the whole tile. So the intensity of FlashAttention 2 is about the number of
# *queries in a tile*: enough here for the A100, not for the H100. Real kernels have smaller tiles still. The chip
# also has a cache that all multiprocessors share, and that the ledger does not know: programs that run at the same
# time can find each other's keys there.
#
# ## 5 · Backward, without the matrix
#
# Training needs $P$ again, and to keep it would bring the $T \times T$ matrix back. The way out is to keep one number
# for each row, lse, and recompute any tile when it is needed: $P_{ij} = e^{S_{ij} - \mathrm{lse}_i}$. Let $dy$ be the
# gradient of $y$. From $y = P v$,
#
# $$dv = P^\top dy \qquad dP = dy\, v^\top$$
#
# A softmax has the derivative $\partial P_{ij} / \partial S_{il} = P_{ij} (\delta_{jl} - P_{il})$, so
#
# $$dS_{ij} = P_{ij}\Bigl(dP_{ij} - \sum_l P_{il}\, dP_{il}\Bigr)$$
#
# The inner sum runs over the whole row, which a tile does not have. But $\sum_l P_{il}\,(dy_i \cdot v_l) = dy_i \cdot
# \sum_l P_{il} v_l = dy_i \cdot y_i$. That is a number $D_i$, known before the first tile. So $dS = P \circ (dP -
# D)$, and $dq = dS\, k/\sqrt K$, $dk = dS^\top q / \sqrt K$, tile by tile:


# %%
def flash_backward(dy, q, k, v, y, lse, tile=16):
    """dq, dk, dv from what the forward kept: its inputs, y, and one number a row."""
    scale = q.shape[1] ** -0.5
    D = (dy * y).sum(-1, keepdim=True)
    dq, dk, dv = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
    blocks = [slice(start, start + tile) for start in range(0, len(q), tile)]
    for j in blocks:
        for i in blocks:
            P = (q[i] @ k[j].mT * scale - lse[i, None]).exp()
            dS = P * (dy[i] @ v[j].mT - D[i]) * scale
            dv[j] += P.mT @ dy[i]
            dk[j] += dS.mT @ q[i]
            dq[i] += dS @ k[j]
    return dq, dk, dv


# %% tags=["nbval-check-output"]
@holds
def recomputing_gives_autograds_gradients():
    q, k, v, dy = randn(50, 8), randn(50, 8), randn(50, 5), randn(50, 5)
    y, lse = part(q, k, v)
    kept = [x.detach() for x in (dy, q, k, v, y, lse)]
    same(flash_backward(*kept), torch.autograd.grad(y, (q, k, v), dy.detach()))
    theirs = one_head(attend_tiled)(q, k, v)
    same(flash_backward(*kept), torch.autograd.grad(theirs, (q, k, v), dy.detach()))


# %% tags=["measured"]
def trained_bytes(form, T):
    given = [torch.randn(1, T, 1, 32, requires_grad=True) for _ in range(3)]
    return peak_bytes(lambda: form(*given).sum().backward()) / 2**20


both = {
    "plain": {T: trained_bytes(plain, T) for T in LENGTHS[:3]},
    "tiles": {T: trained_bytes(tiles, T) for T in LENGTHS[:4]},
}
times = both["plain"][4096] / both["tiles"][4096]
timing_lines(
    both,
    title=f"Forward and backward at 4,096 tokens: {times:.0f} times less memory",
    y="MiB, at most at one time",
)

# %% [markdown]
# *What to see.* The same picture with gradients. The backward makes five matrix products for each tile where the
# forward made two, one of them a repetition. That is *more* arithmetic than keeping $P$ would need. On GPUs it was
# faster all the same, because the matrix units would otherwise wait for $P$ to arrive.
#
# ## 6 · One merge, many machines
#
# `merge` does not ask who computed its two parts, or when. **Decoding** has one query and a long cache. Blocks of
# queries give no parallel work there, so cut the *keys* into parts, read them at the same time, and merge: split-K,
# or Flash-Decoding. If the sequence does not fit on one device, cut everything: each device keeps its queries, and
# the blocks of keys and values travel around a ring ([Liu et al. 2023](https://arxiv.org/abs/2310.01889)).


# %%
from functools import reduce


def split_k(q, k, v, parts):
    """Few queries, many keys: parts of the keys read apart, then merged."""
    reads = [part(q, *kv) for kv in zip(k.chunk(parts), v.chunk(parts), strict=True)]
    return reduce(lambda one, other: merge(*one, *other), reads)[0]


def ring(q, k, v, devices):
    """Each device has a part of q, k and v; keys and values move on after each turn."""
    qs = q.chunk(devices)
    kv = list(zip(k.chunk(devices), v.chunk(devices), strict=True))
    y = [q.new_zeros(len(q_d), v.shape[1]) for q_d in qs]
    lse = [q.new_full((len(q_d),), -torch.inf) for q_d in qs]
    for _turn in range(devices):
        for d, q_d in enumerate(qs):  # on a cluster: at the same time
            y[d], lse[d] = merge(y[d], lse[d], *part(q_d, *kv[d]))
        kv = kv[-1:] + kv[:-1]  # each device hands its block to the next
    return torch.cat(y)


# %% tags=["nbval-check-output"]
from seqlab.core import attention as core


@holds
def split_keys_and_a_ring_are_attention():
    q, k, v = randn(48, 8), randn(48, 8), randn(48, 5)
    expected = with_gradients(one_head(attend), q, k, v)
    same(with_gradients(lambda *xs: split_k(*xs, 6), q, k, v), expected)
    same(with_gradients(lambda *xs: ring(*xs, 6), q, k, v), expected)


@holds
def parts_may_be_merged_in_any_order():
    q, k, v = randn(4, 8), randn(30, 8), randn(30, 5)
    a, b, c = (part(q, k[i : i + 10], v[i : i + 10]) for i in (0, 10, 20))
    same(merge(*merge(*a, *b), *c), merge(*a, *merge(*c, *b)))
    same(merge(*a, *b), core.merge(*a, *b))


# %% [markdown]
# The second claim is why this works: the merge is associative and commutative, like a sum. Parts may arrive in any
# order, from any device. (Our ring reads all pairs. With causality half of its work is empty, and which half depends
# on the device: project 14.11 repairs that. Chapter 16 runs a ring on real processes.)
#
# ## 7 · A trained model, read by tiles
#
# Does a model notice? Here is a transformer of two blocks, width 64, four heads, that reads Python's help texts byte
# by byte: 50 batches of 8 excerpts of 128 bytes, learning rate 0.003, seeds 0, 1 and 2. Each is trained twice, with
# the plain form and by tiles of 32 × 32.

# %%
from seqlab.mixers import Attention
from seqlab.model import LanguageModel
from seqlab.tasks import Text, python_help
from seqlab.train import train

text = python_help()
learned, held_out = text[: len(text) * 9 // 10], text[len(text) * 9 // 10 :]
SEEDS = (0, 1, 2)
ATTENTIONS = {"plain": attend, "tiles": partial(attend_tiled, tile=(32, 32))}


def byte_model(seed, form=attend):
    torch.manual_seed(seed)
    return LanguageModel(256, 64, [partial(Attention, n_heads=4, form=form)] * 2)


models, losses = {}, {}
for name, form in ATTENTIONS.items():
    for seed in SEEDS:
        models[name, seed] = model = byte_model(seed, form)
        how = {"steps": 50, "batch_size": 8, "lr": 3e-3, "seed": seed, "label": name}
        losses[name, seed] = train(model, Text(learned, n_tokens=128), **how).loss

# %% tags=["measured"]
for seed in SEEDS:
    pairs = zip(losses["plain", seed], losses["tiles", seed], strict=True)
    gap = max(abs(a - b) for a, b in pairs)
    print(
        f"seed {seed}: last loss {losses['tiles', seed][-1]:.3f}, gap at most {gap:.0e}"
    )

# %% [markdown]
# The two curves are one, up to rounding. So look inside for what tiles *can* see: how often does a row's maximum
# rise? Each time costs a rescaling. If scores came in random order, the $n$-th of equal tiles would hold the largest
# so far with probability $1/n$. We read the last 8 queries of held-out excerpts of 128 bytes in 16 tiles of 8 keys,
# all heads and both blocks: once from the first key on, and once from the newest key back.

# %%
from seqlab.gpu.ledger import rises

excerpts = torch.tensor([list(held_out[500 * n :][:128]) for n in range(16)])


@torch.no_grad()
def tops(model, newest_first):
    """For each tile but the first: the share of rows whose maximum rises."""
    x, shares = model.embedding(excerpts), []
    for block in model.blocks:
        read = block.mixer.project(block.mixer_norm(x))
        shares.append(rises(read["q"], read["k"], 8, newest_first=newest_first))
        x, _ = block(x)
    return torch.stack(shares).mean(0).tolist()


untrained = [byte_model(seed) for seed in SEEDS]
trained = [models["tiles", seed] for seed in SEEDS]
risen = {
    "trained, first key first": [tops(m, False) for m in trained],
    "trained, newest key first": [tops(m, True) for m in trained],
    "untrained, first key first": [tops(m, False) for m in untrained],
}
forth, back, _ = (sum(map(sum, by)) / len(by) for by in risen.values())

# %% tags=["measured"]
title = (
    f"A trained row rescales {back:.1f} times newest key first, {forth:.1f} times else"
)
figures.rescales(risen, title=title)

# %% [markdown]
# *What to see.* Before training the line is near $1/n$. After it, larger scores keep coming up to the last tile if a
# row is read forwards (we did not look for the cause of the bumps). Read backwards, most rows have their largest
# score after a few tiles, so it is among the newest keys, and later tiles seldom change anything. FlashAttention's
# kernels do walk from the newest block of keys backwards (their reason is the mask: the blocks that need one come
# first). Three seeds of one small model, read with its own training length; a model that attends to its first tokens
# would show less.
#
# ## 8 · FlashAttention 3: waiting less, and eight bits
#
# The second version reached only 35 % of an H100's peak, says the abstract of the third ([Shah et al.
# 2024](https://arxiv.org/abs/2407.08608)). Its mathematics is unchanged; what changed is who waits for whom:
#
# - **Warps specialise.** Some only load tiles (the *producer*), others only compute. Loading no longer interrupts
#   computing.
# - **Ping-pong.** An exponential takes a slow unit, a product the matrix unit. Two groups of warps take turns: while
#   one does softmax, the other multiplies.
# - **FP8.** Eight bits a number (e4m3: 4 of exponent, 3 of mantissa, at most 448) double the peak of the matrix
#   units, and round coarsely.
#
# The first two cannot be seen on a CPU; the third can. Two measures limit its error. *Block scales*: each block of
# tokens gets a scale of its own, not the whole tensor. *Incoherent processing*: multiply $q$ and $k$ by the same
# random orthogonal matrix $R$, which leaves $q k^\top$ as it is and spreads a single large entry over all channels.
# $R$ is a Hadamard matrix with random signs.


# %%
def to_fp8(x, block=None):
    """x (T, K) rounded to e4m3, scaled so that the largest number becomes 448."""
    cut = x.unflatten(0, (-1, block or len(x)))
    scale = cut.abs().amax((1, 2), keepdim=True) / 448
    return ((cut / scale).to(torch.float8_e4m3fn).double() * scale).flatten(0, 1)


def rotation(K, rng):
    H = torch.ones(1, 1).double()
    while len(H) < K:
        H = torch.cat([torch.cat([H, H], 1), torch.cat([H, -H], 1)])
    return H / K**0.5 * (2 * torch.randint(2, (K, 1), generator=rng) - 1)


def fp8_error(data, seed, block, rotate):
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(3, 1024, 64, generator=rng).double()
    if data == "rare outliers":  # N(0, 1) + N(0, 100) · Bernoulli(0.001)
        wild = torch.rand(x.shape, generator=rng) < 0.001
        x += 10 * torch.randn(x.shape, generator=rng) * wild
    if data == "one large channel":
        x[0, :, 3] *= 20
        x[1, :, 7] *= 20
    R = rotation(64, rng) if rotate else torch.eye(64).double()
    exact = part(*x)[0]
    rounded = (to_fp8(u, block) for u in (x[0] @ R.mT, x[1] @ R.mT, x[2]))
    return ((part(*rounded)[0] - exact).norm() / exact.norm()).item()


WAYS = {
    "plain cast": (None, False),
    "block scales": (64, False),
    "rotation": (None, True),
    "both": (64, True),
}
found = {
    data: {w: [fp8_error(data, s, *how) for s in SEEDS] for w, how in WAYS.items()}
    for data in ("Gaussian", "rare outliers", "one large channel")
}

# %% tags=["measured"]
rare = {way: sum(errors) / 3 for way, errors in found["rare outliers"].items()}
better = rare["plain cast"] / rare["both"]
figures.errors(found, title=f"Rare outliers: together they err {better:.1f} times less")

# %% [markdown]
# *What to see.* Three seeds each. On Gaussian data there is nothing to repair. With rare outliers (the kind of data
# on which the paper reports 2.6 times less error than a plain cast) the rotation helps. Block scales alone help less,
# because e4m3 is a *floating* format: its step grows with the number, so a common scale that is too large costs small
# numbers little until they underflow. And if one whole channel is large, rotating makes it *worse* here: the rounding
# error of $q$'s large channel met one small number of $k$; after the rotation it meets all of $k$, whose own large
# channel is among them. So measure on your own data. (We round $q$, $k$ and $v$, and compute the rest in float64; the
# kernel also rounds $P$.)
#
# ## 9 · In the wild
#
# PyTorch's own attention is a form of this loop, and so are the kernels that models are served with. What would one
# layer of scores weigh in real models, for one text of 128K tokens in bfloat16? And what does flash attention keep
# instead, one lse in float32 for each row?

# %% tags=["nbval-check-output"]
from seqlab.gpu.devices import DEVICES
from seqlab.zoo import recipe

T, GIB = 2**17, 2**30
for name, s in recipe("Transformer 2026").published.items():
    d_head = s.get("d_head", s["d_model"] // s["n_heads"])
    scores, lse = 2 * s["n_heads"] * T * T, 4 * s["n_heads"] * T
    work = 2 * s["n_heads"] * T * T * d_head * s["n_layers"]  # causal: half of 4 T² K
    floor = work / DEVICES["H100"].flops["bf16"]
    print(
        f"{name}, a layer: S {scores / GIB:,.0f} GiB, lse {lse / 2**20:.0f} MiB;",
        end=" ",
    )
    print(f"all layers: {floor:.1f} s")

# %% [markdown]
# One layer's matrix would take more than a dozen H100s; its lse takes a few MiB. What stays is the work: seconds of
# multiplying at full speed, for attention alone. Chapters 15 and 16 are about computing fewer pairs.
#
# ### Fact check
#
# **"PyTorch's attention runs FlashAttention 3."** Ask it. `scaled_dot_product_attention` chooses a backend for its
# inputs; FlashAttention 3 and 4 are separate packages that must be switched on by `activate_flash_attention_impl`,
# and only on GPUs that have the hardware.

# %% tags=["measured"]
import torch.nn.attention as backends

q = torch.randn(1, 2, 64, 32)
asked = {
    "as it is": {"value": q},
    "with dropout": {"value": q, "dropout_p": 0.1},
    "values narrower than keys": {"value": q[..., :16]},
}
for what, how in asked.items():
    chosen = torch._fused_sdp_choice(q, q, **how)  # PyTorch's own, private, rule
    print(f"{what}: {backends.SDPBackend(chosen).name}")
print("can be activated:", backends.list_flash_attention_impls())
print("active now:", backends.current_flash_attention_impl())

# %% [markdown]
# On a CPU, FLASH_ATTENTION means PyTorch's own C++ loop over tiles; on a GPU, the built-in FlashAttention 2. With
# dropout on this machine, or with values narrower than keys, MATH builds the whole matrix, without a warning.
#
# **"Flash attention is linear."** Its memory is. Section 1 measured its time, section 4 its traffic: both quadratic.
#
# **"Flash attention is an approximation."** Section 2 compared it with attention to 1e-9. In low precision it rounds
# in another order, as any kernel does.
#
# **"FlashAttention invented the one-pass softmax."** [Milakov and Gimelshein](https://arxiv.org/abs/1805.02867)
# published it in 2018, and [Rabe and Staats](https://arxiv.org/abs/2112.05682) used it for attention in little memory
# in 2021. What FlashAttention added is the count of bytes, and a kernel that acts on it.
#
# **"Causal means causal."** If there are fewer queries than keys, PyTorch's `is_causal` puts the first query at the
# first key; FlashAttention since 2.1 puts the last query at the last key, as decoding needs. Exercise 14.7 is about
# what follows.


# %% tags=["nbval-check-output"]
@holds
def pytorch_aligns_the_first_query_with_the_first_key():
    q, k, v = randn(1, 5, 2, 8), randn(1, 9, 2, 8), randn(1, 9, 2, 8)
    sdpa = torch.nn.functional.scaled_dot_product_attention
    heads = (x.transpose(1, 2) for x in (q, k, v))
    theirs = sdpa(*heads, is_causal=True).transpose(1, 2)
    same(theirs, attend(q, k, v, causal=True, align="start"))
    last = attend(q, k, v, causal=True)  # the last query at the last key
    assert (last[:, 0] - theirs[:, 0]).abs().max() > 0.1


# %% [markdown]
# ## 10 · Practise
#
# In a terminal, `seqlab start 14` puts your own copy of the exercises into `work/`.

# %% [markdown] tags=["exercises"]
# The table of exercises is made from their files.

# %% [markdown]
# The notebook is [exercises/14_flash_attention.ipynb](../exercises/14_flash_attention.ipynb); work on the copy in
# `work/`.
#
# ## Recap, in five lines
#
# 1. Attention needs no $T \times T$ matrix: a running maximum and a running sum give its softmax in one pass.
# 2. When the maximum rises, everything summed so far is rescaled once; two finished parts are merged by their
#    log-sum-exp.
# 3. Multiplications and traffic stay quadratic in $T$; memory becomes linear, and traffic falls by a factor that
#    grows with the fast memory.
# 4. The backward keeps one number a row, recomputes $P$, and needs only $D = dy \cdot y$ from the rest of the row.
# 5. The merge is associative: blocks, splits of a cache and rings of devices are one algorithm.
#
# Next, chapter 15: pairs that are never computed at all. Chapter 24 writes this loop as a kernel.
#
# ## References
#
# - M. Milakov, N. Gimelshein. [*Online normalizer calculation for softmax.*](https://arxiv.org/abs/1805.02867) 2018.
# - M. Rabe, C. Staats. [*Self-attention Does Not Need O(n²) Memory.*](https://arxiv.org/abs/2112.05682) 2021.
# - T. Dao et al. [*FlashAttention: Fast and Memory-Efficient Exact Attention with
#   IO-Awareness.*](https://arxiv.org/abs/2205.14135) 2022.
# - T. Dao. [*FlashAttention-2: Faster Attention with Better Parallelism and Work
#   Partitioning.*](https://arxiv.org/abs/2307.08691) 2023.
# - J. Shah et al. [*FlashAttention-3: Fast and Accurate Attention with Asynchrony and
#   Low-precision.*](https://arxiv.org/abs/2407.08608) 2024.
# - T. Dao et al. [*Flash-Decoding for long-context
#   inference*](https://crfm.stanford.edu/2023/10/12/flashdecoding.html). 2023.
# - H. Liu et al. [*Ring Attention with Blockwise Transformers for Near-Infinite
#   Context.*](https://arxiv.org/abs/2310.01889) 2023.
