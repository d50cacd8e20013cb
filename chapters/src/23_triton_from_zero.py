# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 23 · Triton from zero
#
# **After this chapter you can**
#
# - write a Triton kernel: programs, blocks of addresses, masks, loops, and the Python function that launches it;
# - find what a GPU would punish and a CPU forgives: lanes out of bounds, races, memory that nobody wrote;
# - write RMSNorm with its backward, and sum across programs by atomics or in two passes;
# - write a tiled matrix product, count what it moves, and number its programs so that a cache can help;
# - read a compile report, and say what it can decide about a configuration and what only a clock can.
#
# **You need** PyTorch, and the chain rule for a norm. No GPU: the kernels of this page run in an interpreter, are
# traced element by element, and are compiled for GPUs that this machine need not have. Triton itself is installed on
# Linux only; on macOS and Windows this page can be read, but its kernels do not run.
#
# **Time** 75 minutes to read, two minutes to run.
#
# **Covers** programs, tiles, masks · strides and sectors · softmax of a row · RMSNorm, forward and backward · atomics ·
# matmul and its order of programs · compile reports · autotuning.
#
# ## 1 · A failure: the copy that was right
#
# A Triton kernel is a function that many **programs** run, each with its own number. Here is one that copies: each
# program moves a block of 256 numbers. `p_x` is a *pointer*, the address of the first number of x; `p_x + i` is a
# block of 256 addresses, and `tl.load` reads them all.

# %%
import torch

from seqlab.gpu.anywhere import tl, triton  # `import triton`, which also runs on a CPU


@triton.jit
def copy(p_x, p_y, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(p_y + i, tl.load(p_x + i))


# %% [markdown]
# The launch `copy[(4,)](…)` starts four programs. (On a GPU machine you write `import triton` and `import
# triton.language as tl`; the line above gives you the same two modules, and lets a launch run on tensors in ordinary
# memory.) Take 1,000 numbers. Four blocks of 256 hold 1,024, so the last program has 24 lanes too many.
#
# On a GPU, a tensor is a piece of a large block of memory that PyTorch handed out, and other tensors are its
# neighbours. The next cell plays that block: `x`, then `y`, then `z`, which belongs to somebody else.
# **Before you read on**, commit to an answer:

# %%
from seqlab.course import predict
from seqlab.figures import kernels as figures

memory = torch.zeros(2048 + 24)
x, y, z = memory[:1000], memory[1024:2024], memory[2024:2048]
memory[:1024] = torch.randn(1024, generator=torch.Generator().manual_seed(0))
before = z.clone()

copy[(4,)](memory, memory[1024:], 1000, BLOCK=256)  # y begins at number 1,024
right, damaged = torch.equal(x, y), int((z != before).sum())

predict(
    "23-copy",
    "Four programs of 256 lanes copy 1,000 numbers. What comes out?",
    lambda: [
        f"y is a copy of x: {right}. Numbers of z that changed: {damaged} of 24.",
        figures.lanes(1000, 256),
    ],
    choices=[
        "an error",
        "y is wrong at its end",
        "y is right, and so is z",
        "y is right, z is not",
    ],
)

# %% [markdown]
# *What to see.* The last answer is right. The copy is perfect, so every test of `y` passes; the 24 orange lanes read
# numbers that are not in x and wrote them over a tensor that this kernel has never heard of. Nothing raises. An error
# is the usual guess, since Python would give one, but an address has no length.
#
# So a test of the result is not enough. `sanitize` runs a kernel on copies of its tensors, each in a window of
# addresses of its own, and says what a GPU would have punished:

# %%
from seqlab.gpu.sanitize import sanitize

x = torch.randn(1000, generator=torch.Generator().manual_seed(0))
print(sanitize(copy, (4,), x, torch.empty(1000), 1000, BLOCK=256))

# %% [markdown]
# A **mask** mends it: one boolean for each lane. A lane that is off touches no memory.


# %%
@triton.jit
def add(p_x, p_z, p_y, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < n
    b_y = tl.load(p_x + i, mask=inside) + tl.load(p_z + i, mask=inside)
    tl.store(p_y + i, b_y, mask=inside)


def added(x, z, BLOCK=256):
    y = torch.empty_like(x)
    add[(triton.cdiv(len(x), BLOCK),)](x, z, y, len(x), BLOCK=BLOCK)
    return y


# %% tags=["nbval-check-output"]
from seqlab.course import holds


@holds
def a_masked_sum_is_a_sum_for_every_length():
    for n in (1, 255, 256, 257, 1000):
        x, z = torch.randn(2, n, dtype=torch.float64)
        assert torch.equal(added(x, z), x + z)
        assert not sanitize(add, (-(-n // 256),), x, z, torch.empty(n), n, BLOCK=256)


# %% [markdown]
# ## 2 · Programs, blocks, pointers
#
# Four rules explain most kernels.
#
# 1. **A program is one block of work.** The grid says how many there are: one, two or three axes. Programs run in any
#    order, many at once, and must not wait for one another.
# 2. **A block has a fixed shape, in powers of two.** `tl.constexpr` marks what is known when the kernel is compiled;
#    sizes of tensors are not, so the last block is ragged, and masked.
# 3. **Arithmetic is on whole blocks**, with broadcasting as in PyTorch. Inside a block you never write a loop over
#    lanes.
# 4. **Memory is moved by load and store alone.** Between them a block lives in registers.
#
# How long should a block be? Too long, and most lanes of the last one idle; too short, and there is a program for
# every few numbers.

# %%
from seqlab.widgets import explore

explore(
    lambda n=1000, block=64: figures.lanes(n, block),
    n=(1, 2000),
    block=[16, 32, 64, 128, 256, 512],
)

# %% [markdown]
# *What to see.* Only the last program has masked lanes, fewer than one block in all. For 2,000 numbers that is nothing
# to worry about. For 17 numbers in a block of 512 it is most of the work.
#
# A matrix is addressed by two blocks of distances: one for the rows, as a column, and one for the columns, as a row.
# Broadcasting makes a tile of them. How far apart two neighbours are is a **stride**. A transpose is nothing but a
# change of strides between the load and the store:


# %%
@triton.jit
def transpose(p_x, p_y, M, N, BM: tl.constexpr, BN: tl.constexpr):
    o_m = tl.program_id(0) * BM + tl.arange(0, BM)
    o_n = tl.program_id(1) * BN + tl.arange(0, BN)
    inside = (o_m[:, None] < M) & (o_n[None, :] < N)
    b_x = tl.load(p_x + o_m[:, None] * N + o_n[None, :], mask=inside)
    tl.store(p_y + o_n[None, :] * M + o_m[:, None], b_x, mask=inside)


# %%
from seqlab.gpu.trace import trace

x, y = torch.randn(20, 12), torch.empty(12, 20)
trace(transpose, (3, 2), x, y, 20, 12, BM=8, BN=8)

# %% [markdown]
# *What to see.* Drag the slider, or press Play. `trace` ran the kernel and wrote down who touched what. Each program
# reads a tile of x (blue) and writes the mirrored tile of y (orange). The last programs of either axis are ragged.
#
# Whatever the tile, this kernel asks for the same bytes. It does not *get* the same bytes: a GPU moves memory in
# **sectors** of 32 bytes, so a lane that wants 2 bytes costs 32 unless its neighbours want the rest. Take a matrix of
# 128 × 128 numbers in float16, and count the sectors that the loads and stores touch.

# %%
from seqlab.gpu.l2 import sectors

x = torch.randn(128, 128).half()
moved = {}
for BM, BN in ((1, 128), (4, 32), (16, 16), (32, 32)):
    seen = trace(
        transpose,
        (128 // BM, 128 // BN),
        x,
        torch.empty_like(x),
        128,
        128,
        BM=BM,
        BN=BN,
    )
    pairs = zip(sectors(seen, "p_x"), sectors(seen, "p_y"), strict=True)
    moved[f"{BM} × {BN}"] = tuple(map(sum, pairs))
worst = moved["1 × 128"][1] / moved["32 × 32"][1]
figures.sector_bars(
    moved, title=f"A row at a time, transposing moves {worst:.1f} times the bytes"
)

# %% [markdown]
# *What to see.* All four kernels are the same code. A tile of one row reads whole sectors and writes one number into
# each of 128 of them. From 16 × 16 on, the tile has whole sectors in both directions. (A cache can put the pieces
# together again if it is asked for them soon enough; nobody promises that.)
#
# ## 3 · A row that must be read as a whole
#
# A softmax needs the maximum of a row and then its sum. If a row fits into one block, a program can hold it:


# %%
@triton.jit
def softmax_rows(p_x, p_y, D, BD: tl.constexpr, OTHER: tl.constexpr):
    row, o_d = tl.program_id(0) * D, tl.arange(0, BD)
    b_x = tl.load(p_x + row + o_d, mask=o_d < D, other=OTHER)
    b_e = tl.exp(b_x - tl.max(b_x, 0))
    tl.store(p_y + row + o_d, b_e / tl.sum(b_e, 0), mask=o_d < D)


def softmax(x, other=-float("inf")):
    y, (M, D) = torch.empty_like(x), x.shape
    softmax_rows[(M,)](x, y, D, BD=triton.next_power_of_2(D), OTHER=other)
    return y


# %% [markdown]
# `other` is what a masked lane holds after the load. Here it must be −∞, so that the lane weighs nothing. Masks
# protect memory; `other` protects the *result*, and no sanitizer can guess which value a reduction needs.

# %% tags=["nbval-check-output"]
rng = torch.Generator().manual_seed(1)


def randn(*shape):
    return torch.randn(*shape, generator=rng, dtype=torch.float64).requires_grad_()


def same(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


@holds
def a_row_in_one_block_is_softmax_if_masked_lanes_weigh_nothing():
    x = randn(3, 100).detach()
    same(softmax(x), x.softmax(-1))
    same(softmax(1e3 * x), (1e3 * x).softmax(-1))  # exp of these is infinite
    lost = 1 - softmax(x, other=0.0).sum(-1)  # 28 lanes of weight exp(0 - max)
    assert (lost > 0.01).all()


# %% [markdown]
# A row that is wider than any block needs the running maximum of chapter 14; that is exercise 23.4.
#
# ## 4 · RMSNorm: from a loop to a kernel
#
# $$y_d = w_d \, x_d \, r \qquad r = \Big(\tfrac{1}{D}\sum_d x_d^2 + \varepsilon\Big)^{-1/2}$$
#
# Four ways to write it. First the definition, a number at a time. Then PyTorch, a whole tensor at a time: short, and
# each operation is a kernel that reads its inputs from slow memory and writes its result back. Third, tiles of rows,
# with what would stay on the chip: the ledger of chapter 14 counts what crosses.

# %%
from seqlab.gpu.ledger import Ledger


def by_loops(x, w, eps=1e-6):
    y = torch.zeros_like(x)
    for row in range(len(x)):
        total = sum(value * value for value in x[row])
        r = (total / len(x[row]) + eps) ** -0.5
        for d in range(len(w)):
            y[row, d] = w[d] * x[row, d] * r
    return y


def by_operations(x, w, ledger, eps=1e-6):
    def kernel(f, *inputs):
        """One operation of PyTorch: all inputs in, the result out."""
        for given in inputs:
            ledger.load("in", given)
        made = f(*inputs)
        ledger.store("out", torch.empty_like(made), made)
        return made

    square = kernel(torch.square, x)
    mean = kernel(lambda s: s.mean(-1, keepdim=True), square)
    r = kernel(lambda m: (m + eps).rsqrt(), mean)
    return kernel(torch.mul, kernel(torch.mul, x, r), w)


def by_tiles(x, w, ledger, rows=4, eps=1e-6):
    y, b_w = torch.empty_like(x), ledger.load("w", w)
    for tile in torch.arange(len(x)).split(rows):
        b_x = ledger.load("x", x[tile])
        r = (b_x.square().mean(-1, keepdim=True) + eps).rsqrt()
        y[tile] = b_x * r * b_w
        ledger.store("y", torch.empty_like(b_x), y[tile])
    return y


# %% [markdown]
# The kernel is the third way, with a program for each row. It also keeps $r$, one number a row, for the backward:


# %%
@triton.jit
def norm_forward(p_x, p_w, p_y, p_r, D, eps, BD: tl.constexpr):
    row, o_d = tl.program_id(0), tl.arange(0, BD)
    b_x = tl.load(p_x + row * D + o_d, mask=o_d < D, other=0.0)
    b_w = tl.load(p_w + o_d, mask=o_d < D)
    r = 1 / tl.sqrt(tl.sum(b_x * b_x, 0) / D + eps)
    tl.store(p_y + row * D + o_d, b_x * r * b_w, mask=o_d < D)
    tl.store(p_r + row, r)


# %% [markdown]
# **Backward.** Write $\hat x = x r$ and $g = dy \cdot w$. Since $\partial r / \partial x_d = -r^3 x_d / D$,
#
# $$dx_d = r\,\Big(g_d - \hat x_d \cdot \tfrac{1}{D} \textstyle\sum_e g_e \hat x_e\Big)
# \qquad dw_d = \sum_{\text{rows}} dy_d\, \hat x_d$$
#
# The first is a row's own affair. The second sums over rows, and rows belong to different programs. A program that
# loads `dw`, adds its part and stores it again would lose the parts of all who did the same at that moment. An
# **atomic** addition is done in memory, undivided:


# %%
@triton.jit
def norm_backward(
    p_x, p_w, p_r, p_dy, p_dx, p_dw, D, BD: tl.constexpr, ATOMIC: tl.constexpr
):
    row, o_d = tl.program_id(0), tl.arange(0, BD)
    inside, r = o_d < D, tl.load(p_r + row)
    b_x = tl.load(p_x + row * D + o_d, mask=inside, other=0.0) * r
    b_dy = tl.load(p_dy + row * D + o_d, mask=inside, other=0.0)
    b_g = b_dy * tl.load(p_w + o_d, mask=inside, other=0.0)
    b_dx = r * (b_g - b_x * tl.sum(b_g * b_x, 0) / D)
    tl.store(p_dx + row * D + o_d, b_dx, mask=inside)
    if ATOMIC:
        tl.atomic_add(p_dw + o_d, b_dy * b_x, mask=inside)
    else:
        b_dw = tl.load(p_dw + o_d, mask=inside) + b_dy * b_x
        tl.store(p_dw + o_d, b_dw, mask=inside)


class Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w, eps=1e-6):
        y, r, BD = (
            torch.empty_like(x),
            x.new_empty(len(x)),
            triton.next_power_of_2(len(w)),
        )
        norm_forward[(len(x),)](x, w, y, r, len(w), eps, BD=BD)
        ctx.save_for_backward(x, w, r)
        return y

    @staticmethod
    def backward(ctx, dy):
        x, w, r = ctx.saved_tensors
        dx, dw, BD = (
            torch.empty_like(x),
            torch.zeros_like(w),
            triton.next_power_of_2(len(w)),
        )
        norm_backward[(len(x),)](x, w, r, dy, dx, dw, len(w), BD=BD, ATOMIC=True)
        return dx, dw, None


# %% tags=["nbval-check-output"]
from seqlab.layers.norm import rms_norm

costs = {}


@holds
def four_ways_are_one_norm_with_its_gradients():
    x, w = randn(10, 12), randn(12)
    plain, tiled = Ledger(2**20, itemsize=4), Ledger(2**20, itemsize=4)
    forms = {
        "loops": by_loops(x, w),
        "operations": by_operations(x, w, plain),
        "tiles": by_tiles(x, w, tiled),
        "kernel": Norm.apply(x, w),
    }
    expected = rms_norm(x, w)
    gradients = torch.autograd.grad(expected.sin().sum(), (x, w))
    for y in forms.values():
        same(y, expected)
        ours = torch.autograd.grad(y.sin().sum(), (x, w), retain_graph=True)
        for one, other in zip(ours, gradients, strict=True):
            same(one, other)
    costs.update(operations=plain.moved, tiles=tiled.moved)


print({name: f"{n:,} bytes" for name, n in costs.items()})

# %% [markdown]
# Now the race. In this interpreter programs run one after the other, so both ways give the right sum. `sanitize` also
# runs them in other orders, and knows who wrote what:

# %%
x, w, dy = (torch.randn(*s, generator=rng) for s in ((64, 100), (100,), (64, 100)))
r = (x.square().mean(-1) + 1e-6).rsqrt()
given = x, w, r, dy, torch.empty_like(x), torch.zeros(100), 100
found = sanitize(norm_backward, (64,), *given, BD=128, ATOMIC=False)
print("load, add, store:", found[0])
print("atomic:", sanitize(norm_backward, (64,), *given, BD=128, ATOMIC=True))

# %% [markdown]
# Atomics are right, but not *repeatable*: a sum of floats depends on its order, and programs come in any order. Here
# are 2,048 numbers, the parts of one element of `dw`, added one by one in 60 orders, in float32:

# %%
import numpy as np

column = torch.randn(2048, generator=rng)
shuffles = [column[torch.randperm(2048, generator=rng)] for _ in range(60)]
sums = [float(np.add.accumulate(order.numpy())[-1]) for order in shuffles]
figures.spread(sums, column.double().sum().item(), 32)

# %% [markdown]
# *What to see.* Every point is a right answer up to rounding, and few are equal. With atomics two runs of one training
# step differ in their last bits, and a bug that depends on those cannot be reproduced. The other way is **two
# passes**: each program writes its part into a row of its own, and a second kernel (or PyTorch) adds the rows in a
# fixed order. It costs memory for the parts, so few programs should take many rows each. That is how
# `kernels/rmsnorm.py` does it, and exercise 23.5.
#
# ## 5 · What the compiler made of it
#
# No GPU is needed to *compile*. `compile_report` shows what the compiler gave every thread of the kernel:

# %%
from seqlab.gpu.compile import compile_report


def meta(*shape, dtype=torch.bfloat16):
    return torch.empty(*shape, dtype=dtype, device="meta")


def norm_report(D, warps, targets=("sm_90",)):
    args = meta(4096, D), meta(D), meta(4096, D), meta(4096, dtype=torch.float32)
    return compile_report(
        norm_forward, *args, D, 1e-6, BD=D, num_warps=warps, targets=targets
    )


norm_report(4096, 4, targets=("sm_80", "sm_90", "gfx942"))

# %% [markdown]
# A **warp** is 32 threads in step (64 on AMD's cards); `num_warps` says how many share a program. The block of 4,096
# numbers is spread over their **registers**, at most 255 in each thread. **Spilled** bytes did not fit and go to slow
# memory. **Occupancy** is the share of the multiprocessor's warps that fit at one time: registers and **shared** memory
# are limited, and a program that takes many leaves room for few others. Below the table, click a line of source to see
# the instructions that it became.

# %%
sweep = {
    warps: [
        (D, (c := norm_report(D, warps)["sm_90"]).registers, c.spills)
        for D in (1024, 2048, 4096, 8192, 16384)
    ]
    for warps in (1, 4, 16)
}
figures.spills(
    sweep, title="A row of 16,384 numbers is too much for one warp, not for sixteen"
)

# %% [markdown]
# *What to see.* Registers grow with the width of the row, divided by the number of threads that share it. At 16,384 one
# warp would need more than the 255 there are; the compiler then keeps few numbers in registers and spills the rest.
# Four and sixteen warps never spill here. The rule that follows is in `seqlab.kernels.launch.row_config`: a warp for
# each 512 numbers, at most 16.
#
# ## 6 · What it moves against what it must
#
# `trace` counts what the kernel asks for. `roofline` turns bytes and flops into the least time that a device with these
# published peaks could take. A floor is computed, not measured, and no real kernel reaches it.

# %%
from seqlab.gpu.roofline import roofline

x, w, y = torch.randn(64, 256), torch.randn(256), torch.empty(64, 256)
seen = trace(norm_forward, (64,), x, w, y, torch.empty(64), 256, 1e-6, BD=256)
counted = {"x in": seen.traffic["p_x"].bytes_in, "w in": seen.traffic["p_w"].bytes_in}
print(counted, "of all bytes in:", seen.bytes_in)
M, D = 8192, 4096
least, flops = 2 * (2 * M * D + D), 4 * M * D  # bf16: x in, y out, w once
print("one kernel:     ", roofline(least, flops, "H100", "fp32"))
print("five operations:", roofline(2 * 7 * M * D, flops, "H100", "fp32"))

# %% [markdown]
# x crosses once, as it must. w is asked for by every program, 64 times here; it is small, so the L2 cache serves it.
# (The kernel in `kernels/` loads it once for many rows.) One flop for each byte is far below what an H100 could
# compute meanwhile: RMSNorm is bound by memory, whatever we do. The five operations read x or a copy of it four times
# and write three: three and a half times the bytes.
#
# ## 7 · Matmul: why tiles
#
# $c = a b$ with $M \times K$ and $K \times N$ numbers needs $2MNK$ flops. A program computes a tile of c, walking along
# K; its sum stays in registers in float32, whatever the type of a and b.


# %%
@triton.jit
def matmul(p_a, p_b, p_c, M, N, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
           GROUP: tl.constexpr):  # fmt: skip
    i, cols = tl.program_id(0), tl.cdiv(N, BN)
    first = i // (GROUP * cols) * GROUP
    height = tl.minimum(tl.cdiv(M, BM) - first, GROUP)
    i_m, i_n = first + i % (GROUP * cols) % height, i % (GROUP * cols) // height
    o_m, o_n = i_m * BM + tl.arange(0, BM), i_n * BN + tl.arange(0, BN)
    o_k = tl.arange(0, BK)
    b_c = tl.zeros((BM, BN), tl.float32)
    for k in range(0, K, BK):  # K is a multiple of BK here
        at_a = p_a + o_m[:, None] * K + (k + o_k)[None, :]
        b_a = tl.load(at_a, mask=o_m[:, None] < M, other=0.0)
        at_b = p_b + (k + o_k)[:, None] * N + o_n[None, :]
        b_b = tl.load(at_b, mask=o_n[None, :] < N, other=0.0)
        b_c = tl.dot(b_a, b_b, b_c, input_precision="ieee")
    inside = (o_m[:, None] < M) & (o_n[None, :] < N)
    tl.store(
        p_c + o_m[:, None] * N + o_n[None, :], b_c.to(p_c.dtype.element_ty), mask=inside
    )


# %% [markdown]
# Each number of a is loaded by the $N/BN$ programs of its row, each of b by $M/BM$ programs. So the loads ask for
# $MK \cdot N/BN + KN \cdot M/BM$ numbers, and
#
# $$\text{flops per number loaded} = \frac{2\,BM\,BN}{BM + BN}.$$
#
# Larger tiles, fewer bytes: the square tile of side 128 gives 128 flops per number, 64 per byte in bf16.

# %% tags=["nbval-check-output"]
intensity = {}


@holds
def a_tile_reuses_each_number_as_often_as_its_other_side_is_long():
    a, b = torch.randn(64, 128).half(), torch.randn(128, 96).half()
    for BM, BN in ((16, 16), (32, 32), (64, 32)):
        c = torch.empty(64, 96)
        grid = ((64 // BM) * (96 // BN),)
        seen = trace(matmul, grid, a, b, c, 64, 96, 128, BM=BM, BN=BN, BK=32, GROUP=2)
        torch.testing.assert_close(c, a.float() @ b.float(), rtol=1e-4, atol=1e-4)
        assert seen.flops / (seen.bytes_in / 2) == 2 * BM * BN / (BM + BN)
        intensity[BM, BN] = seen.flops / seen.bytes_in


print({tile: f"{n:.1f} flops a byte" for tile, n in intensity.items()})

# %% [markdown]
# Put these under the roof of a device. If *every* byte that is asked for came from memory:

# %%
from seqlab.figures.roofline import roofline as roofline_figure

side, work = 4096, 2 * 4096**3
asked = {BM: 2 * 2 * side**3 / BM for BM in (16, 64, 128)}
roofline_figure(
    {"RMSNorm": (least, flops)}
    | {f"matmul, tiles of {BM}": (n, work) for BM, n in asked.items()},
    title="Even with tiles of 128, memory alone could not feed an H100",
)

# %% [markdown]
# *What to see.* The roof rises until the device multiplies as fast as it can. RMSNorm is far down its slope. Tiles take
# matmul up the slope, but registers end before the slope does: a tile of 128 is still below the ridge. What lifts it
# over is the cache between, which serves what several programs ask for. For that, the *order* of programs matters.
#
# The first four lines of the kernel turn a program's number into a tile. Any numbering gives the same c. But programs
# with neighbouring numbers run at the same time, and what one of them has just loaded the next may find in the L2
# cache. `GROUP` says how many tile rows are visited together:

# %%
figures.orders(16, 16, (1, 2, 4, 8, 16), concurrent=16)

# %% [markdown]
# *What to see.* The tiles of c with the numbers of their programs; in orange the second 16 programs. With GROUP = 1
# they lie in one row: they share one strip of a, and need every strip of b. With GROUP = 4 they are a square, and
# eight strips are enough. With GROUP = 16 they are a column, and all strips of a are needed.
#
# Does it matter? It depends on the cache. Take the kernel's trace and play it through one: 16 programs at a time, lines
# of 128 bytes, the least recently used one leaves.

# %%
from seqlab.gpu.l2 import from_memory

a, b = torch.randn(512, 256).half(), torch.randn(256, 512).half()
SIZES = [1024 * k for k in (64, 128, 192, 256, 512)]
fetched, tiles = {}, {"BM": 32, "BN": 32, "BK": 64}
for group in (1, 2, 4, 8):
    c = torch.empty(512, 512).half()
    seen = trace(matmul, (256,), a, b, c, 512, 512, 256, **tiles, GROUP=group)
    fetched[f"GROUP = {group}"] = {
        s: from_memory(seen, s, concurrent=16) for s in SIZES
    }
gain = fetched["GROUP = 1"][2**17] / fetched["GROUP = 4"][2**17]
figures.cache_lines(
    fetched,
    seen.bytes_in_once,
    title=f"128 KiB of cache: groups of 4 rows fetch {gain:.1f} times fewer bytes",
)

# %% [markdown]
# *What to see.* The kernels ask for 8 MiB, whatever the order. If the cache holds both matrices (512 KiB), each number
# is fetched once (dotted) and the order does not matter. Below that, GROUP = 1 fetches all of b again for each row of
# tiles. Which group is best depends on the cache: 4 in a small one, 8 in a larger one. The sizes here are small so
# that an interpreter can run them; what counts is the ratio of matrix to cache. And the cache is a *model*: how a
# GPU's L2 replaces its lines is not published.
#
# ## 8 · Autotuning: what can be decided here, and what cannot
#
# `triton.autotune` runs a kernel with each of a list of configurations and keeps the fastest, once for each new `key`
# of sizes. It needs a GPU. But a list can be *shortened* without one. A configuration that does not fit into shared
# memory cannot run; one that spills moves bytes that nobody asked for; one whose dots did not become tensor-core
# instructions multiplies at a fraction of the speed.

# %%
CONFIGS = (
    (32, 32, 32, 4, 3), (64, 64, 64, 4, 3), (128, 128, 64, 8, 3), (128, 128, 64, 4, 3),
    (128, 256, 64, 8, 3), (256, 256, 64, 8, 3), (128, 256, 128, 8, 4),
)  # fmt: skip
square = meta(4096, 4096), meta(4096, 4096), meta(4096, 4096), 4096, 4096, 4096


def judged(BM, BN, BK, warps, stages):
    size = {"BM": BM, "BN": BN, "BK": BK, "num_warps": warps, "num_stages": stages}
    made = compile_report(matmul, *square, GROUP=8, **size, targets=("sm_90",))["sm_90"]
    why = "spills" if made.spills else ""
    why = why if made.occupancy.blocks else "does not fit"
    name = f"{BM} × {BN} × {BK}, {warps}, {stages}"
    return name, made.registers, made.spills, made.shared, made.occupancy.share, why


rows = [judged(*config) for config in CONFIGS]
left = sum(not row[-1] for row in rows)
figures.choices(
    rows, title=f"{left} of {len(rows)} are left for a clock to decide (sm_90)"
)

# %% [markdown]
# *What to see.* The largest tile with four *stages* (loads under way at a time) wants more shared memory than a
# multiprocessor has; 256 × 256 spills. For the others the table shows a trade: large tiles ask for fewer bytes and
# leave room for fewer programs. **What it cannot say** is which of them is faster. That depends on how well loads hide
# behind multiplications, on the L2, on clocks, on how many tiles there are for how many multiprocessors. Occupancy is
# no verdict either: the fastest matrix products run at a low one ([Volkov 2010](https://www.nvidia.com/content/gtc-2010/pdfs/2238_gtc2010.pdf)).
# We have no GPU here, so this page gives no time, and no winner.
#
# What a CPU *can* time is the interpreter, and it is good to know that this says nothing about a GPU:

# %% tags=["measured"]
from seqlab.train import best_seconds

x, w = torch.randn(32, 256), torch.randn(256)
ways = {
    "loops in Python": lambda: by_loops(x, w),
    "PyTorch": lambda: rms_norm(x, w),
    "the kernel, interpreted": lambda: Norm.apply(x, w),
}
for name, run in ways.items():
    print(f"{name}: {1e3 * best_seconds(run, 2):.2f} ms")

# %% [markdown]
# ## 9 · In the wild
#
# How much is a norm of real models? Two norms in each layer, in bf16, for a batch of 8,192 tokens:

# %% tags=["nbval-check-output"]
from seqlab.zoo import recipe

for name, s in recipe("Transformer 2026").published.items():
    once = 2 * 2 * 8192 * s["d_model"]  # x in, y out
    total = 2 * s["n_layers"] * once
    fused, apart = (roofline(n * total, 0, "H100").seconds for n in (1, 3.5))
    print(
        f"{name}: {total / 2**30:.1f} GiB, {1e3 * fused:.1f} ms or {1e3 * apart:.1f} ms"
    )

# %% [markdown]
# The second time is the floor of five separate operations. This is why libraries of fused kernels exist:
# [Liger](https://arxiv.org/abs/2410.10989) has norms, rotations and losses for training,
# [flash-linear-attention](https://github.com/fla-org/flash-linear-attention) whole mixers. Both are Triton.
#
# **How `kernels/` differs** from this page. `rmsnorm.py`: many rows in a program, which keeps the weight in registers;
# sums in float32 for any input type; partial sums in two passes. `softmax.py`: rows too wide for one block in pieces.
# `matmul.py`: strides as arguments, so a transposed matrix needs no copy; masks along K; 64-bit distances, because
# `row * D` overflows 32 bits in large tensors; a list of configurations for a GPU to choose from.
#
# ### Fact check
#
# **"Triton checks bounds."** Section 1. Only tensor descriptors do, from the shape that they are given.
#
# **"What passes in Triton's interpreter is right."** It runs programs in order, one at a time: section 4 shows a race
# that it cannot see, and its arithmetic on bfloat16 is wrong (Triton 3.9; `sanitize` says so).
#
# **"`tl.dot` of float32 computes in float32."** On NVIDIA cards the default is TF32, with 10 bits of mantissa; the
# kernel above says `input_precision="ieee"`.
#
# **"Atomics are slow."** Measure: it depends on how many programs meet at one address. That they are not repeatable is
# certain.
#
# ## 10 · Practise
#
# In a terminal, `seqlab start 23` puts your own copy of the exercises into `work/`. `check` takes your kernel along to
# a process of its own, compares it with a reference, and looks at each launch as `sanitize` does.

# %% [markdown] tags=["exercises"]
# The table of exercises is made from their files.

# %% [markdown]
# The notebook is [exercises/23_triton_from_zero.ipynb](../exercises/23_triton_from_zero.ipynb); work on the copy in
# `work/`.
#
# ## Recap, in five lines
#
# 1. A program is one block of work. It loads blocks by address, computes on registers, stores; nothing else knows it.
# 2. Masks protect memory and `other` protects results; a test of the result sees neither a stray store nor a race.
# 3. Sums across programs need atomics, which are not repeatable, or two passes, which need memory.
# 4. Tiles set how many bytes are asked for, the order of programs how many of them a cache can serve.
# 5. A compile report rules configurations out. It never says which one wins.
#
# Next, chapter 24: attention's tiles of chapter 14, as a kernel.
#
# ## References
#
# - P. Tillet, H. T. Kung, D. Cox. [*Triton: an intermediate language and compiler for tiled neural network
#   computations.*](https://doi.org/10.1145/3315508.3329973) 2019.
# - S. Williams, A. Waterman, D. Patterson. [*Roofline: an insightful visual performance model for multicore
#   architectures.*](https://doi.org/10.1145/1498765.1498785) 2009.
# - V. Volkov. [*Better performance at lower occupancy.*](https://www.nvidia.com/content/gtc-2010/pdfs/2238_gtc2010.pdf)
#   GTC 2010.
# - B. Zhang, R. Sennrich. [*Root Mean Square Layer Normalization.*](https://arxiv.org/abs/1910.07467) 2019.
# - M. Milakov, N. Gimelshein. [*Online normalizer calculation for softmax.*](https://arxiv.org/abs/1805.02867) 2018.
# - P.-L. Hsu et al. [*Liger Kernel: Efficient Triton Kernels for LLM
#   Training.*](https://arxiv.org/abs/2410.10989) 2024.
