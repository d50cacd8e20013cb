# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 24 · Flash attention kernel
#
# **After this chapter you can**
#
# - count what attention moves when its scores go through slow memory, and write the kernel that keeps them on the
#   chip;
# - split a causal loop into tiles that need a mask and tiles that do not, and find a head's keys under grouped
#   queries;
# - choose the type of each number in the loop: products, weights, accumulator, running maximum;
# - write the backward in two kernels from one number a row, without atomics;
# - split the keys of one query among programs and merge what they read;
# - read from a compile report at which head width a tile runs out of registers.
#
# **You need** chapter 14 (the mathematics: online softmax, log-sum-exp, the backward by recomputation) and chapter 23
# (programs, masks, `trace`, `sanitize`, `compile_report`). No GPU. Triton itself is installed on Linux only; on macOS
# and Windows this page can be read, but its kernels do not run.
#
# **Time** 75 minutes to read, two minutes to run.
#
# **Covers** fused forward · exp2 and the folded scale · causal loop bounds · grouped queries · accumulators ·
# dK and dV by key tiles, dQ by query tiles · split-K decoding · register budgets.
#
# ## 1 · A failure: three kernels, each of them good
#
# Attention is a matrix product, a softmax and another matrix product, and chapter 23 has a kernel for each. So start
# three: the first computes the scores $S = q k^\top$ in tiles of 32 × 32, the second takes a row of $S$ and writes
# its softmax $P$, the third multiplies $P$ with $v$. (The scale and the mask change no byte here.) Take one head of
# 256 tokens, $K = 32$, in float16; $q$, $k$, $v$ and $y$ are 16 KiB each.
#
# **Before you read on**, commit to an answer. 64 KiB must move: $q$, $k$ and $v$ in, $y$ out. How many do the three
# kernels ask for?

# %%
import torch

from seqlab.course import predict
from seqlab.figures import flash_kernel as figures
from seqlab.gpu.trace import trace
from seqlab.kernels.matmul import matmul_tile
from seqlab.kernels.softmax import softmax_row

T, K = 256, 32
rng = torch.Generator().manual_seed(0)
q, k, v = torch.randn(3, T, K, generator=rng).half()
S, P, y = torch.empty(T, T).half(), torch.empty(T, T).half(), torch.empty(T, K).half()
tile = {"BM": 32, "BN": 32, "BK": 32, "GROUP": 1, "PRECISION": "ieee"}
runs = {
    "qkS": trace(matmul_tile, (64,), q, k, S, T, T, K, K, 1, 1, K, **tile),
    "SP": trace(softmax_row, (T,), S, P, T, BD=T),
    "Pvy": trace(matmul_tile, (8,), P, v, y, T, K, T, T, 1, K, 1, **tile),
}


def by_tensor(seen, names=None):
    """Bytes in and out of each tensor; names in place of the kernel's own."""
    moved = {n[2:]: t.bytes_in + t.bytes_out for n, t in seen.traffic.items()}
    return dict(zip(names or moved, moved.values(), strict=True))


three = dict.fromkeys("qkSPvy", 0)
for names, seen in runs.items():
    for tensor, n_bytes in by_tensor(seen, names).items():
        three[tensor] += n_bytes
total, square = sum(three.values()) / 1024, (three["S"] + three["P"]) / 1024
predict(
    "24-bytes",
    "64 KiB must move. How many KiB do the three kernels ask for?",
    lambda: figures.moved(
        {"three kernels": three, "must move": dict.fromkeys("qkvy", 2 * T * K)},
        f"{total:,.0f} KiB are asked for; {square:,.0f} of them are S and P",
    ),
    choices=["about 64", "about 200", "about 900", "about 4,000"],
)

# %% [markdown]
# *What to see.* The third answer is right. $S$ and $P$ are written once and read once, and each has 256 × 256
# numbers; the rest is that tiles of $q$, $k$ and $v$ are read again for each tile they meet. None of the kernels is
# bad. But $S$ grows with $T^2$ while all that must move grows with $T$, so with longer texts the two hidden matrices
# are nearly everything. The remedy is not a better kernel for any of the three steps. It is *one* kernel, so that the
# scores never leave the chip.
#
# ## 2 · One kernel, from a loop
#
# Chapter 14 derived what one kernel needs: a softmax in one pass, from a running maximum $m$ and a running sum
# $\ell$, and wrote it as a loop over scores. Here is a tile of queries and keys at a time, in PyTorch, with the
# ledger that counts what crosses into the fast memory.

# %%
from seqlab.gpu.ledger import Ledger

NEVER = float("-inf")


def by_tiles(q, k, v, ledger, B=32):
    ys, T = [], torch.arange(len(q))
    for rows in T.split(B):
        b_q = ledger.load("q", q[rows])
        b_top, b_sum = torch.full((len(rows), 1), NEVER), 0.0
        b_y = 0.0
        for cols in T[: rows[-1] + 1].split(B):
            b_k, b_v = ledger.load("k", k[cols]), ledger.load("v", v[cols])
            b_s = (b_q @ b_k.mT) * q.shape[1] ** -0.5
            b_s = b_s.masked_fill(cols > rows[:, None], NEVER)
            new = torch.maximum(b_top, b_s.amax(1, keepdim=True))
            fade, b_p = (b_top - new).exp(), (b_s - new).exp()
            b_sum, b_y = fade * b_sum + b_p.sum(1, keepdim=True), fade * b_y + b_p @ b_v
            b_top = new
        ys.append(b_y / b_sum)
        ledger.store("y", torch.empty_like(ys[-1]), ys[-1].detach())
    return torch.cat(ys)


# %% [markdown]
# Now the kernel. A program holds BT queries of one head, and walks along the keys, BS at a time. Four details are
# new.
#
# **Powers of two.** A GPU has an instruction for $2^x$; $e^x$ is made of it and a multiplication. Since the scores
# are multiplied by the scale anyway, fold both factors into one: $e^{s/\sqrt K - m} = 2^{s' - m'}$ with $s' = s \cdot
# \log_2 e / \sqrt K$. The running maximum is then in units of $\log 2$, too.
#
# **A finite start.** With $m = -\infty$ at the start, a tile without a visible key would compute $-\infty + \infty$.
# `LEAST` is below every score, and finite.
#
# **ACC**, the type of the sum y, is a constant of the kernel: float32 for float16 inputs, whatever the type of the
# result. Section 4 tries another.
#
# **MASKED** is a constant as well. Triton compiles the loop's body twice, once with the mask and once without.


# %%
from seqlab.gpu.anywhere import tl, triton

LOG2E = tl.constexpr(1.4426950408889634)
LEAST = tl.constexpr(-1e30)


@triton.jit
def read_tiles(b_y, b_top, b_sum, b_q, o_t, p_k, p_v, begin, end, T, h, scale_2,
               K: tl.constexpr, V: tl.constexpr, BS: tl.constexpr, ACC: tl.constexpr,
               MASKED: tl.constexpr):  # fmt: skip
    """Add the keys begin … end to the reads of the queries at o_t."""
    o_k, o_v = tl.arange(0, K), tl.arange(0, V)
    for first in range(begin, end, BS):
        o_s = first + tl.arange(0, BS)
        there = o_s[:, None] < T
        at_k = p_k + o_s[:, None] * (h * K) + o_k[None, :]
        b_k = tl.load(at_k, mask=there, other=0.0)
        b_s = tl.dot(b_q, tl.trans(b_k), input_precision="ieee") * scale_2
        if MASKED:
            b_s = tl.where(o_s[None, :] <= o_t[:, None], b_s, float("-inf"))
        new = tl.maximum(b_top, tl.max(b_s, 1))
        fade, b_p = tl.exp2(b_top - new), tl.exp2(b_s - new[:, None])
        b_sum = b_sum * fade + tl.sum(b_p, 1)
        at_v = p_v + o_s[:, None] * (h * V) + o_v[None, :]
        b_v = tl.load(at_v, mask=there, other=0.0)
        b_y = (b_y * fade[:, None]).to(ACC)
        b_p = b_p.to(b_v.dtype)
        b_y = tl.dot(b_p, b_v, b_y, input_precision="ieee", out_dtype=ACC)
        b_top = new
    return b_y, b_top, b_sum


@triton.jit
def attend_kernel(p_q, p_k, p_v, p_y, p_lse, T, H, h, scale_2,
                  K: tl.constexpr, V: tl.constexpr, BT: tl.constexpr, BS: tl.constexpr,
                  ACC: tl.constexpr):  # fmt: skip
    start, i_h = tl.program_id(0) * BT, tl.program_id(1)
    o_t, o_k, o_v = start + tl.arange(0, BT), tl.arange(0, K), tl.arange(0, V)
    inside = o_t[:, None] < T
    i_k = i_h // (H // h)  # the head of k and v that this head of q reads
    p_k, p_v = p_k + i_k * K, p_v + i_k * V
    at_q = p_q + (o_t[:, None] * H + i_h) * K + o_k[None, :]
    b_q = tl.load(at_q, mask=inside, other=0.0)
    b_y = tl.zeros((BT, V), ACC)
    b_top, b_sum = tl.full((BT,), LEAST, tl.float32), tl.zeros((BT,), tl.float32)
    whole = (start + 1) // BS * BS  # up to here every query of the tile sees every key
    b_y, b_top, b_sum = read_tiles(
        b_y, b_top, b_sum, b_q, o_t, p_k, p_v, 0, whole, T, h, scale_2,
        K, V, BS, ACC, MASKED=False)  # fmt: skip
    b_y, b_top, b_sum = read_tiles(
        b_y, b_top, b_sum, b_q, o_t, p_k, p_v, whole, tl.minimum(start + BT, T), T, h,
        scale_2, K, V, BS, ACC, MASKED=True)  # fmt: skip
    at_y = p_y + (o_t[:, None] * H + i_h) * V + o_v[None, :]
    b_y = b_y / b_sum[:, None]
    tl.store(at_y, b_y.to(p_y.dtype.element_ty), mask=inside)
    tl.store(p_lse + i_h * T + o_t, (b_top + tl.log2(b_sum)) / LOG2E, mask=o_t < T)


def flash_forward(q, k, v, BT=32, BS=32):
    """Causal: q (T, H, K), k (T, h, K), v (T, h, V); returns y and lse (H, T)."""
    (T, H, K), (_, h, V) = q.shape, v.shape
    y, lse = q.new_empty(T, H, V), q.new_empty(H, T, dtype=torch.float32)
    scale_2 = K**-0.5 * LOG2E.value
    grid = (triton.cdiv(T, BT), H)
    sizes = {"K": K, "V": V, "BT": BT, "BS": BS, "ACC": tl.float32}
    attend_kernel[grid](q, k, v, y, lse, T, H, h, scale_2, **sizes)
    return y, lse


# %% [markdown]
# All tensors are (time, heads, width), so the next token of the same head is `H * K` numbers away. The widths K and V
# are powers of two here. The kernel returns one more number for each query, lse: the backward will need it.

# %% tags=["nbval-check-output"]
from seqlab.core.attention import attend
from seqlab.course import holds
from seqlab.gpu.sanitize import sanitize


def randn(*shape):
    return torch.randn(*shape, generator=rng, dtype=torch.float64)


def same(ours, theirs, atol=1e-9):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=atol)


SINGLE = 1e-5  # for float32: some tens of roundings of 6e-8, of numbers up to 4


def expected(q, k, v):
    """Attention of chapter 14: y, and lse (H, T)."""
    y, lse = attend(q[None], k[None], v[None], causal=True, return_lse=True)
    return y[0], lse[0].T


@holds
def tiles_and_kernel_are_attention_and_a_gpu_finds_no_fault():
    for T in (1, 32, 45):
        q, k, v = randn(T, 4, 16), randn(T, 2, 16), randn(T, 2, 32)
        y, lse = expected(q, k, v)
        for BT, BS in ((16, 16), (32, 16), (16, 32)):
            ours = flash_forward(q.float(), k.float(), v.float(), BT, BS)
            same(ours[0].double(), y, SINGLE)
            same(ours[1].double(), lse, SINGLE)
        first = q[:, 0], k[:, 0], v[:, 0]
        same(by_tiles(*first, Ledger(2**20), 16), y[:, 0])
    q, k, v = (torch.randn(45, n, 16, generator=rng) for n in (4, 2, 2))
    given = q, k, v, torch.empty_like(q), torch.empty(4, 45), 45, 4, 2, 0.36
    sizes = {"K": 16, "V": 16, "BT": 16, "BS": 16, "ACC": tl.float32}
    assert not sanitize(attend_kernel, (3, 4), *given, **sizes)


# %% [markdown]
# (The tiles agree to 1e-9, in float64. The kernel computes in float32, so it is compared to 1e-5.)
#
# Watch it. Here are 64 tokens, one head of width 16, tiles of 16 by 16.

# %%
q, k, v = torch.randn(3, 64, 1, 16, generator=rng).half()
given = q, k, v, torch.empty_like(q), torch.empty(1, 64), 64, 1, 1, 0.36
trace(attend_kernel, (4, 1), *given, K=16, V=16, BT=16, BS=16, ACC=tl.float32)

# %% [markdown]
# *What to see.* Drag the slider, or press Play. Program 0 reads one tile of keys and values, program 3 reads all
# four: the future is never loaded. Each program writes its queries' rows of y and lse once, at the end, and no tensor
# in the list has $T^2$ numbers.
#
# And the bytes of section 1? The same head, the same tiles:

# %%
q, k, v = torch.randn(3, T, 1, K, generator=rng).half()
y, lse = torch.empty_like(q), torch.empty(1, T)
sizes = {"K": K, "V": K, "BS": 32, "ACC": tl.float32}
ways = {"three kernels": three}
for BT in (32, 64, 128):
    args = q, k, v, y, lse, T, 1, 1, 0.25
    seen = trace(attend_kernel, (T // BT, 1), *args, **sizes, BT=BT)
    ways[f"one, BT = {BT}"] = by_tensor(seen)
one = {name: sum(by.values()) for name, by in ways.items()}
gain = one["three kernels"] / one["one, BT = 32"]
figures.moved(ways, f"One kernel asks for {gain:.1f} times fewer bytes, at equal tiles")

# %% [markdown]
# *What to see.* What is left is k and v, read again by each tile of queries. The number of queries in a tile, BT,
# decides how often: twice the queries, little more than half the bytes of k and v. (Not the number of keys: BS only
# says in how many steps they come.) So BT should be large, and section 7 shows what stops it. The factor here is that
# of 256 tokens: S and P grow with $T^2$, and so do the repeated reads of k and v, but those are divided by BT.
#
# ## 3 · Which tiles, and whose keys
#
# The kernel calls `read_tiles` twice. Query $i$ sees keys $j \le i$, so a tile of keys that ends at or before the
# first query of the program is seen whole, and a mask there would compute nothing. For BT queries from `start` on,
#
# $$\text{whole} = \lfloor (\text{start} + 1)/BS \rfloor \cdot BS \qquad \text{end} = \min(\text{start} + BT,\ T).$$
#
# Only the tiles between the two are masked. The rest of the row is future and is not visited. How many tiles need a
# mask depends on the sizes alone:

# %%
from seqlab.figures.flash import visited
from seqlab.widgets import explore

explore(
    lambda tokens=64, tile=8: visited(tokens, tile, None),
    tokens=(16, 128),
    tile=[4, 8, 16, 32],
)

# %% [markdown]
# *What to see.* The masked tiles are the diagonal: their share falls as the text grows, so what the mask costs is
# soon small. What the *test* for the mask would cost in each tile is saved by having two loops.

# %% tags=["nbval-check-output"]
from seqlab.core.masks import visible_tiles


@holds
def the_kernel_loads_the_visible_tiles_and_no_other():
    q, k, v = torch.randn(3, 80, 1, 16, generator=rng)
    for BT, BS in ((16, 16), (32, 16), (16, 32)):
        given = q, k, v, torch.empty_like(q), torch.empty(1, 80), 80, 1, 1, 0.36
        sizes = {"K": 16, "V": 16, "BT": BT, "BS": BS, "ACC": tl.float32}
        seen = trace(attend_kernel, (-(-80 // BT), 1), *given, **sizes)
        tiles = visible_tiles(80, 80, causal=True, window=None, tile=(BT, BS))
        keys = sum(min(cols.stop, 80) - cols.start for _, cols, _ in tiles)
        assert seen.traffic["p_k"].bytes_in == keys * 16 * 4


# %% [markdown]
# **Grouped queries** are one line of the kernel: `i_k = i_h // (H // h)`. Query heads 0 … G - 1 read head 0 of the
# cache, and so on. A frequent bug is `i_h % h`, which also gives each cache head G readers, just not the right ones:
# a model trained with one and run with the other computes nonsense without an error. Each of the G programs still
# loads the keys by itself; that they are the same keys is left to the L2 cache. (For decoding, where loading is
# everything, exercise 24.4 puts the G queries into one tile.)

# %% [markdown]
# ## 4 · Which number needs which type
#
# Inputs in float16 have 11 bits. The loop makes four kinds of numbers: scores, weights $P$, the running statistics,
# and the accumulator $y$. A matrix unit multiplies two tiles of float16 and adds in float32; so $P$ has to be rounded
# to float16 for the second product. Does that hurt? And would an accumulator in float16, which takes half the
# registers, be good enough? Try it: the kernel with ACC = float16, and with ACC = float32, on values with a mean of
# one. The reference is in float64, from the same float16 inputs.

# %%
SEEDS = (0, 1, 2)


def errors_of(T, seed):
    """Relative error of the last 64 queries' reads, for each way."""
    rng = torch.Generator().manual_seed(seed)
    q, k, v = torch.randn(3, T, 1, 32, generator=rng)
    q, k, v = (x.half() for x in (q, k, v + 1))
    exact = expected(q.double(), k.double(), v.double())[0][-64:]
    half, single = (q, k, v), (q.float(), k.float(), v.float())
    found = {}
    for way, qkv, ACC in (
        ("P in float16, the sum in float32", half, tl.float32),
        ("nothing rounded but the inputs", single, tl.float32),
        ("the sum in float16 too", half, tl.float16),
    ):
        y, lse = torch.empty(T, 1, 32), torch.empty(1, T)
        given = *qkv, y, lse, T, 1, 1, 32**-0.5 * LOG2E.value
        attend_kernel[(T // 64, 1)](*given, K=32, V=32, BT=64, BS=32, ACC=ACC)
        found[way] = ((y[-64:].double() - exact).norm() / exact.norm()).item()
    return found


LENGTHS = (64, 256, 1024)
found = {T: [errors_of(T, seed) for seed in SEEDS] for T in LENGTHS}
rounded = {
    way: {T: [errors[way] for errors in found[T]] for T in LENGTHS}
    for way in found[64][0]
}

# %% tags=["measured"]
means = {way: sum(by[1024]) / 3 for way, by in rounded.items()}
ratio = means["the sum in float16 too"] / means["P in float16, the sum in float32"]
figures.rounding(
    rounded, title=f"1,024 keys: a sum in float16 errs {ratio:.1f} times as much"
)

# %% [markdown]
# *What to see.* Three seeds each; y itself is kept in float32 here, so that only the loop's own roundings are seen.
# Rounding $P$ costs *less* with more keys: the errors of single weights average out. A sum in float16 costs more,
# because each tile is added to a sum that is rounded again. So the accumulator stays in float32, and takes the
# registers that it takes. (For bfloat16, with 8 bits, the errors are larger; the interpreter cannot tell, since it
# computes bfloat16 wrongly.)
#
# **Is folding the scale worth a paragraph?** Ask the compiler. Two kernels, one tile each: scale, subtract the
# maximum, exponentiate; once with `exp`, once with `exp2` and the folded scale.


# %%
from seqlab.gpu.compile import compile_report


@triton.jit
def weigh(p_s, p_p, top, scale, B: tl.constexpr, BASE_2: tl.constexpr):
    i = tl.arange(0, B)
    b_s = tl.load(p_s + i) * scale - top
    if BASE_2:
        tl.store(p_p + i, tl.exp2(b_s))
    else:
        tl.store(p_p + i, tl.exp(b_s))


def meta(*shape, dtype=torch.bfloat16):
    return torch.empty(*shape, dtype=dtype, device="meta")


def instructions(BASE_2):
    """Arithmetic on float32 in the PTX for one number of each of 32 threads."""
    x = meta(32, dtype=torch.float32)
    how = {"B": 32, "BASE_2": BASE_2, "num_warps": 1, "targets": ("sm_90",)}
    made = compile_report(weigh, x, x, 0.5, 0.3, **how)["sm_90"]
    lines = [line.text for line in made.stages["ptx"] if "f32" in line.text]
    return [op for op in (line.split()[0] for line in lines) if "." in op[1:]]


print("exp: ", *instructions(False))
print("exp2:", *instructions(True))

# %% [markdown]
# One multiplication less for each score, of four instructions. A matrix unit makes scores much faster than other
# units exponentiate them, so the arithmetic between the two products is worth saving. How much time that is, only a
# clock can say.
#
# ## 5 · The backward in two kernels
#
# Chapter 14 derived, with $P = e^{S - \mathrm{lse}}$ recomputed tile by tile and $D_i = dy_i \cdot y_i$,
#
# $$dV = P^\top dY \qquad dS = P \circ (dY\,V^\top - D) \qquad dQ = \tfrac{1}{\sqrt K}\, dS\, K \qquad
# dK = \tfrac{1}{\sqrt K}\, dS^\top Q.$$
#
# A tile of scores adds to the dK and dV of its keys and to the dQ of its queries. A program that owns *keys* and
# walks along the queries can keep dK and dV in registers, but its parts of dQ belong to rows that other programs add
# to as well. A program that owns *queries* has it the other way round. First the keys' side, with dQ by atomics if
# asked for. Two things change for causality and groups: the loop begins at the first query that sees a key of the
# tile, and it runs over all G heads of q that share the head of k.


# %%
@triton.jit
def keys_kernel(p_q, p_k, p_v, p_dy, p_lse, p_d, p_dq, p_dk, p_dv, T, H, h, scale,
                K: tl.constexpr, V: tl.constexpr, BT: tl.constexpr, BS: tl.constexpr,
                ATOMIC_DQ: tl.constexpr):  # fmt: skip
    start, i_k = tl.program_id(0) * BS, tl.program_id(1)
    o_s, o_k, o_v = start + tl.arange(0, BS), tl.arange(0, K), tl.arange(0, V)
    there = o_s[:, None] < T
    at_k = (o_s[:, None] * h + i_k) * K + o_k[None, :]
    at_v = (o_s[:, None] * h + i_k) * V + o_v[None, :]
    b_k = tl.load(p_k + at_k, mask=there, other=0.0)
    b_v = tl.load(p_v + at_v, mask=there, other=0.0)
    b_dk, b_dv = tl.zeros((BS, K), tl.float32), tl.zeros((BS, V), tl.float32)
    for g in range(0, H // h):
        i_h = i_k * (H // h) + g
        # queries before this tile of keys see none of it
        for first in range(start // BT * BT, T, BT):
            o_t = first + tl.arange(0, BT)
            inside = o_t[:, None] < T
            at_q = (o_t[:, None] * H + i_h) * K + o_k[None, :]
            at_y = (o_t[:, None] * H + i_h) * V + o_v[None, :]
            b_q = tl.load(p_q + at_q, mask=inside, other=0.0)
            b_dy = tl.load(p_dy + at_y, mask=inside, other=0.0)
            b_lse = tl.load(p_lse + i_h * T + o_t, mask=o_t < T, other=0.0)
            b_d = tl.load(p_d + i_h * T + o_t, mask=o_t < T, other=0.0)
            b_s = tl.dot(b_q, tl.trans(b_k), input_precision="ieee") * scale
            b_p = tl.exp2((b_s - b_lse[:, None]) * LOG2E)
            b_p = tl.where(o_s[None, :] <= o_t[:, None], b_p, 0.0)
            b_dp = tl.dot(b_dy, tl.trans(b_v), input_precision="ieee")
            b_ds = (b_p * (b_dp - b_d[:, None]) * scale).to(b_q.dtype)
            b_pt = tl.trans(b_p.to(b_dy.dtype))
            b_dv = tl.dot(b_pt, b_dy, b_dv, input_precision="ieee")
            b_dk = tl.dot(tl.trans(b_ds), b_q, b_dk, input_precision="ieee")
            if ATOMIC_DQ:
                b_dq = tl.dot(b_ds, b_k, input_precision="ieee")
                tl.atomic_add(p_dq + at_q, b_dq, mask=inside)
    tl.store(p_dk + at_k, b_dk.to(p_dk.dtype.element_ty), mask=there)
    tl.store(p_dv + at_v, b_dv.to(p_dv.dtype.element_ty), mask=there)


class Flash(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v):
        y, lse = flash_forward(q, k, v)
        ctx.save_for_backward(q, k, v, y, lse)
        return y

    @staticmethod
    def backward(ctx, dy):
        q, k, v, y, lse = ctx.saved_tensors
        (T, H, K), (_, h, V) = q.shape, v.shape
        D = (dy * y).sum(-1).T.contiguous()
        dq, dk, dv = torch.zeros_like(q), torch.empty_like(k), torch.empty_like(v)
        given = q, k, v, dy.contiguous(), lse, D, dq, dk, dv, T, H, h, K**-0.5
        sizes = {"K": K, "V": V, "BT": 32, "BS": 32, "ATOMIC_DQ": True}
        keys_kernel[(triton.cdiv(T, 32), h)](*given, **sizes)
        return dq, dk, dv


# %% tags=["nbval-check-output"]
@holds
def the_backward_has_attentions_gradients():
    for T in (1, 45):
        qkv = [randn(T, n, K).float() for n, K in ((4, 16), (2, 16), (2, 32))]
        ours, theirs = ([x.detach().requires_grad_() for x in qkv] for _ in range(2))
        Flash.apply(*ours).sin().sum().backward()
        expected(*theirs)[0].sin().sum().backward()
        for one, other in zip(ours, theirs, strict=True):
            same(one.grad, other.grad, SINGLE)


# %% [markdown]
# A masked lane past the end loads q = 0 and lse = 0, so its weight is $e^0 = 1$, not 0. It does no harm, because
# dy and q are 0 there. (In the forward it would: a key past the end must not count in the sum. Causality hides it
# from every query inside.)
#
# Now dQ. With atomics the gradient is right, and different in its last bits from run to run, as chapter 23 showed.
# The alternative is a second kernel that owns queries, recomputes the scores once more, and keeps dQ in registers.
# What does each way cost? Count.

# %%
q, k, v = torch.randn(3, 256, 1, 32, generator=rng)
y, lse = flash_forward(q, k, v)
dy, D = torch.randn(256, 1, 32, generator=rng), torch.zeros(1, 256)
made = torch.zeros_like(q), torch.empty_like(k), torch.empty_like(v)
books, products = {}, {}
for name, atomic in {"dK, dV; dQ by atomics": True, "dK, dV alone": False}.items():
    given = q, k, v, dy, lse, D, *made, 256, 1, 1, 0.2
    sizes = {"K": 32, "V": 32, "BT": 32, "BS": 32, "ATOMIC_DQ": atomic}
    seen = trace(keys_kernel, (8, 1), *given, **sizes)
    books[name], products[name] = by_tensor(seen), len(seen.dots)

from seqlab.kernels.flash_attention_backward import attend_backward_q

lo, hi = -(1 << 30), 1  # query i sees keys i + lo ≤ j < i + hi
given = q, k, v, dy, lse, D, made[0], 256, 256, 1, 1, lo, hi, 0.2, 0.2 * LOG2E.value
sizes = {"K": 32, "V": 32, "BK": 32, "BV": 32, "PRECISION": "ieee", "BT": 32, "BS": 32}
seen = trace(attend_backward_q, (8, 1), *given, **sizes)
books["dQ alone"], products["dQ alone"] = by_tensor(seen), len(seen.dots)
print("products of tiles:", products)
figures.moved(books, "A second kernel loads the inputs again, and multiplies again")

# %% [markdown]
# *What to see.* The tiles of scores are the same 36. With atomics there are five products for each, and dq is added
# to in memory once for each tile. Two kernels make four and three, seven in all: scores and $dY\,V^\top$ are computed
# twice. The second kernel loads k and v again for each tile of queries, which here comes to a little more than the
# atomics moved. In return every gradient has one owner, and two runs give the same bits.
# `kernels/flash_attention_backward.py` does it this way; [FlashAttention-2](https://arxiv.org/abs/2307.08691)
# describes atomic additions for dQ. Which of the two is faster, this page cannot know without a GPU. You write the
# second kernel in exercise 24.6, and the one for $D$ in 24.5.
#
# ## 6 · One query, a long cache
#
# While a model writes text, there is one query for each head and step. The forward's grid is (1, H): with 8 heads in
# the cache, 8 programs. An H100 has 132 multiprocessors. The work is to read the cache, and 124 of them watch.
#
# So cut the keys into **splits**, a program for each. It leaves what it read, $y_p$, and its $\mathrm{lse}_p$; a
# second, small kernel merges the parts:
#
# $$y = \sum_p w_p\, y_p \qquad w_p = \frac{e^{\mathrm{lse}_p}}{\sum_r e^{\mathrm{lse}_r}} \qquad
# \mathrm{lse} = \log \sum_p e^{\mathrm{lse}_p}.$$
#
# Every part costs bytes in float32, written and read once. How many splits are worth it?

# %%
explore(
    lambda keys=8192, heads=8: figures.splits(keys, heads, 132),
    keys=[512, 2048, 8192, 32768],
    heads=[1, 8, 32, 128],
)

# %% [markdown]
# *What to see.* With 8,192 keys and 8 heads, 32 splits occupy all multiprocessors of an H100, and their parts are
# less than one per cent of the cache. With 128 heads (a batch of 16 texts) two splits are enough. With 512 keys and 8
# heads, 32 splits have 16 keys each and cost 13 per cent more bytes; we have no GPU to ask whether that is still
# worth it. This is the scheme of [Flash-Decoding](https://crfm.stanford.edu/2023/10/12/flashdecoding.html).

# %% tags=["nbval-check-output"]
from seqlab.kernels.flash_decode import flash_decode


@holds
def splits_of_a_cache_merge_into_attention():
    q = torch.randn(1, 1, 4, 16, generator=rng)
    k, v = torch.randn(2, 1, 300, 2, 16, generator=rng)
    whole = attend(q.double(), k.double(), v.double(), causal=True)
    for splits in (1, 2, 3):
        ours = flash_decode(q, k, v, causal=True, splits=splits)
        same(ours.double(), whole, SINGLE)


# %% [markdown]
# ## 7 · Where registers run out
#
# Section 2 said that BT should be large. What a program keeps through the whole loop, it keeps in registers: the sum
# y of BT × V numbers in float32, and the queries. At a width of 256 and BT = 128, y alone is 32,768 numbers, 256 for
# each thread of 4 warps; a thread has 255 registers at most. Compile the forward for four GPUs, which nobody here
# owns, at three head widths:

# %%
TILES = (
    (64, 128, 64, 4), (64, 128, 64, 8), (128, 128, 32, 4), (128, 128, 32, 8),
    (256, 128, 32, 8), (256, 64, 32, 8),
)  # fmt: skip


def compiled(width, BT, BS, warps):
    """{target: (registers, spilled bytes, whether it fits)}."""
    q, kv = meta(4096, 32, width), meta(4096, 8, width)
    given = q, kv, kv, q, meta(32, 4096, dtype=torch.float32), 4096, 32, 8, 0.1
    sizes = {"K": width, "V": width, "BT": BT, "BS": BS, "ACC": tl.float32}
    made = compile_report(attend_kernel, *given, **sizes, num_warps=warps, num_stages=2)
    found = made.targets.items()
    return {t: (c.registers, c.spills, c.occupancy.blocks > 0) for t, c in found}


used = {"{}: {} × {}, {} warps".format(*size): compiled(*size) for size in TILES}
clean = sum(all(fits and not s for _, s, fits in by.values()) for by in used.values())
title = f"{clean} of {len(used)} tiles fit in registers on all four targets"
figures.registers(used, title)

# %% [markdown]
# *What to see.* Each cell gives the registers of a thread; orange cells spill. At a width of 64, tiles of 128 queries
# need eight warps to fit everywhere. At 256, twice the warps are no longer enough on the A100 (sm_80), and the tile
# has to shrink to 64 queries; then k and v are read twice as often. On sm_90 and sm_100 the products are made by
# instructions that read their operands from shared memory (`wgmma`, `tcgen05`), and the latter keeps accumulators in
# a memory of its own, which is why the columns differ. Nothing here says which tile is *faster*.
#
# The backward holds more, dK and dV at once and three tiles of scores: `kernels/` gives it tiles of 32 queries and 32
# keys at a width of 128, where the forward has 128 queries.
#
# ## 8 · What it moves against what it must
#
# Bytes asked for and flops give a place under the roof of a device. For a causal head of 4,096 tokens in bf16, a
# program of BT queries reads the keys and values up to its last query:

# %%
from seqlab.figures.roofline import roofline as roofline_figure


def asked(T, K, BT):
    """(bytes, flops) of the forward for one head, in bf16."""
    seen = sum(range(BT, T + 1, BT))  # keys read by all programs
    return 2 * (2 * T * K + 2 * K * seen), 2 * 2 * K * BT * seen


kernels = {f"BT = {BT}": asked(4096, 128, BT) for BT in (16, 64, 128)}
moved = 2 * (4 * 4096 * 128 + 4 * 4096**2)
kernels["S and P in memory"] = (moved, 4 * 128 * 4096**2)
best = kernels["BT = 128"]
roofline_figure(
    kernels, title=f"BT = 128: {best[1] / best[0]:.0f} flops for each byte asked for"
)

# %% [markdown]
# *What to see.* A query costs 4K flops for each key and a key with its value 4K bytes, so the intensity is about BT:
# below the ridge of an H100 for every tile that fits. What lifts real kernels over it is the L2 cache, since programs
# of one head run at the same time and read the same keys. The form with S and P in memory cannot be lifted so: nobody
# else reads its bytes. (Its products here are not causal: it computes all pairs.)
#
# ## 9 · In the wild
#
# What does decoding cost real models, for one text of 128K tokens in bf16? Each step reads the cache once; the floor
# on an H100:

# %% tags=["nbval-check-output"]
from seqlab.gpu.roofline import roofline
from seqlab.zoo import recipe

for name, s in recipe("Transformer 2026").published.items():
    d_head = s.get("d_head", s["d_model"] // s["n_heads"])
    h = s.get("n_kv_heads", s["n_heads"])
    cache = 2 * 2 * 2**17 * h * d_head * s["n_layers"]
    least = roofline(cache, 0, "H100").seconds
    print(f"{name}: {h} heads, {cache / 2**30:.0f} GiB, {1e3 * least:.1f} ms a token")

# %% [markdown]
# The same loops run in every library: [FlashAttention-2](https://arxiv.org/abs/2307.08691) in CUDA,
# [FlashAttention-3](https://arxiv.org/abs/2407.08608) with warps that only load,
# [FlexAttention](https://arxiv.org/abs/2412.05496) as a Triton template into which PyTorch compiles your own mask and
# score function.
#
# **How `kernels/` differs** from this page, and why. `flash_attention.py` takes a batch and any width up to 256
# (padded to a power of two, masked); its loops know causality, windows and either alignment from two numbers, `lo`
# and `hi`; its unmasked loop has no mask on its loads either; it multiplies a score by the folded scale only where
# the maximum is subtracted, so that one instruction (a fused multiply-add) does both; it starts the last queries
# first, because they have the longest loops; a query that sees nothing reads 0; distances are 64 bits wide; tiles
# are chosen from a list for each width, and the first of each list does not spill on any target. The backward
# computes its tiles transposed, so that $P^\top$ and $dS^\top$ come out as the next products need them.
# `flash_decode.py` puts all query heads of one cache head into one tile, and chooses the splits so that they fill
# the device.
#
# ### Fact check
#
# **"A causal mask halves the time."** It halves the products if tiles are skipped (section 3); a kernel that only
# masks does all of them.
#
# **"Flash attention in Triton is as fast as in CUDA."** Measure on your GPU. We give no number, because we have none.
#
# **"Softmax in float16 is the problem."** In section 4 the weights in float16 did little harm; the accumulator did.
#
# **"More splits are always better for decoding."** Section 6: in a large batch, every multiprocessor has work with
# few of them, and each part costs bytes.
#
# ## 10 · Practise
#
# In a terminal, `seqlab start 24` puts your own copy of the exercises into `work/`. `check` takes your kernel along
# to a process of its own, compares it with a reference, and looks at each launch as `sanitize` does.

# %% [markdown] tags=["exercises"]
# The table of exercises is made from their files.

# %% [markdown]
# The notebook is [exercises/24_flash_attention_kernel.ipynb](../exercises/24_flash_attention_kernel.ipynb); work on
# the copy in `work/`.
#
# ## Recap, in five lines
#
# 1. Scores that go through slow memory cost bytes that grow with $T^2$; one kernel with a running maximum keeps them
# on the chip.
# 2. A causal loop has a part without a mask and a part with one; what lies in the future is never loaded.
# 3. Products may round their inputs, the accumulator must not: it stays in float32, in registers.
# 4. In the backward each gradient has an owner if the scores are recomputed twice; otherwise it takes atomics.
# 5. One query needs its keys split; a wide head needs a smaller tile; how fast either is, only a GPU can say.
#
# Next, chapter 25: a recurrence in chunks, as a kernel.
#
# ## References
#
# - M. Milakov, N. Gimelshein. [*Online normalizer calculation for softmax.*](https://arxiv.org/abs/1805.02867) 2018.
# - T. Dao et al. [*FlashAttention: Fast and Memory-Efficient Exact Attention with
#   IO-Awareness.*](https://arxiv.org/abs/2205.14135) 2022.
# - T. Dao. [*FlashAttention-2: Faster Attention with Better Parallelism and Work
#   Partitioning.*](https://arxiv.org/abs/2307.08691) 2023.
# - T. Dao et al. [*Flash-Decoding for long-context
#   inference*](https://crfm.stanford.edu/2023/10/12/flashdecoding.html). 2023.
# - J. Shah et al. [*FlashAttention-3: Fast and Accurate Attention with Asynchrony and
#   Low-precision.*](https://arxiv.org/abs/2407.08608) 2024.
# - J. Dong et al. [*Flex Attention: A Programming Model for Generating Optimized Attention
#   Kernels.*](https://arxiv.org/abs/2412.05496) 2024.
# - J. Ainslie et al. [*GQA: Training Generalized Multi-Query Transformer Models from Multi-Head
#   Checkpoints.*](https://arxiv.org/abs/2305.13245) 2023.
