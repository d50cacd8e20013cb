"""The kernels of the chunked linear recurrence against `seqlab.core.recurrence`, which keeps every
decay of every pair.
"""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("triton", reason="needs Triton (Linux only)")

from seqlab.core.recurrence import chunkwise
from seqlab.gpu.sanitize import sanitize
from seqlab.gpu.trace import trace
from seqlab.kernels.chunk_recurrence import chunk_recurrence
from seqlab.kernels.launch import recorded
from seqlab.mixers import GLA, GatedRetention, LinearAttention, Mamba2, RetNet

K, V = 20, 24
WIDTHS = {"no decay": 0, "a decay per head": 1, "a decay per channel": K}
DECAYS = pytest.mark.parametrize("decay", WIDTHS)


@pytest.fixture
def small(monkeypatch):
    """Chunks of 16, so that a few dozen tokens have several, and a last one not full. Tiles as
    given: wide ones.
    """
    from importlib import import_module

    forward, backward = (
        import_module(f"seqlab.kernels.chunk_recurrence{end}") for end in ("", "_backward")
    )
    monkeypatch.setattr(forward, "CHUNK", 16)

    def tile(size):
        for found in (forward, backward):
            monkeypatch.setattr(
                found,
                "tiles",
                lambda *_: ({"BK": size, "BV": size, "num_warps": 4, "num_stages": 1},),
            )

    tile(32)
    return tile


@pytest.fixture
def several_tiles(small):
    """16 × 16, so that keys and values have several."""
    small(16)


def tensors(T, decay, B=1, H=2, K=K, V=V, dtype=torch.float32):
    """q, k, v, the first state, and log decays unless there are none."""
    shapes = [(B, T, H, K), (B, T, H, K), (B, T, H, V), (B, H, V, K)]
    width = K if WIDTHS[decay] > 1 else WIDTHS[decay]
    decays = [F.logsigmoid(torch.randn(B, T, H, width))] if width else []
    return [x.to(dtype) for x in [torch.randn(shape) for shape in shapes] + decays]


def both(*parts):
    """The kernel and its reference as functions of (q, k, v, state, log_a). parts: which of (y, S),
    or both.
    """

    def call(f, q, k, v, state=None, log_a=None):
        out = f(q, k, v, log_a=log_a, state=state)
        return tuple(out[i] for i in parts or (0, 1))

    return partial(call, chunk_recurrence), partial(call, partial(chunkwise, chunk_size=16))


@pytest.mark.parametrize(
    ("decay", "T"), [*((decay, 37) for decay in WIDTHS), ("a decay per channel", 1)]
)
def test_it_is_the_recurrence_with_its_states_and_every_gradient(
    decay, T, agree, poisoned, several_tiles
):
    agree(*both(), *tensors(T, decay, H=1))


def test_without_a_first_state(agree, poisoned, small):
    q, k, v, _, log_a = tensors(19, "a decay per head", H=1)
    agree(*(lambda q, k, v, a, f=f: f(q, k, v, None, a) for f in both()), q, k, v, log_a)


@pytest.mark.parametrize("decay", list(WIDTHS)[1:])
def test_with_the_chunks_and_tiles_of_a_gpu(decay, agree, poisoned):
    agree(*both(), *tensors(66, decay, H=1, K=40, V=72))


def test_batches_and_heads_do_not_mix(small):
    """The last head of the last batch is what it is alone."""
    q, k, v, S, log_a = tensors(18, "a decay per channel", B=2, H=3)
    y, last = chunk_recurrence(q, k, v, log_a=log_a, state=S)
    q, k, v, log_a = (x[1:, :, 2:] for x in (q, k, v, log_a))
    y_1, last_1 = chunk_recurrence(q, k, v, log_a=log_a, state=S[1:, 2:])
    assert torch.equal(y[1, :, 2], y_1[0, :, 0]) and torch.equal(last[1, 2], last_1[0, 0])


EXTREME = {
    "hardly any": lambda a: torch.full_like(a, -1e-8),
    "strong": lambda a: 20 * a,
    "stronger than float32 can hold in a sum": lambda a: torch.where(
        torch.rand_like(a) < 0.3, -1e4, a
    ),
    "a gate of exactly 0 everywhere": lambda a: torch.full_like(a, -math.inf),
    "all of them": lambda a: torch.tensor([-1e-8, -1e4, 0, -1, -math.inf, -1e-3])[
        torch.randint(6, a.shape)
    ],
}


@pytest.mark.parametrize("decay", ["a decay per head", "a decay per channel"])
@pytest.mark.parametrize("extreme", EXTREME)
def test_extreme_decays_lose_no_digit(decay, extreme, agree, small):
    """Against sums over each pair's own span: differences of running sums would fail here."""
    *xs, log_a = tensors(18, decay, H=1)
    agree(*both(), *xs, EXTREME[extreme](log_a))


@pytest.mark.parametrize(
    ("decay", "dtype"),
    [*((decay, torch.bfloat16) for decay in WIDTHS), ("a decay per channel", torch.float16)],
)
def test_half_precision(decay, dtype, agree, small):
    agree(*both(0), *tensors(18, decay, H=1, dtype=dtype))


@DECAYS
def test_the_last_state_of_half_precision_is_no_worse_than_a_product_in_half_precision(
    decay, small
):
    """It is kept in float32, but what is written into it is rounded for the tensor cores."""
    q, k, v, _, *log_a = tensors(16, decay, H=1, dtype=torch.float16)
    exact = chunkwise(
        q.double(), k.double(), v.double(), log_a=log_a[0].double() if log_a else None
    )[1]
    until = (
        log_a[0].float().flip(1).cumsum(1).flip(1) - log_a[0].float() if log_a else torch.zeros(1)
    )
    plain = torch.einsum("bthv, bthk -> bhvk", v, (k * until.exp()).half())
    got = chunk_recurrence(q, k, v, log_a=log_a[0] if log_a else None)[1]
    assert got.dtype == torch.float32
    assert (got - exact).abs().max() <= (plain - exact).abs().max()


def ends(q, k, v, state, log_a=None):
    """y and S in one tensor, so that both have gradients; log decays are made of any numbers."""
    y, S = chunk_recurrence(q, k, v, log_a=None if log_a is None else -log_a.abs(), state=state)
    return torch.cat([y.flatten(), S.flatten().to(y.dtype)])


def shapes(T, decay, H=1, K=K, V=V):
    return [tuple(x.shape) for x in tensors(T, decay, H=H, K=K, V=V)]


@pytest.mark.parametrize(
    ("decay", "dtype"),
    [*((decay, torch.float32) for decay in WIDTHS), ("a decay per channel", torch.float16)],
)
def test_it_is_clean(decay, dtype, launches_of, small):
    runs = launches_of(ends, *shapes(17, decay), dtype=dtype)
    assert len(runs) == 5
    for run in runs:
        assert sanitize(run.kernel, run.grid, *run.args, **run.named) == []


@DECAYS
def test_it_moves_what_the_algorithm_says(decay, launches_of, several_tiles):
    """In tiles of 16 × 16, n of them along K, m along V. What is larger than a tile is read again
    for each tile across.

    Fetched from memory at least once, and no more than that if a cache holds a chunk: q, k, v, y
    and dy, the log decays, and the states before and after 2 chunks.
    """
    T, K, V = 20, 20, 16
    n, m, a = 2, 1, {0: 0, 1: 1}.get(WIDTHS[decay], K)
    forward, read, again, back, gradients = (
        trace(run.kernel, run.grid, *run.args, **run.named)
        for run in launches_of(ends, *shapes(T, decay, K=K, V=V))
    )
    rows = {
        "p_q": T * K,
        "p_k": T * K,
        "p_v": T * V,
        "p_dy": T * V,
        "p_S": 2 * K * V,
        "p_dS": 2 * K * V,
    }

    def reads(seen):
        return {
            name: seen.traffic[name].bytes_in / rows[name] / 4
            for name in rows
            if name in seen.traffic
        }

    for walk in (forward, again, back):
        assert reads(walk) == {"p_k": m, "p_v": n, "p_S": 0}
        assert (
            walk.traffic["p_S"].bytes_out == rows["p_S"] * 4
            and walk.traffic["p_last"].bytes_out == K * V * 4
        )
    assert reads(read) == {"p_q": 1 + m, "p_k": 1, "p_v": 1, "p_S": 1}
    once = {"p_q": 2, "p_k": 2 + m, "p_v": 1 + n, "p_dy": 2 + n, "p_S": 1, "p_dS": 2}
    assert reads(gradients) == once
    assert forward.bytes_in_once == (T * (K + V + a) + K * V) * 4
    assert (
        read.bytes_in_once == (T * (2 * K + V + a) + 2 * K * V) * 4 and read.bytes_out == T * V * 4
    )
    assert gradients.bytes_in_once == (T * (2 * K + 2 * V + a) + 2 * 2 * K * V) * 4
    assert gradients.bytes_out == T * (2 * K + V + a) * 4


MIXERS = {
    "linear attention": lambda: LinearAttention(24, n_heads=2),
    "RetNet": lambda: RetNet(24, n_heads=2),
    "gated retention": lambda: GatedRetention(24, n_heads=2),
    "Mamba-2": lambda: Mamba2(24, n_heads=2, d_state=20),
    "GLA": lambda: GLA(24, n_heads=2),
}


@pytest.mark.parametrize("name", MIXERS)
def test_it_is_a_form_of_the_mixers_whole_and_in_parts(name, small):
    x, mixer = torch.randn(1, 19, 24), MIXERS[name]()
    mixer.form = "recurrent"
    expected, state = mixer(x)
    mixer.form = chunk_recurrence
    torch.testing.assert_close(mixer(x)[0], expected)
    first, part = mixer(x[:, :18])
    last, part = mixer(x[:, 18:], part)
    torch.testing.assert_close(torch.cat([first, last], 1), expected)
    torch.testing.assert_close(part, state)


def test_under_autocast_it_takes_mixed_types_and_gives_autocasts(small):
    q, k, v, S, log_a = tensors(18, "a decay per head")
    with torch.autocast("cpu", torch.bfloat16):
        y, last = chunk_recurrence(q, k.bfloat16(), v, log_a=log_a, state=S)
    assert (y.dtype, last.dtype) == (torch.bfloat16, torch.float32)
    torch.testing.assert_close(
        y.float(), chunkwise(q, k, v, log_a=log_a, state=S)[0], rtol=0.05, atol=0.3
    )


def test_views_give_what_copies_give(small):
    qkv = torch.randn(1, 21, 3, 2, 16)
    q, k, v = qkv.unbind(2)
    log_a = torch.tensor([-0.1, -0.2])[:, None].expand(1, 21, 2, 1)
    y, S = chunk_recurrence(q, k, v, log_a=log_a)
    y_2, S_2 = chunk_recurrence(q.clone(), k.clone(), v.clone(), log_a=log_a.clone())
    assert torch.equal(y, y_2) and torch.equal(S, S_2)


def test_two_runs_give_the_same_bits(small):
    xs = [x.requires_grad_() for x in tensors(18, "a decay per channel", H=1)]
    runs = [torch.autograd.grad(both(0)[0](*xs)[0].square().sum(), xs) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_the_forward_keeps_its_inputs_and_no_state_of_a_chunk():
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        q, k, v = (torch.empty(1, 4096, 2, 64, device="meta", requires_grad=True) for _ in range(3))
        with recorded():
            chunk_recurrence(q, k, v, log_a=torch.empty(1, 4096, 2, 1, device="meta"))
    assert sum(x.numel() for x in kept) <= 3 * q.numel() + 4096 * 2


def real(q, k, v, log_a=None):
    return chunk_recurrence(q, k, v, log_a=log_a)[0]


REAL = {
    "a head of 128 with a decay": [(1, 4096, 4, 128)] * 3 + [(1, 4096, 4, 1)],
    "a head of 64 with a decay": [(1, 4096, 4, 64)] * 3 + [(1, 4096, 4, 1)],
    "a head of 256 with a decay": [(1, 4096, 4, 256)] * 3 + [(1, 4096, 4, 1)],
    "a head of 128 without": [(1, 4096, 4, 128)] * 3,
    "Mamba-2": [(1, 4096, 4, 128)] * 2 + [(1, 4096, 4, 64), (1, 4096, 4, 1)],
    "GLA": [(1, 4096, 4, 128)] * 2 + [(1, 4096, 4, 256), (1, 4096, 4, 128)],
    "GLA, small": [(1, 4096, 4, 64)] * 2 + [(1, 4096, 4, 128), (1, 4096, 4, 64)],
}


@pytest.mark.parametrize(
    "name", [next(iter(REAL)), *(pytest.param(n, marks=pytest.mark.slow) for n in list(REAL)[1:])]
)
def test_it_is_compiled_for_four_targets_without_spills(name, compiled):
    reports = compiled(real, *REAL[name])
    assert set(reports) == {"walk_states", "read_chunks", "chunk_gradients"}
    for report in reports.values():
        for c in report.targets.values():
            assert c.spills == 0 and c.occupancy.blocks and c.tensor_cores, report


def test_wrong_arguments_get_a_sentence():
    q, k, v, S, log_a = tensors(3, "a decay per head")
    with pytest.raises(
        ValueError, match=r"beta makes this the delta rule: use seqlab.kernels.chunk_delta"
    ):
        chunk_recurrence(q, k, v, beta=torch.ones(1, 3, 2))
    with pytest.raises(ValueError, match="v is 300 wide: this kernel takes 256 at most"):
        chunk_recurrence(q, k, torch.randn(1, 3, 2, 300))
    with pytest.raises(TypeError, match=r"q is torch.float64: the kernels take float32"):
        chunk_recurrence(q.double(), k.double(), v.double())
    with pytest.raises(ValueError, match="log_a reaches"):
        chunk_recurrence(q, k, v, log_a=-log_a)
    with pytest.raises(ValueError, match=r"log_a has \(B, T, H\) = \(1, 2, 2\), q has \(1, 3, 2\)"):
        chunk_recurrence(*(x.to("meta") for x in (q, k, v)), log_a=log_a[:, :2].to("meta"))
    with pytest.raises(ValueError, match=r"state has shape \(1, 2, 20, 24\)"):
        chunk_recurrence(q, k, v, state=S.mT)
