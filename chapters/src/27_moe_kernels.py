# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 27 · Mixture kernels
#
# **After this chapter you can**
#
# - say when unequal load makes processors wait, and when it does not;
# - write the gate of a mixture of experts as a kernel: the k largest of a row, and their weights;
# - sort pairs of tokens and experts with counts and a prefix sum, without asking the CPU;
# - multiply ragged groups in one launch, whose programs find their expert themselves;
# - bring the rows back to their tokens, forward and backward, without a race;
# - count what tiles waste on groups that they do not fill.
#
# **You need** chapter 17 (mixtures of experts, routers, dispatch by sorting) and chapter 23 (programs, masks,
# `trace`, `sanitize`, `compile_report`). No GPU. Triton itself is installed on Linux only; on macOS and Windows this
# page can be read, but its kernels do not run.
#
# **Time** 60 minutes to read, a minute to run.
#
# **Covers** top-k gate · histogram · offsets · permutation · grouped matmul · combine and its backward · padding.
#
# ## 1 · A failure: unequal load
#
# In a mixture of experts a router sends each token to $k$ of $E$ experts. Suppose that the rows are already sorted by
# expert: expert $e$ has the rows offsets[e] … offsets[e + 1]. The obvious kernel has a program for each expert, which
# walks over its rows, a tile of BM at a time.

# %%
import torch

from seqlab.figures import mixture_kernel as figures
from seqlab.gpu.anywhere import tl, triton
from seqlab.gpu.trace import trace


@triton.jit
def expert_kernel(p_x, p_w, p_y, p_offsets, D: tl.constexpr, F: tl.constexpr,
                  BM: tl.constexpr):  # fmt: skip
    e, o_d, o_f = tl.program_id(0), tl.arange(0, D), tl.arange(0, F)
    b_w = tl.load(p_w + (e * D + o_d[:, None]) * F + o_f[None, :])
    end = tl.load(p_offsets + e + 1)
    for first in range(tl.load(p_offsets + e), end, BM):
        o_m = first + tl.arange(0, BM)[:, None]
        b_x = tl.load(p_x + o_m * D + o_d[None, :], mask=o_m < end, other=0.0)
        b_y = tl.dot(b_x, b_w, input_precision="ieee")
        tl.store(p_y + o_m * F + o_f[None, :], b_y, mask=o_m < end)


rng = torch.Generator().manual_seed(0)
E, D, ROWS = 8, 16, 256
w, rows = torch.randn(E, D, D, generator=rng), torch.randn(ROWS, D, generator=rng)
LOADS = {"balanced": [32] * 8, "skewed": [97, 47, 31, 25, 19, 15, 12, 10]}
LOADS["collapsed"] = [256] + [0] * 7


def offsets_of(load):
    return torch.tensor([0, *load]).cumsum(0).int()


walks = {}
for name, load in LOADS.items():
    args = rows, w, torch.empty(ROWS, D), offsets_of(load)
    one = trace(expert_kernel, (E,), *args, D=D, F=D, BM=16)
    walks[name] = [[e] * len(one.of(e).dots) for e in range(E)]
figures.timelines(walks, E, "program")

# %% [markdown]
# *What to see.* Move the slider. Each square is a product of one tile, counted from the trace. With a balanced router
# all eight programs end together. A skewed router (Zipf's law, nearly) makes most of them wait for the first. If the
# router has collapsed onto one expert, seven programs of eight have nothing to do, and the layer takes eight times as
# many steps. The total work is the same: 256 rows.
#
# Chapter 17 fought imbalance with losses and biases, so that experts learn. A kernel that needs balance would be a
# second reason. **Before you read on**, commit to an answer. Suppose that a program owns a *tile* of 16 rows instead
# of an expert, and eight processors take programs in turn. How many steps does the collapsed router take now,
# compared with the balanced one?

# %%
from seqlab.course import predict


def by_tile(load, processors=8, BM=16):
    programs = [[e] for e, n in enumerate(load) for _ in range(triton.cdiv(n, BM))]
    return figures.in_turn(programs, processors)


predict(
    "27-collapse",
    "A program for each tile: how many steps, collapsed against balanced?",
    lambda: figures.timelines(
        {name: by_tile(load) for name, load in LOADS.items()}, E, "processor", start=2
    ),
    choices=["eight times as many", "twice as many", "as many", "fewer"],
)

# %% [markdown]
# *What to see.* As many. To a processor a tile is a tile, whichever expert it belongs to. The *skewed* router takes
# longest, because its experts end in tiles that are partly empty: 19 tiles instead of 16. If you said "eight times",
# you carried the first picture over. But that wait came from the grid, not from the router. (This is one device. If
# experts live on different devices, rows cannot choose where to run, and balance matters again.)
#
# So the layer needs one launch over tiles, although the CPU does not know how many tiles each expert has. The rest of
# this chapter builds it, with everything before and after:
#
# $$y_n = \sum_{j=1}^{k} p_{nj}\, E_{e_{nj}}(x_n) \qquad p_{nj} = \frac{e^{z_{nj}}}{\sum_i e^{z_{ni}}}
# \text{ over the } k \text{ largest logits}$$
#
# ## 2 · From loop to tiles
#
# As a loop, over every pair of a token and a slot, for experts that are one matrix each:

# %%
from seqlab.gpu.ledger import Ledger


def by_pairs(x, experts, weights, w):
    y = x.new_zeros(len(x), w.shape[2])
    for n in range(len(x)):
        for j in range(experts.shape[1]):
            y[n] += weights[n, j] * (x[n] @ w[experts[n, j]])
    return y


# %% [markdown]
# Each pair reads a whole matrix for one row. Vectorised, the pairs are sorted by expert, multiplied in groups, and
# added back to their tokens. In tiles, with the ledger of chapter 14 to count what crosses into fast memory, a tile
# of BM rows reads its expert's matrix once:


# %%
def by_tiles(x, experts, weights, w, ledger, BM=16):
    k = experts.shape[1]
    pairs = experts.flatten().argsort(stable=True)
    load = experts.flatten().bincount(minlength=len(w)).tolist()
    y = x.new_zeros(len(x), w.shape[2])
    for e, group in enumerate(pairs.split(load)):
        for tile in group.split(BM) if len(group) else ():
            b_x = ledger.load("x", x[tile // k])
            b_y = b_x @ ledger.load("w", w[e])
            y.index_add_(0, tile // k, weights.flatten()[tile, None] * b_y)
    return y


# %% tags=["nbval-check-output"]
from seqlab.course import holds

SINGLE = 2e-5  # float32: some tens of roundings of 6e-8, of sums up to 10


def randn(*shape):
    return torch.randn(*shape, generator=rng, dtype=torch.float64)


def same(ours, theirs, atol=1e-9):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=atol)


def chosen(N, k, E):
    """Experts and weights of N tokens, by the reference."""
    weights, experts = randn(N, E).softmax(-1).topk(k)
    return experts, weights / weights.sum(-1, keepdim=True)


@holds
def tiles_are_the_loop_and_read_a_matrix_for_each():
    x, w, book = randn(45, 16), randn(6, 16, 32), Ledger(2**20)
    experts, p = chosen(45, 2, 6)
    same(by_tiles(x, experts, p, w, book), by_pairs(x, experts, p, w))
    n = figures.tiles(experts.flatten().bincount().tolist(), 16)
    assert book.moved == 2 * (90 * 16 + n * 16 * 32)


# %% [markdown]
# ## 3 · The gate
#
# A program takes BN tokens, and a row of the tile is a token's logits. Triton has a maximum over a row, and that is
# all we need: take the largest, strike it out, and take the next. Lanes beyond the last expert hold $-\infty$. Of
# equal logits the lowest expert wins, because of `tl.min`.


# %%
@triton.jit
def gate_kernel(p_z, p_w, p_e, N, E, K: tl.constexpr,
                BN: tl.constexpr, BE: tl.constexpr, BK: tl.constexpr):  # fmt: skip
    o_n = tl.program_id(0) * BN + tl.arange(0, BN)[:, None]
    o_e, o_k = tl.arange(0, BE)[None, :], tl.arange(0, BK)[None, :]
    there = (o_n < N) & (o_e < E)
    b_z = tl.load(p_z + o_n * E + o_e, mask=there, other=float("-inf"))
    b_w, b_e = tl.zeros((BN, BK), tl.float32), tl.zeros((BN, BK), tl.int32)
    b_top = tl.max(b_z, 1)[:, None]
    for j in tl.static_range(K):
        b_best = tl.max(b_z, 1)[:, None]
        b_first = tl.min(tl.where(b_z == b_best, o_e, BE), 1)[:, None]
        b_z = tl.where(o_e == b_first, float("-inf"), b_z)
        b_w = tl.where(o_k == j, tl.exp(b_best - b_top), b_w)
        b_e = tl.where(o_k == j, b_first, b_e)
    b_w = b_w / tl.sum(b_w, 1)[:, None]
    there = (o_n < N) & (o_k < K)
    tl.store(p_w + o_n * K + o_k, b_w, mask=there)
    tl.store(p_e + o_n * K + o_k, b_e, mask=there)


def power(n):
    return triton.next_power_of_2(n)


def gate(z, k, normalise=True):
    """Weights (N, k) and experts (N, k) of logits z (N, E)."""
    N, E = z.shape
    w, e = z.new_empty(N, k), z.new_empty(N, k, dtype=torch.int32)
    sizes = {"K": k, "BN": 16, "BE": power(E), "BK": power(k)}
    gate_kernel[(triton.cdiv(N, 16),)](z, w, e, N, E, **sizes)
    return w, e


# %% [markdown]
# The tile of logits stays in registers, however often it is searched: a token's logits are read once. Rows beyond N
# are all $-\infty$ and give NaN, which no one stores. (In exercise 27.3 experts are chosen by one score and weighed
# by another.)
#
# ## 4 · Count, offsets, places
#
# Now the $P = N k$ pairs must be sorted by expert. That needs no comparison of pairs, because an expert is a small
# number: a **counting sort** puts pair $p$ at
#
# $$\text{place}(p) = \underbrace{\#\{\text{pairs of lower experts}\}}_{\text{offset}} +
# \underbrace{\#\{\text{its expert's, in earlier programs}\}}_{\text{prefix sum over programs}} +
# \underbrace{\#\{\text{its expert's, before } p \text{ in its program}\}}_{\text{a small triangle}}$$
#
# A program knows only its own BP pairs, so three kernels run after one another: **count** writes a histogram for each
# program, **scan** turns the table of histograms into starts, and **place** uses them. Launches of one stream run in
# order; no kernel waits inside.


# %%
@triton.jit
def count_kernel(p_e, p_counts, P, BE: tl.constexpr, BP: tl.constexpr):
    i = tl.program_id(0)
    o_p = i * BP + tl.arange(0, BP)
    b_e = tl.load(p_e + o_p, mask=o_p < P, other=BE - 1)
    tl.store(p_counts + i * BE + tl.arange(0, BE), tl.histogram(b_e, BE))


@triton.jit
def scan_kernel(p_counts, p_starts, p_offsets, PROGRAMS, BB: tl.constexpr,
                BE: tl.constexpr):  # fmt: skip
    o_i, o_e = tl.arange(0, BB)[:, None], tl.arange(0, BE)
    at = o_i * BE + o_e[None, :]
    b_n = tl.load(p_counts + at, mask=o_i < PROGRAMS, other=0)
    b_total = tl.sum(b_n, 0)
    b_offset = tl.cumsum(b_total, 0) - b_total
    b_start = b_offset[None, :] + tl.cumsum(b_n, 0) - b_n
    tl.store(p_starts + at, b_start, mask=o_i < PROGRAMS)
    tl.store(p_offsets + o_e, b_offset)


@triton.jit
def place_kernel(p_e, p_starts, p_pairs, p_places, P, BE: tl.constexpr,
                 BP: tl.constexpr):  # fmt: skip
    i, o = tl.program_id(0), tl.arange(0, BP)
    o_p = i * BP + o
    b_e = tl.load(p_e + o_p, mask=o_p < P, other=BE - 1)
    before = (b_e[:, None] == b_e[None, :]) & (o[None, :] < o[:, None])
    b_place = tl.load(p_starts + i * BE + b_e) + tl.sum(before.to(tl.int32), 1)
    tl.store(p_places + o_p, b_place, mask=o_p < P)
    tl.store(p_pairs + b_place, o_p, mask=o_p < P)


def permute(experts, E, BP=32):
    """pairs (P,) in the order of their experts, places (N, k), offsets (E + 1,)."""
    P, BE = experts.numel(), power(E + 1)
    programs = triton.cdiv(P, BP)
    counts, starts = experts.new_empty(2, programs, BE)
    pairs, places = experts.new_empty(P), torch.empty_like(experts)
    offsets = experts.new_empty(BE)
    count_kernel[(programs,)](experts, counts, P, BE=BE, BP=BP)
    scan_kernel[(1,)](counts, starts, offsets, programs, BB=power(programs), BE=BE)
    place_kernel[(programs,)](experts, starts, pairs, places, P, BE=BE, BP=BP)
    return pairs, places, offsets[: E + 1]


# %% [markdown]
# Missing pairs behind the end count as those of expert BE - 1, which no token chooses since BE > E, so they come
# last. A cumulative sum minus its own element is an **exclusive** prefix sum: what came before. Nothing is added with
# atomics, so pairs of an expert keep their order, and every run gives the same permutation. With twelve tokens, two
# slots and programs of 8 pairs:

# %%
experts, _ = chosen(12, 2, 4)
pairs, places, offsets = permute(experts.int(), 4, BP=8)
title = f"Experts begin at places {', '.join(map(str, offsets.tolist()[:-1]))}"
figures.places(experts.flatten().tolist(), 2, places.flatten().tolist(), title)

# %% [markdown]
# *What to see.* Each mark is a pair. From left to right is the order of the tokens, from bottom to top the order
# after the permutation: every expert has a band of its own, and within a band marks rise, because the sort is stable.
# `places` is read along x, and `pairs`, its inverse, along y. The grouped product needs pairs (which token do I
# read?), combine needs places (where are my rows?).
#
# ## 5 · A product of ragged groups
#
# The grid must be known before the counts are. Each expert adds at most one tile that is not full, so
#
# $$\sum_e \lceil \text{rows}_e / BM \rceil \;\le\; \lceil P / BM \rceil + E$$
#
# programs are enough; those left over end at once. A program sums up the tiles of all experts. Its expert is the
# number of experts whose tiles *all* come before it. This skips experts without tokens by itself: their running sum
# is no higher than the one before.


# %%
@triton.jit
def grouped_kernel(p_x, p_w, p_y, p_offsets, p_from, D, F, E, BE: tl.constexpr,
                   BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):  # fmt: skip
    i_m, o_e = tl.program_id(0), tl.arange(0, BE)
    b_first = tl.load(p_offsets + o_e, mask=o_e < E, other=0)
    b_end = tl.load(p_offsets + o_e + 1, mask=o_e < E, other=0)
    b_tiles = tl.cumsum(tl.cdiv(b_end - b_first, BM), 0)
    done = b_tiles <= i_m
    e, before = tl.sum(done.to(tl.int32), 0), tl.max(tl.where(done, b_tiles, 0), 0)
    if e < E:
        first, end = tl.load(p_offsets + e), tl.load(p_offsets + e + 1)
        o_m = first + (i_m - before) * BM + tl.arange(0, BM)
        o_n, o_k = tl.program_id(1) * BN + tl.arange(0, BN), tl.arange(0, BK)
        b_row = tl.load(p_from + o_m, mask=o_m < end, other=0)[:, None]
        b_y = tl.zeros((BM, BN), tl.float32)
        for k in range(0, D, BK):
            at_x = p_x + b_row * D + k + o_k[None, :]
            b_x = tl.load(at_x, mask=o_m[:, None] < end, other=0.0)
            b_w = tl.load(p_w + (e * D + k + o_k[:, None]) * F + o_n[None, :])
            b_y = tl.dot(b_x, b_w, b_y, input_precision="ieee")
        at_y = p_y + o_m[:, None] * F + o_n[None, :]
        tl.store(at_y, b_y.to(p_y.dtype.element_ty), mask=o_m[:, None] < end)


def grouped(x, w, offsets, source, BM=16, BN=16):
    """Row i: x[source[i]] times the matrix of place i's expert. w (E, D, F)."""
    (E, D, F), P = w.shape, len(source)
    y, grid = x.new_empty(P, F), (triton.cdiv(P, BM) + min(E, P), F // BN)
    how = {"BE": power(E), "BM": BM, "BN": BN, "BK": 16}
    grouped_kernel[grid](x, w, y, offsets, source, D, F, E, **how)
    return y


# %% [markdown]
# Rows are read *through* the permutation: no sorted copy of the tokens is made. (D and F are multiples of the tiles
# on this page.) The same twelve tokens and four experts, in tiles of 16 rows:

# %%
x, w4 = torch.randn(12, 16, generator=rng), torch.randn(4, 16, 16, generator=rng)
args = x, w4, torch.empty(24, 16), offsets, pairs // 2, 16, 16, 4
trace(grouped_kernel, (6, 1), *args, BE=4, BM=16, BN=16, BK=16)

# %% [markdown]
# *What to see.* Drag the slider, or press Play. Each program with work reads one expert's matrix and rows of x that
# are spread over all tokens, and writes rows that lie together. The last two of the six programs read the offsets,
# find no rows, and end: that is the price of a grid that is only a bound.
#
# ## 6 · Combine, and its backward
#
# The rows must come back: $y_n = \sum_j p_{nj}\, r_{\text{place}(n, j)}$. There are two directions. Each *row* may be
# added to its token; several programs then meet at one token, and need atomic additions. Or each *token* may fetch
# its $k$ rows; then one program computes each sum, in float32 and in the order of the slots. Try the first one, in
# float16, in several orders of the programs (a GPU's order is chance; here the order of the rows is shuffled):


# %%
@triton.jit
def scatter_kernel(p_rows, p_token, p_w, p_y, BD: tl.constexpr):
    i, o_d = tl.program_id(0), tl.arange(0, BD)
    b = tl.load(p_w + i) * tl.load(p_rows + i * BD + o_d).to(tl.float32)
    at = p_y + tl.load(p_token + i) * BD + o_d
    tl.atomic_add(at, b.to(p_y.dtype.element_ty))


scattered = torch.randn(32, 16, generator=rng).half()
p, token = (
    torch.rand(32, generator=rng),
    torch.arange(32) // 8,
)  # 4 tokens, 8 slots each
sums = []
for _ in range(24):
    by, y = torch.randperm(32, generator=rng), torch.zeros(4, 16).half()
    scatter_kernel[(32,)](scattered[by], token[by], p[by], y, BD=16)
    sums.append(y)
exact = (p[:, None].double() * scattered.double()).view(4, 8, 16).sum(1)

# %% tags=["measured"]
from seqlab.figures.kernels import spread

values = torch.stack(sums).flatten(1).T
most = max(range(64), key=lambda i: len(values[i].unique()))
spread(values[most].tolist(), exact.flatten()[most].item(), bits=16)

# %% [markdown]
# *What to see.* One element of one token, chosen because it takes the most values; each mark is another order of the
# same additions. Eight addends in float16 are rounded after each addition, and the order decides what is lost.
# Nothing is *wrong* here, no update is lost, and still two runs differ. The fetching direction has neither problem,
# and it needs no zeros to begin with.
#
# Its backward is a scatter by nature, but a harmless one: `places` is a permutation, so each row belongs to one token
# and slot, and is written once.
#
# $$dr_{\text{place}(n, j)} = p_{nj}\, dy_n \qquad dp_{nj} = dy_n \cdot r_{\text{place}(n, j)}$$


# %%
@triton.jit
def combine_kernel(p_rows, p_places, p_w, p_y, K: tl.constexpr, BD: tl.constexpr):
    n, o_d = tl.program_id(0), tl.arange(0, BD)
    b_y = tl.zeros((BD,), tl.float32)
    for j in range(0, K):
        place = tl.load(p_places + n * K + j)
        b_y += tl.load(p_w + n * K + j) * tl.load(p_rows + place * BD + o_d)
    tl.store(p_y + n * BD + o_d, b_y.to(p_y.dtype.element_ty))


@triton.jit
def combine_backward_kernel(p_rows, p_places, p_w, p_dy, p_drows, p_dw,
                            K: tl.constexpr, BD: tl.constexpr):  # fmt: skip
    n, o_d = tl.program_id(0), tl.arange(0, BD)
    b_dy = tl.load(p_dy + n * BD + o_d).to(tl.float32)
    for j in range(0, K):
        at = tl.load(p_places + n * K + j) * BD + o_d
        b_drow = tl.load(p_w + n * K + j) * b_dy
        tl.store(p_drows + at, b_drow.to(p_drows.dtype.element_ty))
        tl.store(p_dw + n * K + j, tl.sum(b_dy * tl.load(p_rows + at), 0))


class Combine(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows, places, weights):
        ctx.save_for_backward(rows, places, weights)
        (N, k), BD = places.shape, rows.shape[1]
        y = rows.new_empty(N, BD)
        combine_kernel[(N,)](rows, places, weights, y, K=k, BD=BD)
        return y

    @staticmethod
    def backward(ctx, dy):
        rows, places, weights = ctx.saved_tensors
        (N, k), BD = places.shape, rows.shape[1]
        drows, dw = torch.empty_like(rows), torch.empty_like(weights)
        given = rows, places, weights, dy.contiguous(), drows, dw
        combine_backward_kernel[(N,)](*given, K=k, BD=BD)
        return drows, None, dw


# %% [markdown]
# Are these kernels what they claim, for experts without tokens and ragged groups? Does combine move more than it
# must? Would a GPU find a fault? The product's own backward needs little that is new: $dx$ is the grouped product of
# $dy$ with transposed matrices. (The gradient of a matrix, $\sum x^\top dy$ over its expert's rows, is a kernel of
# its own; exercise 27.8 has one to mend.)

# %% tags=["nbval-check-output"]
from seqlab.gpu.sanitize import sanitize


@holds
def the_gate_and_the_sort_are_pytorchs():
    for N, E, k in ((1, 1, 1), (21, 6, 2), (40, 8, 3)):
        z = randn(N, E).float()
        w, e = gate(z, k)
        weights, experts = z.softmax(-1).topk(k)
        same(w, weights / weights.sum(-1, keepdim=True), SINGLE)
        assert torch.equal(e.long(), experts)
        pairs, places, offsets = permute(e, E + 2)  # two experts have no tokens
        assert torch.equal(pairs.long(), experts.flatten().argsort(stable=True))
        assert torch.equal(pairs[places.flatten().long()], torch.arange(N * k).int())
        assert torch.equal(offsets, offsets_of(e.flatten().bincount(minlength=E + 2)))


@holds
def the_grouped_product_skips_empty_experts():
    for load in ([40], [0, 17, 0, 0, 5, 0], [1, 0, 33, 16]):
        offsets, P = offsets_of(load), sum(load)
        x, w = randn(P, 32), randn(len(load), 32, 16)
        source = torch.randperm(P, generator=rng).int()
        owner = torch.arange(len(load)).repeat_interleave(torch.tensor(load))
        ours = grouped(x.float(), w.float(), offsets, source)
        same(ours.double(), (x[source.long(), None] @ w[owner])[:, 0], SINGLE)
        dy, each = randn(P, 16), torch.arange(P).int()
        dx = grouped(dy.float(), w.mT.float().contiguous(), offsets, each)
        same(dx.double(), (w[owner] @ dy[..., None])[..., 0], SINGLE)


@holds
def combine_has_the_gradients_of_the_sum_and_moves_each_row_once():
    places = torch.randperm(14, generator=rng).view(7, 2).int()
    given = [randn(14, 16).requires_grad_(), randn(7, 2).requires_grad_()]
    y = (given[0][places.long()] * given[1][..., None]).sum(1)
    singles = [x.detach().float().requires_grad_() for x in given]
    ours = Combine.apply(singles[0], places, singles[1])
    dy = randn(7, 16)
    theirs = (y, *torch.autograd.grad(y, given, dy))
    ours = (ours, *torch.autograd.grad(ours, singles, dy.float()))
    for one, other in zip(ours, theirs, strict=True):
        same(one.double(), other, SINGLE)
    args = singles[0].detach(), places, singles[1].detach(), torch.empty(7, 16)
    moved = trace(combine_kernel, (7,), *args, K=2, BD=16).bytes
    assert moved == 4 * (14 * 16 + 14 + 14 + 7 * 16)  # rows, places, weights, y


@holds
def a_gpu_finds_no_fault():
    offsets, source = offsets_of([0, 17, 5]), torch.arange(22).int()
    args = torch.randn(22, 16), w4[:3], torch.zeros(22, 16), offsets, source
    how = {"BE": 4, "BM": 16, "BN": 16, "BK": 16}
    assert not sanitize(grouped_kernel, (5, 1), *args, 16, 16, 3, **how)
    e, starts = torch.zeros(22).int(), torch.zeros(2, 4).int()
    assert not sanitize(count_kernel, (2,), e, starts, 22, BE=4, BP=16)
    starts[1] = 16
    out = torch.zeros(2, 22).int()
    assert not sanitize(place_kernel, (2,), e, starts, *out, 22, BE=4, BP=16)


# %% [markdown]
# ## 7 · A trained layer
#
# Together they are a form of seqlab's `MoE`, for SwiGLU experts. Between the two products one line of PyTorch
# remains.


# %%
from torch.nn.functional import silu

from seqlab.ffn import MixtralRouter, MoE


def our_form(x, routing, experts):
    """Σ_j p_nj E_e(x_n), by the page's kernels. x (N, D)."""
    up = torch.stack([torch.cat([f.gate.weight, f.up.weight]).T for f in experts])
    down = torch.stack([f.down.weight.T for f in experts])
    weights, chosen = routing.weights.flatten(0, -2), routing.experts.flatten(0, -2)
    pairs, places, offsets = permute(chosen.int().contiguous(), len(experts))
    g, u = grouped(x, up, offsets, pairs // chosen.shape[1]).chunk(2, dim=1)
    y = grouped(silu(g) * u, down, offsets, torch.arange(len(g)).int())
    return Combine.apply(y, places, weights.contiguous())


# %% [markdown]
# Train layers of eight SwiGLU experts of width 16 on the clusters of chapter 17: three seeds, with no balance loss
# and with one, times 0.1; Adam, learning rate 0.01, 150 steps of 256 tokens. Their loads for 512 fresh tokens, 1,024
# rows, and the steps that these take on eight processors, in tiles of 16:

# %% tags=["measured"]
runs = {}
for balance in (0.0, 0.1):
    for seed in (0, 1, 2):
        torch.manual_seed(seed)
        layer = MoE(16, 8, router=MixtralRouter, d_ff=16)
        x = figures.learn_clusters(layer, balance, seed)
        runs[f"{'balance' if balance else 'none'}<br>seed {seed}"] = layer, x
steps = {}
for name, (layer, x) in runs.items():
    layer(x[None])
    load = layer.routing.load.tolist()
    walk = max(triton.cdiv(n, 16) for n in load)
    steps[name] = walk, max(map(len, by_tile(load)))
    print(name.replace("<br>", ", ").ljust(16), load)
walk, tile = zip(*steps.values(), strict=True)
title = (
    f"A program for each expert: up to {max(walk)} steps; for each tile: {max(tile)}"
)
figures.learned(steps, title)

# %% [markdown]
# *What to see.* Without a balance loss the trained routers are unequal, and a program for each expert waits for the
# longest; two of them even have an expert without a single token. The loss mends most of that. The grid of tiles
# hardly notices the difference. This is one small task with one learning rate: it shows that trained loads lie
# between the pictures of section 1, not how unequal large models are.
#
# Now a trained layer of each kind runs through the kernels, gate included:


# %% tags=["nbval-check-output"]
@holds
@torch.no_grad()
def a_trained_layer_gives_the_same_answers_through_the_kernels():
    for layer, x in list(runs.values())[::3]:
        right = layer(x[None, :40])
        layer.form = our_form
        layer.router.form = lambda z, *how: [u[None] for u in gate(z[0], *how)]
        same(layer(x[None, :40]), right, 10 * SINGLE)


# %% [markdown]
# ## 8 · Rows that are not there
#
# A tile computes BM rows, whether they exist or not. Long groups lose about half a tile each, $E \cdot BM / 2$ rows
# in all. Groups shorter than a tile lose more: a lone row occupies a whole tile. Turn the sizes:

# %%
from seqlab.widgets import explore

explore(figures.padding, E=[8, 64, 256], k=[1, 2, 8], tile=[16, 64, 128])

# %% [markdown]
# *What to see.* Rows are drawn at random, with even shares of the experts and with shares like $1/e$. With 64
# experts, 8 for each token and tiles of 64, half of the rows are padding at 256 tokens. Skew changes the share by
# less than ten points: its short groups waste more, but it also leaves experts without any row, and these cost
# nothing.
#
# Wasted flops are free as long as bytes are the limit. Are they? Every expert with a token must load all of its
# matrices, so few tokens mean many bytes for each flop:

# %%
from seqlab.figures.roofline import roofline as roofline_figure
from seqlab.zoo import recipe

size, s = next(iter(recipe("DeepSeek-V3").published.items()))
counts = {N: figures.mixture_counts(N, **s) for N in (1, 64, 4096, 65536)}
placed = {f"N = {N:,}": pair for N, pair in counts.items()}
few, many = (counts[N][1] / counts[N][0] for N in (64, 65536))
title = f"{few:.0f} flops a byte for N = 64 tokens, {many:,.0f} for 65,536"
roofline_figure(placed, title=title)

# %% [markdown]
# *What to see.* One layer with the sizes of DeepSeek-V3, under the roof of an H100, with each element moved once. Up
# to some thousands of tokens the layer lies on the slope: by this count padded rows are free, and what counts is that
# no matrix is read twice. In training, or with long prompts, it is the other way round. This is a floor, and nobody
# here has measured it.
#
# ## 9 · What the compiler makes of it
#
# The same sizes, roughly: 256 experts of which a token takes 8, rows 4,096 wide in combine. Compiled for four GPUs:

# %%
from seqlab.figures.flash_kernel import registers
from seqlab.gpu.compile import compile_report


def meta(*shape, dtype=torch.int32):
    return torch.empty(*shape, dtype=dtype, device="meta")


def compiled(kernel, *given, **how):
    return figures.fits(compile_report(kernel, *given, **how))


half, single = {"dtype": torch.bfloat16}, {"dtype": torch.float32}
N, P, places, p = 4096, 32768, meta(4096, 8), meta(4096, 8, **single)
z, wide = meta(N, 256, **single), meta(P, 4096, **half)
matrices, y = meta(256, 4096, 2048, **half), meta(P, 2048, **half)
product = wide, matrices, y, meta(257), meta(P), 4096, 2048, 256
sizes = {"K": 8, "BE": 256, "BK": 8}
used = {
    "gate, 16 tokens": compiled(gate_kernel, z, p, places, N, 256, BN=16, **sizes),
    "gate, 4 tokens": compiled(gate_kernel, z, p, places, N, 256, BN=4, **sizes),
    "combine": compiled(combine_kernel, wide, places, p, wide, K=8, BD=4096),
}
for BM, BN, warps in ((64, 128, 4), (128, 128, 4), (128, 128, 8)):
    how = {"BE": 256, "BM": BM, "BN": BN, "BK": 64, "num_warps": warps, "num_stages": 3}
    name = f"product {BM} × {BN}, {warps} warps"
    used[name] = compiled(grouped_kernel, *product, **how)
clean = sum(all(fits and not s for _, s, fits in by.values()) for by in used.values())
registers(used, f"{clean} of {len(used)} kernels fit in registers on all four targets")

# %% [markdown]
# *What to see.* Registers of a thread; orange cells spill. The gate holds all logits of its tokens, so its tokens
# must become fewer as experts become more: with 16 tokens it needs about three times the registers of 4. Only the
# product of 128 × 128 with 4 warps spills, on the A100 (sm_80); with 8 warps each thread holds half as much of the
# tile. The sum over 256 experts that finds the group is done before the loop over D.
#
# ## 10 · In the wild
#
# How many tokens does it take until an average expert fills one tile of 64 rows? For published models:

# %% tags=["nbval-check-output"]
for name in ("Mixtral", "DBRX", "Qwen3 MoE", "DeepSeek-V3"):
    size, s = next(iter(recipe(name).published.items()))
    n, k = s["n_experts"], s["top_k"]
    print(f"{name:12} {k} of {n:3} experts: {64 * n / k:5,.0f} tokens a tile")

# %% [markdown]
# Training has that many tokens at once; a server that decodes for 64 users has not. [Switch
# Transformer](https://arxiv.org/abs/2101.03961) gave each expert a fixed number of places, so that all groups are
# equal: it pads short groups and drops tokens from long ones. [MegaBlocks](https://arxiv.org/abs/2211.15841) showed
# that neither is needed. It writes the layer as products of block-sparse matrices, whose blocks follow the groups,
# and no token is dropped; DBRX was trained with it. A few large experts, as in
# [Mixtral](https://arxiv.org/abs/2401.04088), make long groups. Many small ones, as in
# [DeepSeekMoE](https://arxiv.org/abs/2401.06066), make short groups, and kernels have to live with that.
#
# **How `kernels/` differs** from this page, and why. `moe_gate.py` packs a logit and its expert into one integer of
# 64 bits, so one maximum finds both, and -∞ and NaN have a place in the order; here a row with fewer than k finite
# logits would name an expert twice. It has a backward. `moe_permute.py` scans the table of counts in blocks, so the
# number of programs is not limited by one tile, and it knows pairs that a router dropped. `grouped_matmul.py` takes
# any widths, and orders its programs so that those which run together share tiles in the L2 cache; its offsets into
# large tensors are 64 bits wide, its tiles are tuned, and it has the gradient of the matrices: one program for each
# tile of an expert's matrix walks along that expert's rows. There, unequal load is back: the walk is as long as the
# group. `moe.py` does the activation in a kernel, and reads gate and up as one matrix, as `our_form` does. Nobody has
# measured any of this on a GPU yet.
#
# ### Fact check
#
# **"A collapsed router is slow."** On one device, with a program for each tile, it takes as many steps as a balanced
# one (section 1). What it loses is quality, and balance between devices.
#
# **"Atomics make sums wrong."** They lose nothing. In float16 they make the rounding depend on chance (section 6).
#
# **"Sorting tokens by expert is expensive."** It is two passes over small integers, and it compares no pair with
# another outside a block (section 4).
#
# **"The CPU must know the loads to launch the product."** A bound on the tiles is enough (section 5).
#
# ## 11 · Practise
#
# In a terminal, `seqlab start 27` puts your own copy of the exercises into `work/`. `check` takes your kernel along
# to a process of its own, compares it with a reference, and looks at each launch as `sanitize` does.

# %% [markdown] tags=["exercises"]
# The table of exercises is made from their files.

# %% [markdown]
# The notebook is [exercises/27_moe_kernels.ipynb](../exercises/27_moe_kernels.ipynb);
# work on the copy in `work/`.
#
# ## Recap, in five lines
#
# 1. Unequal load makes programs idle if a program owns an expert; if it owns a tile, only ragged ends are lost.
# 2. The k largest of a row: take a maximum and strike it out, k times, in registers.
# 3. Counts, an exclusive prefix sum and a small triangle sort pairs by expert, in the same order in every run.
# 4. A grid that is only a bound needs no counts on the CPU; a program finds its expert in a running sum of tiles.
# 5. Let a token fetch its rows: one program a sum, no atomics, and the backward writes each row once.
#
# Next, chapter 28: whole models, before and after your kernels.
#
# ## References
#
# - N. Shazeer et al. [*Outrageously Large Neural Networks: The Sparsely-Gated Mixture-of-Experts
#   Layer.*](https://arxiv.org/abs/1701.06538) 2017.
# - W. Fedus, B. Zoph, N. Shazeer. [*Switch Transformers: Scaling to Trillion Parameter Models with Simple and
#   Efficient Sparsity.*](https://arxiv.org/abs/2101.03961) 2021.
# - T. Gale, D. Narayanan, C. Young, M. Zaharia. [*MegaBlocks: Efficient Sparse Training with
#   Mixture-of-Experts.*](https://arxiv.org/abs/2211.15841) 2022.
# - A. Q. Jiang et al. [*Mixtral of Experts.*](https://arxiv.org/abs/2401.04088) 2024.
# - D. Dai et al. [*DeepSeekMoE: Towards Ultimate Expert Specialization in Mixture-of-Experts Language
#   Models.*](https://arxiv.org/abs/2401.06066) 2024.
# - DeepSeek-AI. [*DeepSeek-V3 Technical Report.*](https://arxiv.org/abs/2412.19437) 2024.
