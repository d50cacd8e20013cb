"""The decoding kernels against `seqlab.core.attention.attend`: the keys are split, and the parts
merged.
"""

from importlib import import_module

import pytest
import torch

pytest.importorskip("triton", reason="needs Triton (Linux only)")

from seqlab.core.attention import attend, merge
from seqlab.gpu.sanitize import sanitize
from seqlab.gpu.trace import trace
from seqlab.kernels import flash_decode
from seqlab.kernels.launch import recorded
from seqlab.mixers import Attention


def tensors(T_q, T_k, H, h, K, V, dtype=torch.float32, B=1):
    return [
        torch.randn(B, T, n, w, dtype=dtype) for T, n, w in ((T_q, H, K), (T_k, h, K), (T_k, h, V))
    ]


def both(splits=3, **options):
    yield lambda q, k, v: flash_decode(q, k, v, return_lse=True, splits=splits, **options)
    yield lambda q, k, v: attend(q, k, v, return_lse=True, **options)


CASES = {
    "one query": (1, 300, {"causal": True}),
    "as many keys as one part": (1, 128, {"causal": True}),
    "one key more": (1, 129, {"causal": True}),
    "one key": (1, 1, {"causal": True}),
    "a few queries see a triangle": (4, 300, {"causal": True}),
    "aligned at the start": (3, 200, {"causal": True, "align": "start"}),
    "not causal": (3, 200, {}),
    "a window over two parts": (2, 300, {"causal": True, "window": 100}),
    "a window of one": (2, 300, {"causal": True, "window": 1}),
    "queries that see nothing": (5, 3, {"causal": True}),
    # Near the usual 1/4: exponents of ordinary size, since each loses a rounding of its own size.
    "a scale of one's own": (1, 140, {"causal": True, "scale": 0.3}),
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_attention_with_its_log_sum_exp_and_the_gradients_of_both(case, agree, poisoned):
    T_q, T_k, options = CASES[case]
    agree(*both(**options), *tensors(T_q, T_k, 1, 1, 16, 16))


@pytest.mark.parametrize("heads", [(4, 2), (6, 1), (3, 3)])
def test_all_heads_that_share_keys_are_rows_of_one_tile(heads, agree, poisoned):
    agree(*both(causal=True), *tensors(2, 140, *heads, 16, 16, B=2))


@pytest.mark.parametrize("widths", [(24, 40), (1, 3), (160, 16)])
def test_keys_and_values_of_any_width(widths, agree, poisoned):
    agree(*both(causal=True), *tensors(1, 140, 2, 1, *widths))


@pytest.mark.parametrize("splits", [1, 2, 5, 64])
def test_the_number_of_parts_changes_nothing(splits):
    q, k, v = tensors(1, 600, 2, 1, 16, 16)
    y, lse = flash_decode(q, k, v, splits=splits, return_lse=True)
    Y, LSE = attend(q, k, v, return_lse=True)
    torch.testing.assert_close(y, Y)
    torch.testing.assert_close(lse, LSE)


def test_its_parts_are_those_that_merge_joins():
    q, k, v = tensors(1, 256, 1, 1, 16, 16)
    y = flash_decode(q, k, v, splits=2)
    parts = [
        x
        for half in (slice(128), slice(128, 256))
        for x in attend(q, k[:, half], v[:, half], return_lse=True)
    ]
    torch.testing.assert_close(y, merge(*parts)[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype, agree):
    agree(
        *(lambda *x, f=f: f(*x)[0] for f in both(causal=True)),
        *tensors(1, 140, 2, 1, 32, 32, dtype),
    )


def test_large_scores_neither_overflow_nor_drown():
    q, k, v = tensors(1, 300, 1, 1, 16, 16)
    y, lse = flash_decode(30 * q, 30 * k, v, splits=3, return_lse=True)
    Y, LSE = attend(30 * q.double(), 30 * k.double(), v.double(), return_lse=True)
    torch.testing.assert_close(y.double(), Y, rtol=0, atol=1e-3)
    torch.testing.assert_close(lse.double(), LSE, rtol=1e-5, atol=0)


def test_it_is_a_form_of_the_attention_mixer_prompt_and_tokens():
    """The prompt has more rows than a tile: flash attention reads it."""
    x = torch.randn(2, 35, 32)
    mixer = Attention(32, n_heads=4, n_kv_heads=2)
    expected, _ = mixer(x)
    mixer.form = flash_decode
    with recorded() as launches:
        y, state = mixer(x[:, :33])
    assert {run.kernel.fn.__name__ for run in launches} == {"attend_forward"}
    parts = [y]
    for t in (33, 34):
        y, state = mixer(x[:, t : t + 1], state)
        parts.append(y)
    torch.testing.assert_close(torch.cat(parts, 1), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_it_is_clean(dtype, launches_of):
    shapes = [(1, 2, 4, 16), (1, 200, 2, 16), (1, 200, 2, 24)]
    for run in launches_of(
        lambda *x: flash_decode(*x, causal=True, window=150, splits=2), *shapes, dtype=dtype
    ):
        assert sanitize(run.kernel, run.grid, *run.args, **run.named) == []


def test_it_reads_the_cache_once(launches_of):
    """The bound: every key and value once, the queries once per part, y once. The parts are the
    price of splitting.
    """
    G, T, V, splits = 4, 1024, 64, 2
    shapes = [(1, 1, 2 * G, 64), (1, T, 2, 64), (1, T, 2, V)]
    runs = launches_of(lambda *x: flash_decode(*x, splits=splits), *shapes, backward=False)
    split, merged = (trace(run.kernel, run.grid, *run.args, **run.named) for run in runs)
    cache = 2 * T * 64 * 4
    assert split.traffic["p_k"].bytes_in == split.traffic["p_v"].bytes_in == cache
    assert split.bytes + merged.bytes <= 1.05 * 2 * cache


def test_only_the_window_is_read(launches_of):
    shapes = [(1, 1, 1, 16), (1, 4096, 1, 16), (1, 4096, 1, 16)]
    runs = launches_of(
        lambda *x: flash_decode(*x, causal=True, window=256, splits=2), *shapes, backward=False
    )
    seen = trace(runs[0].kernel, runs[0].grid, *runs[0].args, **runs[0].named)
    assert seen.traffic["p_k"].bytes_in == 256 * 16 * 4


def test_short_batches_fill_a_gpu_with_parts():
    """132 multiprocessors, two programs for each: 8 sequences of 8 heads need 5 parts of a cache
    each.
    """
    q, k = (
        torch.empty(8, T, n, 128, dtype=torch.bfloat16, device="meta")
        for T, n in ((1, 32), (32768, 8))
    )
    with recorded() as launches:
        flash_decode(q, k, k, causal=True)
    assert launches[0].grid == (5, 64) and launches[1].grid == (4, 64)


@pytest.mark.parametrize("width", [64, 128, 256])
def test_it_is_compiled_for_four_targets_without_spills(width, compiled):
    shapes = [(8, 1, 32, width), (8, 8192, 8, width), (8, 8192, 8, width)]
    reports = compiled(lambda *x: flash_decode(*x, causal=True), *shapes, backward=False)
    assert set(reports) == {"decode_split", "decode_merge"}
    for name, report in reports.items():
        for c in report.targets.values():
            assert c.spills == 0 and c.occupancy.blocks, report
            assert name == "decode_merge" or c.tensor_cores


def test_wrong_arguments_get_a_sentence():
    with pytest.raises(ValueError, match="this kernel takes 256 at most"):
        flash_decode(*tensors(1, 3, 1, 1, 300, 16))
    with pytest.raises(ValueError, match="splits is 0: it must be at least 1"):
        flash_decode(*tensors(1, 3, 1, 1, 16, 16), splits=0)


def test_two_runs_give_the_same_bits():
    q, k, v = tensors(1, 300, 2, 1, 16, 16)
    assert torch.equal(flash_decode(q, k, v, splits=3), flash_decode(q, k, v, splits=3))


def test_more_rows_than_a_tile_are_flash_attentions(monkeypatch):
    seen = []
    module = import_module("seqlab.kernels.flash_decode")
    monkeypatch.setattr(module, "flash_attention", lambda *args, **kw: seen.append(kw) or args[0])
    flash_decode(*tensors(65, 70, 1, 1, 16, 16), causal=True, window=9)
    assert seen[0]["window"] == 9 and seen[0]["causal"]
