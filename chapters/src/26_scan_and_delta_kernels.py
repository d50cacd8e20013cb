# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 26 · Scan and delta kernels
#
# **After this chapter you can**
#
# - say what bounds a scan and what bounds a product of matrices, by counting before you write a line;
# - write an operator for `tl.associative_scan`, prove that it may be used, and carry its result from tile to tile;
# - write Mamba's selective scan so that states never leave the chip, and its backward that makes them again;
# - write the gated delta rule in chunks: forward substitution of a triangular tile, the WY form, and the walk;
# - choose a way to invert that tile which survives the keys of a trained model.
#
# **You need** chapter 06 (scans, Mamba), chapter 08 (the delta rule in chunks, forward substitution), and chapters
# 23 and 25 (kernels, chunks). No GPU. Triton itself is installed on Linux only; on macOS and Windows this page can be
# read, but its kernels do not run.
#
# **Time** 70 minutes to read, two minutes to run.
#
# **Covers** `associative_scan` · linear scan (RG-LRU, LRU) · Mamba's selective scan · gated delta rule in chunks ·
# forward substitution · WY.
#
# ## 1 · A failure: where the time of a scan goes
#
# Chapter 06 wrote Mamba as a scan. Each channel has $N$ numbers of state, and each of them has a gate of its own:
#
# $$h_t = e^{\Delta_t A} \odot h_{t-1} + \Delta_t x_t\, B_t \qquad y_t = C_t \cdot h_t$$
#
# `seqlab` does it in PyTorch: it makes $a = e^{\Delta A}$ and $b = \Delta x B$ for many tokens, gives both to a scan,
# and multiplies all $h$ by $C$. Count for one token of one channel. Of $x$, $\Delta$ and $y$, in two bytes each, 6
# bytes must move. But $a$, $b$ and $h$ are $N$ numbers each, and all are written and read again:

# %% tags=["nbval-check-output"]
from seqlab.figures import scan_kernel as figures

print(figures.listed(16))

# %% [markdown]
# With Mamba's $N = 16$, the scan in PyTorch moves 65 times the bytes that must move. A *fused* kernel makes $a$ and
# $b$ in registers, keeps $h$ there, and writes $y$. The third way is Mamba-2's, which has one gate for a whole head
# of $P = 64$ channels and computes in chunks (chapters 07 and 25).
#
# An H100 has four budgets. Its makers publish 3,350 GB/s of memory, 66.9 Tflop/s of plain arithmetic in float32, and
# 989 Tflop/s of matrix products in bf16. Exponentials have units of their own, which make
# [3.9 T of them a second](https://arxiv.org/abs/2407.08608). Each count over its peak is a floor.
#
# **Before you read on**, commit to an answer. The fused scan moves only what it must. What bounds it, for $N = 16$?

# %%
from seqlab.course import holds, predict

predict(
    "26-bound",
    "What sets the floor of the fused scan with 16 numbers of state?",
    lambda: figures.bounds([16, 32, 64, 128]),
    choices=["bytes", "multiplications and additions", "exponentials"],
)

# %% [markdown]
# *What to see.* Drag the slider. Not bytes: the floor of the exponentials is more than twice that of memory. If you
# said bytes, you thought of a recurrence with few operations; but here every number of state has a gate to compute,
# at every token. So a larger state costs more time in proportion. In chunks with a gate per head there is about one
# exponential a token and channel, and the work is in matrix products, which are 15 times as fast as plain arithmetic.
# A state of 128 then has 1.5 times the floor that 16 has in the fused scan. So Mamba has 16, and Mamba-2 can have 64
# to 256. (These are floors, not times. Whether units work at once, and how well, no count says; nobody here has
# measured it.)
#
# The chapter follows this division. Sections 2 to 4 write scans, for gates that differ in every number of state.
# Sections 5 and 6 write the delta rule, which is a recurrence of matrices, as products.
#
# ## 2 · An operator of one's own
#
# A step $h \mapsto a h + b$ is a pair, and two steps in a row are one (chapter 06). Triton has the tree: give it tiles,
# an axis, and a function that joins two elements, the *earlier* one first.

# %%
import torch

from seqlab.gpu.anywhere import tl, triton


@triton.jit
def join(a1, b1, a2, b2):
    return a2 * a1, a2 * b1 + b2


@triton.jit
def careless(a1, b1, a2, b2):
    return a2, a2 * b1 + b2


@triton.jit
def tile_kernel(p_a, p_b, p_h, T: tl.constexpr, OP: tl.constexpr):
    o = tl.arange(0, T)
    _, b_h = tl.associative_scan((tl.load(p_a + o), tl.load(p_b + o)), 0, OP)
    tl.store(p_h + o, b_h)


# %% [markdown]
# The second operator has forgotten to multiply the gates. Who needs their product? $h$ is only the second output, and
# its formula is right. Run both kernels here, and also with joins in another order, Hillis and Steele's:


# %%
from seqlab.core.scan import sequential

rng = torch.Generator().manual_seed(0)
a, b = 0.8 + 0.2 * torch.rand(64, generator=rng), torch.randn(64, generator=rng)
right, h, errors = sequential(a[None], b[None])[0], torch.empty(64), {}
for name, op in (("join", join), ("careless", careless)):
    tile_kernel[(1,)](a, b, h, T=64, OP=op)
    for order, y in (("in turn", h), ("tree", figures.doubling(op.fn, a, b))):
        errors[f"{name}, {order}"] = (y - right).abs().tolist()
figures.orders(
    errors, "The careless operator is right in the interpreter, wrong in a tree"
)

# %% [markdown]
# *What to see.* (An error of 0 is drawn at $10^{-9}$.) Triton's interpreter, and the lab's, join from left to
# right, one element at a time. Then the first element of a pair is always a finished prefix, and its gate is never
# used. So the careless operator is right *here*, to the last digit. On a GPU, threads join runs of neighbours
# first, and it is wrong. Comparing the kernel's numbers with a reference does not show it. `sanitize` does, if the
# numbers of the launch tell the orders apart: it joins each scan once more, as a tree. Another check needs no
# kernel. A tree needs an operator that is **associative**, and three random elements are enough to refute it.


# %% tags=["nbval-check-output"]
from seqlab.gpu.sanitize import sanitize

SINGLE = 2e-5  # float32: some tens of roundings of 6e-8, of sums up to 10


def randn(*shape):
    return torch.randn(*shape, generator=rng, dtype=torch.float64)


def same(ours, theirs, atol=1e-9):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=atol)


def apart(op, x, y, z):
    """How far (z ∘ y) ∘ x and z ∘ (y ∘ x) differ."""
    left, right = op(*op(*x, *y), *z), op(*x, *op(*y, *z))
    return max((p - q).abs().max().item() for p, q in zip(left, right, strict=True))


@holds
def the_operator_is_associative_and_the_careless_one_is_not():
    three = randn(3, 2, 9)
    assert apart(join.fn, *three) < 1e-12
    assert apart(careless.fn, *three) > 0.1
    found = sanitize(tile_kernel, (1,), a, b, h, T=64, OP=careless)
    assert [fault.kind for fault in found] == ["scan order"]


# %% [markdown]
# `join.fn` is the plain Python function. Make this check for each operator that you write: exercise 26.1 is one with
# three members.
#
# ## 3 · A carry across tiles
#
# A tile holds BT tokens; a text is longer. The joined gates that `careless` lost are what is needed now. If $h$ is the
# state before a tile, then row $t$ of the tile ends in $\bar a_t h + \bar b_t$, where $(\bar a_t, \bar b_t)$ is what
# the scan returns. The last row is the next $h$. Channels never meet, so each program owns BW of them and walks along
# time.


# %%
@triton.jit
def scan_kernel(p_a, p_b, p_first, p_h, T, W,
                BT: tl.constexpr, BW: tl.constexpr):  # fmt: skip
    o_t, o_w = tl.arange(0, BT)[:, None], tl.arange(0, BW)[None, :]
    o_w += tl.program_id(0) * BW
    h = tl.load(p_first + o_w, mask=o_w < W, other=0.0)
    for start in range(0, T, BT):
        at, there = (start + o_t) * W + o_w, (start + o_t < T) & (o_w < W)
        b_a = tl.load(p_a + at, mask=there, other=1.0)
        b_b = tl.load(p_b + at, mask=there, other=0.0)
        b_a, b_b = tl.associative_scan((b_a, b_b), 0, join)
        b_h = b_a * h + b_b
        tl.store(p_h + at, b_h, mask=there)
        h = tl.sum(tl.where(o_t == BT - 1, b_h, 0.0), 0, keep_dims=True)


def scan(a, b, first, BT=16, BW=16):
    """h_t = a_t h_{t-1} + b_t. a, b (T, W), first (W,)."""
    h, programs = torch.empty_like(b), triton.cdiv(b.shape[1], BW)
    scan_kernel[(programs,)](a, b, first, h, *b.shape, BT=BT, BW=BW)
    return h


# %% [markdown]
# Registers have no "last row", so it is picked with a mask and a sum. Past the end a = 1 and b = 0: such a step
# changes nothing. The gradient is the same scan from the other end. With $g_t$ the gradient that arrives at $h_t$,
#
# $$dh_t = g_t + a_{t+1}\, dh_{t+1} \qquad db_t = dh_t \qquad da_t = dh_t\, h_{t-1} \qquad dh_0 = a_1\, dh_1$$


# %%
class Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a, b, first):
        h = scan(a, b, first)
        ctx.save_for_backward(a, first, h)
        return h

    @staticmethod
    def backward(ctx, g):
        a, first, h = ctx.saved_tensors
        nothing = torch.zeros_like(first)
        later = torch.cat([nothing[None], a.flip(0)[:-1]])
        dh = scan(later, g.flip(0), nothing).flip(0)
        return dh * torch.cat([first[None], h[:-1]]), dh, a[0] * dh[0]


def scan_form(a, b, first=None):
    """The kernel as a form of seqlab's mixers: (B, T, W). A text is more channels."""
    b, a = b.contiguous(), a.expand_as(b)
    first = torch.zeros_like(b[:, 0]) if first is None else first
    flat = [u.transpose(0, 1).flatten(1).contiguous() for u in (a, b)]
    h = Scan.apply(*flat, first.flatten())
    return h.unflatten(1, (len(b), -1)).transpose(0, 1)


# %% tags=["nbval-check-output"]
from seqlab.mixers import RGLRU, DeltaNet, GatedDeltaNet, Mamba


def with_gradients(f, given):
    given = [x.detach().clone().requires_grad_() for x in given]
    outputs = f(*given)
    loss = sum(x.sin().sum() for x in outputs)
    return [x.double() for x in (*outputs, *torch.autograd.grad(loss, given))]


def agree(ours, theirs, given, atol=SINGLE):
    """Outputs and gradients of ours in float32, of theirs in float64."""
    one = with_gradients(ours, [x.float() for x in given])
    for x, y in zip(one, with_gradients(theirs, given), strict=True):
        same(x, y, atol)


@torch.no_grad()
def is_a_form_of(layer, form, width=32):
    x = torch.randn(2, 19, width, generator=rng)
    right = layer(x)[0]
    layer.form = form
    same(layer(x)[0], right, SINGLE)


@holds
def tiles_with_a_carry_are_the_recurrence():
    for T, W in ((1, 3), (16, 16), (37, 20)):
        given = randn(1, T, W).sigmoid(), randn(1, T, W), randn(1, W)
        agree(scan_form, sequential, given)
    is_a_form_of(RGLRU(32, form="scan"), scan_form)
    args = *torch.rand(2, 21, 20, generator=rng), torch.zeros(20), torch.empty(21, 20)
    assert not sanitize(scan_kernel, (2,), *args, 21, 20, BT=16, BW=16)  # on a GPU, too


# %% [markdown]
# (Kernels compute in float32, the references in float64.) RG-LRU is chapter 11's layer. LRU (chapter 06) has complex
# gates: there an element is four numbers, and you write that kernel in exercise 26.2. Watch one here:

# %%
from seqlab.gpu.trace import trace

given = *torch.rand(2, 48, 32, generator=rng), torch.zeros(32), torch.empty(48, 32)
trace(scan_kernel, (2,), *given, 48, 32, BT=16, BW=16)

# %% [markdown]
# *What to see.* Drag the slider, or press Play. A program reads and writes its own columns, tile after tile; every
# number is read once and written once. Of the bytes, no kernel can ask for less. Joins are another matter: a tree makes
# more of them than a loop (chapter 06), to make steps in a row fewer: 4 instead of 15 for 16
# tokens, in Hillis and Steele's order.
#
# ## 4 · The selective scan: states that are never written
#
# Now fuse. A program owns BE channels, with all $N$ numbers of each in registers: a tile (BE, N). It could scan a tile
# (BT, BE, N) with `join`. But N · BE numbers already give every thread work, so there is no need to make time
# parallel as well, and a plain loop over tokens makes the fewest joins. It loads $x$, $\Delta$, $B$, $C$, and makes
# the rest. For the backward it leaves a state at the start of every chunk of BT tokens: a **checkpoint**.


# %%
@triton.jit
def step(b_h, b_A, p_x, p_dt, p_B, row, o_e, o_n, E, N):
    """h (BE, N) after token `row`."""
    b_x, b_dt = tl.load(p_x + row * E + o_e), tl.load(p_dt + row * E + o_e)
    b_B = tl.load(p_B + row * N + o_n)[None, :]
    return tl.exp(b_dt[:, None] * b_A) * b_h + (b_dt * b_x)[:, None] * b_B


@triton.jit
def selective_kernel(p_x, p_dt, p_A, p_B, p_C, p_first, p_y, p_S, p_last, T, E,
                     N: tl.constexpr, BT: tl.constexpr, BE: tl.constexpr):  # fmt: skip
    o_e, o_n = tl.program_id(0) * BE + tl.arange(0, BE), tl.arange(0, N)
    i_b, at = tl.program_id(1), o_e[:, None] * N + o_n[None, :]
    b_A, b_h = tl.load(p_A + at), tl.load(p_first + i_b * E * N + at)
    for t in range(0, T):
        row = i_b * T + t
        if t % BT == 0:
            tl.store(p_S + (i_b * tl.cdiv(T, BT) + t // BT) * E * N + at, b_h)
        b_h = step(b_h, b_A, p_x, p_dt, p_B, row, o_e, o_n, E, N)
        b_y = tl.sum(b_h * tl.load(p_C + row * N + o_n)[None, :], 1)
        tl.store(p_y + row * E + o_e, b_y.to(p_y.dtype.element_ty))
    tl.store(p_last + i_b * E * N + at, b_h)


# %% [markdown]
# The backward goes from the end and carries $dh$. At token $t$ it needs $h_{t-1}$, which nobody kept; so it loads the
# checkpoint of its chunk and steps forward to $t - 1$. With $r = e^{\Delta A} \odot h_{t-1}$ and $dh$ the gradient of
# $h_t$, after adding $C_t\, dy_t$:
#
# $$dC = \sum_e dy\, h_t \quad dB = \sum_e \Delta x\, dh \quad d\ell = dh \odot r \quad dA = \sum_t \Delta\, d\ell
# \quad d\Delta = A \cdot d\ell + x\, (B \cdot dh) \quad dx = \Delta\, (B \cdot dh)$$
#
# $B$ and $C$ are shared by all channels, so their gradients are sums across programs. Each program writes its part,
# and PyTorch adds the parts.


# %%
@triton.jit
def selective_backward(p_x, p_dt, p_A, p_B, p_C, p_S, p_dy, p_dlast,
                   p_dx, p_ddt, p_dA, p_dB, p_dC, p_dfirst, T, E,
                   N: tl.constexpr, BT: tl.constexpr, BE: tl.constexpr):  # fmt: skip
    o_e, o_n = tl.program_id(0) * BE + tl.arange(0, BE), tl.arange(0, N)
    i_b, at = tl.program_id(1), o_e[:, None] * N + o_n[None, :]
    b_A, b_dh = tl.load(p_A + at), tl.load(p_dlast + i_b * E * N + at)
    b_dA = tl.zeros((BE, N), tl.float32)
    for s in range(0, T):
        t = T - 1 - s
        row = i_b * T + t
        b_h = tl.load(p_S + (i_b * tl.cdiv(T, BT) + t // BT) * E * N + at)
        for r in range(row - t % BT, row):
            b_h = step(b_h, b_A, p_x, p_dt, p_B, r, o_e, o_n, E, N)
        b_x, b_dt = tl.load(p_x + row * E + o_e), tl.load(p_dt + row * E + o_e)
        b_dy = tl.load(p_dy + row * E + o_e)[:, None]
        b_B = tl.load(p_B + row * N + o_n)[None, :]
        b_a, b_v = tl.exp(b_dt[:, None] * b_A), (b_dt * b_x)[:, None]
        b_r = b_a * b_h
        b_dh += b_dy * tl.load(p_C + row * N + o_n)[None, :]
        b_dl, b_dv = b_dh * b_r, tl.sum(b_dh * b_B, 1)
        b_dA += b_dt[:, None] * b_dl
        part = ((i_b * tl.num_programs(0) + tl.program_id(0)) * T + t) * N + o_n
        tl.store(p_dB + part, tl.sum(b_v * b_dh, 0))
        tl.store(p_dC + part, tl.sum(b_dy * (b_r + b_v * b_B), 0))
        tl.store(p_dx + row * E + o_e, b_dt * b_dv)
        tl.store(p_ddt + row * E + o_e, tl.sum(b_A * b_dl, 1) + b_x * b_dv)
        b_dh *= b_a
    tl.store(p_dA + i_b * E * N + at, b_dA)
    tl.store(p_dfirst + i_b * E * N + at, b_dh)


class Selective(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, dt, A, B, C, first):
        (batch, T, E), N = x.shape, A.shape[1]
        y, S = torch.empty_like(x), torch.empty(batch, triton.cdiv(T, 8), E, N)
        last, ctx.how = torch.empty_like(first), {"N": N, "BT": 8, "BE": 16}
        args = x, dt, A, B, C, first, y, S, last, T, E
        selective_kernel[(E // 16, batch)](*args, **ctx.how)
        ctx.save_for_backward(x, dt, A, B, C, S)
        return y, last

    @staticmethod
    def backward(ctx, dy, dlast):
        x, dt, A = ctx.saved_tensors[:3]
        (batch, T, E), N = x.shape, A.shape[1]
        dA, dfirst = torch.empty(2, batch, E, N)
        dB, dC = torch.empty(2, batch, E // 16, T, N)
        dx, ddt = torch.empty_like(x), torch.empty_like(dt)
        given = *ctx.saved_tensors, dy.contiguous(), dlast.contiguous()
        args = *given, dx, ddt, dA, dB, dC, dfirst, T, E
        selective_backward[(E // 16, batch)](*args, **ctx.how)
        return dx, ddt, dA.sum(0), dB.sum(1), dC.sum(1), dfirst


# %% tags=["nbval-check-output"]
from seqlab.mixers.mamba import selective_scan


def selective_form(x, dt, A, B, C, *, state=None, chunk_size=8):
    first = x.new_zeros(len(x), *A.shape) if state is None else state[:, :, 0]
    y, last = Selective.apply(*(u.contiguous() for u in (x, dt, A, B, C, first)))
    return y[..., None], last[:, :, None]


@holds
def six_gradients_without_a_stored_state():
    for T in (1, 8, 21):
        x, dt, A = randn(2, T, 32), randn(2, T, 32).sigmoid(), -randn(32, 4).exp()
        given = x, dt, A, randn(2, T, 4), randn(2, T, 4), randn(2, 32, 1, 4)
        forms = [
            lambda *u, f=f: f(*u[:5], state=u[5])
            for f in (selective_form, selective_scan)
        ]
        agree(*forms, given, 5 * SINGLE)  # gradients reach 50
    is_a_form_of(Mamba(32, d_state=8, form="scan"), selective_form)


@holds
def the_fused_scan_asks_for_six_bytes_and_the_checkpoints():
    x, dt = torch.rand(2, 32, 16, generator=rng).half()
    B, C, A = torch.rand(3, 32, 4, generator=rng)
    S, A, first = torch.empty(4, 16, 4), -A[:16].contiguous(), torch.zeros(16, 4)
    args = x, dt, A, B, C, first, x.clone(), S, first.clone(), 32, 16
    seen = trace(selective_kernel, (1, 1), *args, N=4, BT=8, BE=16)
    by_token = 16 * 6 + 2 * 4 * 4 + 16 * 4 * 4 / 8  # x, Δ, y; B, C; checkpoints
    assert seen.bytes == 32 * by_token + 3 * 4 * 16 * 4  # and A, first, last
    assert not sanitize(selective_kernel, (1, 1), *args, N=4, BT=8, BE=16)


# %% [markdown]
# How far apart should checkpoints be? Each costs $4N$ bytes a channel to write, and later to read; a chunk of C tokens
# makes $(C - 1)/2$ steps again for each token, with their exponentials. Turn $N$:

# %%
from seqlab.widgets import explore

explore(figures.checkpoints, N=[4, 8, 16, 32, 64])

# %% [markdown]
# *What to see.* The dotted line is x, $\Delta$ and y together, 6 bytes. The left curve falls by half whenever C
# doubles, and the right one doubles. With N = 16, to keep every state takes 64 bytes a token; chunks of 8 keep 8 bytes,
# for 3.5 steps made again. Since exponentials bound the forward already, long chunks are no bargain. Exercise 26.7 asks
# for a number.
#
# ## 5 · The delta rule in chunks
#
# Now the state of a head is a matrix, and $a_t$ one number per head. The gated delta rule (chapter 08):
#
# $$S_t = a_t S_{t-1} + u_t k_t^\top \qquad u_t = \beta_t\,(v_t - a_t S_{t-1} k_t) \qquad y_t = S_t q_t$$
#
# A step is still a map $S \mapsto S M + Z$, and `join` for matrices would work. But it multiplies two $K \times K$
# matrices, where the step itself costs about $4KV$ multiplications. So no scan: chunks. With $e_i$ the decay from
# the chunk's start up to token $i$, and $d_{ij}$ that from after $j$ up to $i$, chapter 08 found
#
# $$(I + L)\, U = \beta V - \beta e K S^\top \qquad L_{ij} = \beta_i\, d_{ij}\, (k_i \cdot k_j), \; j < i$$
#
# and the **WY form** takes the state out of the system: $U = \tilde U - W S^\top$, with
# $\tilde U = (I + L)^{-1} \beta V$ and $W = (I + L)^{-1} \beta e K$. Both can be made for all chunks at once. The
# inverse $X$ is made row by row, by **forward substitution**: its row $i$ is that of the identity, less
# $\sum_{j<i} L_{ij} X_j$. Again a row of a tile is picked with a mask and a sum, and put back with a mask.


# %%
from seqlab.gpu.rows import load_rows, store_rows


@triton.jit
def inverse(b_L, C: tl.constexpr):
    """(I + L)⁻¹ of a strictly lower triangular tile (C, C)."""
    o_i, o_j = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    b_X = tl.where(o_i == o_j, 1.0, 0.0)
    for i in range(1, C):
        b_Li = tl.sum(tl.where(o_i == i, b_L, 0.0), 0)[:, None]  # its row, as a column
        b_X = tl.where(o_i == i, b_X - tl.sum(b_Li * b_X, 0)[None, :], b_X)
    return b_X


@triton.jit
def between(b_G, STRICT: tl.constexpr, C: tl.constexpr):
    """d_ij for j < i (STRICT) or j ≤ i, else 0. b_G (C, 1): sums of logs."""
    o_i, o_j = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    before = o_i > o_j if STRICT else o_i >= o_j
    return tl.exp(tl.where(before, b_G - tl.trans(b_G), float("-inf")))


@triton.jit
def wy_kernel(p_k, p_v, p_a, p_beta, p_W, p_U, T, H,
              K: tl.constexpr, V: tl.constexpr, C: tl.constexpr):  # fmt: skip
    start, i_h = tl.program_id(0) * C, tl.program_id(1)
    b_k = load_rows(p_k, start, T, i_h, H, C, K)
    b_v = load_rows(p_v, start, T, i_h, H, C, V)
    b_beta = load_rows(p_beta, start, T, i_h, H, C, 1)
    b_G = tl.cumsum(load_rows(p_a, start, T, i_h, H, C, 1), 0)
    b_L = (
        b_beta
        * tl.dot(b_k, tl.trans(b_k), input_precision="ieee")
        * between(b_G, True, C)
    )
    b_X = inverse(b_L, C).to(b_k.dtype)
    b_U = tl.dot(b_X, (b_beta * b_v).to(b_k.dtype), input_precision="ieee")
    b_W = tl.dot(
        b_X, (b_beta * tl.exp(b_G) * b_k).to(b_k.dtype), input_precision="ieee"
    )
    store_rows(p_W, b_W, start, T, i_h, H, C, K)
    store_rows(p_U, b_U, start, T, i_h, H, C, V)


# %% [markdown]
# `load_rows` and `store_rows` are chapter 25's `rows` and its counterpart. A token past the end has $\beta = 0$ and
# $k = 0$, and so writes nothing. What is left is chapter 25's recurrence, with $U$ in the place of the values; except
# that $U$ is known only when the walk arrives with $S$. A program walks along one head with BV rows of the state:


# %%
@triton.jit
def delta_kernel(p_q, p_k, p_a, p_W, p_U, p_first, p_y, p_last, T, H,
    K: tl.constexpr, V: tl.constexpr, C: tl.constexpr, BV: tl.constexpr):  # fmt: skip
    i_h, n_v = tl.program_id(1), V // BV
    i_hv = i_h * n_v + tl.program_id(0)  # these BV of V are a head of H · n_v
    at = (i_hv * BV + tl.arange(0, BV)[:, None]) * K + tl.arange(0, K)[None, :]
    b_S = tl.load(p_first + at)
    for start in range(0, T, C):
        b_q = load_rows(p_q, start, T, i_h, H, C, K)
        b_k = load_rows(p_k, start, T, i_h, H, C, K)
        b_a = load_rows(p_a, start, T, i_h, H, C, 1)
        b_W, b_G = load_rows(p_W, start, T, i_h, H, C, K), tl.cumsum(b_a, 0)
        b_before = tl.trans(b_S).to(b_q.dtype)
        b_U = load_rows(p_U, start, T, i_hv, H * n_v, C, BV)
        b_U = (b_U - tl.dot(b_W, b_before, input_precision="ieee")).to(b_q.dtype)
        b_P = tl.dot(b_q, tl.trans(b_k), input_precision="ieee") * between(
            b_G, False, C
        )
        b_y = tl.exp(b_G) * tl.dot(b_q, b_before, input_precision="ieee")
        b_y = tl.dot(b_P.to(b_q.dtype), b_U, b_y, input_precision="ieee")
        store_rows(p_y, b_y, start, T, i_hv, H * n_v, C, BV)
        b_f = tl.exp(tl.sum(b_a, 0)[None, :] - b_G)
        b_k = (b_f * b_k).to(b_q.dtype)
        b_S = tl.dot(
            tl.trans(b_U), b_k, tl.exp(tl.sum(b_a)) * b_S, input_precision="ieee"
        )
    tl.store(p_last + at, b_S)


def delta_form(q, k, v, *, log_a=None, beta=None, state=None, C=16, BV=16):
    """The kernels as a form of seqlab's mixers: a text is more heads."""
    (B, T, H, K), V = q.shape, v.shape[3]
    log_a = q.new_zeros(B, T, H, 1) if log_a is None else log_a
    first = q.new_zeros(B, H, V, K) if state is None else state.contiguous()
    given = (u.transpose(0, 1).flatten(1, 2) for u in (q, k, v, log_a, beta))
    q, k, v, log_a, beta = (u.contiguous() for u in given)
    W, U, how = torch.empty_like(k), torch.empty_like(v), {"K": K, "V": V, "C": C}
    y, last = torch.empty_like(v), torch.empty_like(first)
    wy_kernel[(triton.cdiv(T, C), B * H)](k, v, log_a, beta, W, U, T, B * H, **how)
    args = q, k, log_a, W, U, first, y, last, T, B * H
    delta_kernel[(V // BV, B * H)](*args, **how, BV=BV)
    return y.unflatten(1, (B, H)).transpose(0, 1), last


# %% tags=["nbval-check-output"]
from torch.nn.functional import logsigmoid, normalize

from seqlab.core.recurrence import recurrent


@holds
def wy_and_a_walk_are_the_gated_delta_rule():
    for T in (1, 16, 37):
        q, k, v = randn(2, T, 2, 16), randn(2, T, 2, 16), randn(2, T, 2, 32)
        log_a, beta = logsigmoid(randn(2, T, 2, 1)), 2 * randn(2, T, 2).sigmoid()
        given = q, normalize(k, dim=-1), v, log_a, beta, randn(2, 2, 32, 16)
        names = "q", "k", "v", "log_a", "beta", "state"
        right = recurrent(**dict(zip(names, given, strict=True)))
        ours = delta_form(**{n: u.float() for n, u in zip(names, given, strict=True)})
        for one, other in zip(ours, right, strict=True):
            same(one.double(), other, SINGLE)
    is_a_form_of(DeltaNet(32, n_heads=2), delta_form)
    is_a_form_of(GatedDeltaNet(32, n_heads=2, d_key=16, d_value=16), delta_form)
    q, k, v, W, U, y = torch.randn(6, 21, 2, 16, generator=rng)
    a, beta, S = -torch.rand(21, 2, 1), torch.rand(21, 2), torch.zeros(2, 16, 16)
    args = k, v, a, beta, W, U, 21, 2
    assert not sanitize(wy_kernel, (2, 2), *args, K=16, V=16, C=16)  # on a GPU, too
    args = q, k, a, W, U, S, y, S.clone(), 21, 2
    assert not sanitize(delta_kernel, (1, 2), *args, K=16, V=16, C=16, BV=16)


# %% [markdown]
# The backward needs one idea more: the gradient of a solved system. If $(I + L)\,U = R$, then $dR$ solves the
# *transposed* system, from the last row up, and $dL$ follows from it:
#
# $$(I + L)^\top dR = dU \qquad\qquad dL = -\,dR\, U^\top \text{, below the diagonal}$$
#
# The rest is products with roles exchanged, as in chapter 25. `kernels/chunk_delta_backward.py` has all of it; you
# solve both systems in exercise 26.4.
#
# ## 6 · Three ways to invert, and keys that repeat
#
# A loop of C steps over the rows of a tile is slow: C = 64 makes 63 steps, none of them a product. Two ways make
# products of it.
#
# - **Powers.** $L^C = 0$, so $(I + L)^{-1} = I - L + L^2 - \dots = (I - L)(I + L^2)(I + L^4)\cdots$, which needs
#   $2 \log_2 C$ products and nothing else.
# - **Tiles.** Substitute in tiles of 16 along the diagonal, then merge two neighbours at a time:
#   $\begin{pmatrix} X & 0 \\ N & Y \end{pmatrix}^{-1} = \begin{pmatrix} X^{-1} & 0 \\ -Y^{-1} N X^{-1} & Y^{-1}
#   \end{pmatrix}$.
#
# Which one may be used? It depends on the keys. Train a DeltaNet of width 32 with two heads on recall of 4 keys, 150
# steps, learning rate 0.01, three seeds. Compare its keys, before and after, with random ones of the same width, in
# chunks of 64; and with the worst there is, the same key again and again.

# %%
from functools import partial

from seqlab.model import LanguageModel
from seqlab.tasks import Recall
from seqlab.train import accuracy, train

task = Recall(n_keys=4, n_values=4, n_pairs=24)
texts = Recall(n_keys=4, n_values=4, n_pairs=60).batch(4, rng)
seeds, models, right = [], [], []
for seed in range(3):
    torch.manual_seed(seed)
    model = LanguageModel(task.vocab, 32, [partial(DeltaNet, n_heads=2)], ffn=None)
    keys = normalize(torch.randn(8, 64, 16), dim=-1)
    L = {"random keys": (keys @ keys.mT).tril(-1)}
    L["untrained"] = figures.systems(model, texts.tokens)
    train(model, task, steps=150, batch_size=16, lr=0.01, seed=seed, show=False)
    L["trained"] = figures.systems(model, texts.tokens)
    L["one key, β = 1"] = torch.ones(64, 64).tril(-1)
    seeds.append(L)
    models.append(model)
    right.append(accuracy(model, task.batch(200, torch.Generator().manual_seed(98))))
print(f"right answers: {min(right):.0%} to {max(right):.0%}; guessing gets {1 / 4:.0%}")

# %% tags=["measured"]
figures.inverted(figures.inverse_errors(seeds))

# %% [markdown]
# *What to see.* Errors of the inverse in float32, whose true entries are at most about 1 (the dotted line); three
# seeds. With random keys, or before training, powers lose one or two of the 7 digits of float32, and a test with a
# loose bound would pass. After training they lose three to six, and with one key repeated nothing is left: the error
# is above $10^9$. The reason: $L$ has many entries of one sign, and its powers grow like binomial numbers, though the
# sum of the series does not. Large terms cancel. Substitution and merged tiles form no power of $L$, and their errors
# stay at rounding. (Those below $10^{-8}$ are drawn there.)
#
# The models are small and far from perfect, but look at what their keys share:

# %%
from seqlab.figures.delta import tables

two = {name: seeds[0][name].flatten(0, -3)[0] for name in ("random keys", "trained")}
print(figures.signs(seeds))
tables(two, title="L of random keys, and of a layer that was trained")

# %% [markdown]
# *What to see.* Random keys overlap with either sign. In the trained layer most overlaps are positive: its keys share a
# direction, besides coming again. The shares printed above are over all texts and heads, for three seeds; each of the
# three models went this way, one of them nearly to the end. The page's kernels substitute. Run the trained layers
# through them:


# %% tags=["nbval-check-output"]
@holds
@torch.no_grad()
def a_trained_layer_gives_the_same_answers_through_the_kernels():
    for model in models:
        logits = []
        for form in ("recurrent", delta_form):
            model.blocks[0].mixer.form = form
            logits.append(model(texts.tokens[:2])[0])
        same(*logits, 10 * SINGLE)  # logits reach 10 and more


# %% [markdown]
# ## 7 · What the compiler makes of it
#
# Compile for four GPUs, which nobody here owns, at real sizes: a scan of tiles (32, 32); Mamba's kernels with $N = 16$;
# the delta rule with heads of 128; and, in the last row, the walk of `kernels/chunk_delta.py`.

# %%
from seqlab.figures.flash_kernel import registers
from seqlab.kernels.chunk_delta import delta_states

kernels = scan_kernel, selective_kernel, selective_backward, wy_kernel
used = figures.compiled(*kernels, delta_kernel, delta_states)
clean = sum(all(fits and not s for _, s, fits in by.values()) for by in used.values())
registers(used, f"{clean} of {len(used)} kernels fit in registers on all four targets")

# %% [markdown]
# *What to see.* Registers of a thread; orange cells spill. The scans fit easily. Of the delta rule, the WY kernel fits
# at C = 64, but the walk does not, with 4 warps or with 8: it holds q, k, W, U, the pairs and the state at once. In
# chunks of 32, with 16 rows of the state, it fits. The other cure is to take things out of the walk. What can be made
# for all chunks at once (the pairs, and $y$ from the states) belongs in kernels of its own; then the walk fits at
# C = 64, as the last row shows.
#
# ## 8 · In the wild
#
# Three published models, in bf16. What would one layer write for each token if its states, in float32, left the chip?

# %% tags=["nbval-check-output"]
layers = {"Falcon Mamba": Mamba, "RecurrentGemma": RGLRU, "Qwen3-Next": GatedDeltaNet}
for name, kind in layers.items():
    size, width, S = figures.state_of(name, kind)
    print(f"{name} {size}: {S / 1024:,.0f} KiB, {S / 2 / width:.0f} times its vector")

# %% [markdown]
# "Its vector" is that of the token, in bf16. A state every 64 tokens is 1/64 of that: as much as the vectors in
# Falcon Mamba, and 8 times as much in Qwen3-Next. RG-LRU's state is as wide as its input, so writing it is no loss:
# the output *is* the state. Mamba's authors [fused the scan](https://arxiv.org/abs/2312.00752) and made states again
# in the backward, as section 4 does. For Gated DeltaNet, only chunks are thinkable. The [authors of DeltaNet's
# chunks](https://arxiv.org/abs/2406.06484) store W and $\tilde U$ of each chunk, as this page does, and their library
# substitutes in tiles of 16 and merges them. [Griffin's authors](https://arxiv.org/abs/2402.19427) wrote a kernel for
# TPUs that loops over time with the state on the chip.
#
# **How `kernels/` differs** from this page, and why.
#
# - `linear_scan.py` also takes complex gates, gates that are constant, and any type; its backward is one kernel that
#   shifts and reverses by itself; the next tiles are loaded while one is scanned.
# - `selective_scan.py` issues the loads of 8 tokens together, ahead of their steps. Its backward holds 4 states of a
#   channel at once, so it makes 2.25 N exponentials a token, where this page makes 4.5 N. It takes any width, and
#   uses exp2 with the factor folded into A.
# - `chunk_delta.py` stores the inverse itself, with the pairs, instead of W and $\tilde U$: C numbers a token instead
#   of K + V. It inverts by merging tiles; for float32, a step of Newton's method restores what merging lost. Outputs
#   have their own kernel, and there is a backward.
#
# Nobody has measured these kernels on a GPU yet.
#
# ### Fact check
#
# **"A scan is fast because it needs only log T steps."** All kernels here loop over tiles or tokens. They are parallel
# over channels, which cost no extra joins.
#
# **"Mamba is bound by memory."** Unfused, it is. Fused, by this count, exponentials bound it (section 1).
#
# **"Triton checks the operator."** It does not, and its interpreter is right with operators that a GPU gets wrong.
#
# **"The series for $(I + L)^{-1}$ ends, so it is exact."** In exact arithmetic. In float32, for keys that repeat, it is
# not even close (section 6).
#
# ## 9 · Practise
#
# In a terminal, `seqlab start 26` puts your own copy of the exercises into `work/`. `check` takes your kernel along
# to a process of its own, compares it with a reference, and looks at each launch as `sanitize` does.

# %% [markdown] tags=["exercises"]
# The table of exercises is made from their files.

# %% [markdown]
# The notebook is [exercises/26_scan_and_delta_kernels.ipynb](../exercises/26_scan_and_delta_kernels.ipynb);
# work on the copy in `work/`.
#
# ## Recap, in five lines
#
# 1. A gate for every number of state costs an exponential for each; one gate per head makes the work matrix products.
# 2. `associative_scan` needs an associative operator. The interpreter is right without: check it, or `sanitize`.
# 3. A tile's joined gates carry the state across it; the gradient is the same scan from the end.
# 4. A fused scan writes checkpoints instead of states, and steps again from them; B and C get their gradients in parts.
# 5. The delta rule is a triangular tile per chunk and a walk; invert by substitution and merging, never by powers.
#
# Next, chapter 27: kernels for mixtures of experts.
#
# ## References
#
# - A. Gu, T. Dao. [*Mamba: Linear-Time Sequence Modeling with Selective State
#   Spaces.*](https://arxiv.org/abs/2312.00752) 2023.
# - S. De et al. [*Griffin: Mixing Gated Linear Recurrences with Local Attention for Efficient Language
#   Models.*](https://arxiv.org/abs/2402.19427) 2024.
# - A. Orvieto et al. [*Resurrecting Recurrent Neural Networks for Long Sequences.*](https://arxiv.org/abs/2303.06349)
#   2023.
# - S. Yang et al. [*Parallelizing Linear Transformers with the Delta Rule over Sequence
#   Length.*](https://arxiv.org/abs/2406.06484) 2024.
# - S. Yang, J. Kautz, A. Hatamizadeh. [*Gated Delta Networks: Improving Mamba2 with Delta
#   Rule.*](https://arxiv.org/abs/2412.06464) 2024.
# - J. Shah et al. [*FlashAttention-3: Fast and Accurate Attention with Asynchrony and
#   Low-precision.*](https://arxiv.org/abs/2407.08608) 2024.
