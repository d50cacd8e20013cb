"""The matmul kernel against `torch.matmul`."""

from importlib import import_module

import pytest
import torch

pytest.importorskip("triton", reason="needs Triton (Linux only)")

from seqlab.kernels import matmul
from seqlab.kernels.launch import recorded
from seqlab.kernels.matmul import CONFIGS


@pytest.mark.parametrize("sizes", [(1, 1, 1), (1, 5, 130), (129, 33, 3), (140, 70, 150)])
def test_it_is_pytorchs_product_with_both_gradients(sizes, agree, poisoned):
    M, K, N = sizes
    agree(matmul, torch.matmul, torch.randn(M, K), torch.randn(K, N))


def test_leading_axes_are_rows(agree):
    agree(matmul, torch.matmul, torch.randn(2, 3, 5), torch.randn(5, 4))


def test_transposed_and_sliced_matrices_are_no_copy(agree):
    agree(matmul, torch.matmul, torch.randn(20, 30).T, torch.randn(16, 40).T[::2])
    a, b = torch.randn(20, 30).T, torch.randn(16, 40).T[::2]
    with recorded() as launches:
        matmul(a, b)
    assert (
        launches[0].args[0].data_ptr() == a.data_ptr()
        and launches[0].args[1].data_ptr() == b.data_ptr()
    )


def test_every_tile_is_computed_by_one_program_whatever_the_group(monkeypatch, poisoned):
    """3 × 5 tiles in groups of 2 rows: the last group is lower."""
    small = {"BM": 16, "BN": 16, "BK": 16, "GROUP": 2, "num_warps": 4, "num_stages": 2}
    monkeypatch.setattr(import_module("seqlab.kernels.matmul"), "CONFIGS", (small,))
    a, b = torch.randn(41, 18), torch.randn(18, 77)
    torch.testing.assert_close(matmul(a, b), a @ b)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_sums_in_float32(dtype, agree):
    agree(matmul, torch.matmul, torch.randn(20, 300).to(dtype), torch.randn(300, 20).to(dtype))


def test_an_empty_sum_is_zero():
    assert torch.equal(matmul(torch.ones(2, 0), torch.ones(0, 3)), torch.zeros(2, 3))


def test_it_is_compiled_for_four_targets_without_spills_and_uses_their_tensor_cores(compiled):
    report = compiled(matmul, (4096, 4096), (4096, 4096), backward=False)["matmul_tile"]
    for c in report.targets.values():
        assert c.spills == 0 and c.tensor_cores and c.occupancy.blocks


def test_the_first_configuration_is_what_runs_without_a_gpu():
    with recorded() as launches:
        matmul(torch.ones(2, 2), torch.ones(2, 2))
    assert CONFIGS[0].items() <= launches[0].named.items()


def test_wrong_arguments_get_a_sentence():
    with pytest.raises(
        ValueError, match=r"a has shape \(2, 3\), b \(4, 5\): b must be a matrix with as many rows"
    ):
        matmul(torch.ones(2, 3), torch.ones(4, 5))
    with pytest.raises(
        TypeError, match=r"a is torch.float32, b is torch.float16: use one dtype for all"
    ):
        matmul(torch.ones(2, 3), torch.ones(3, 5).half())


@pytest.fixture
def told():
    """Sets by PyTorch's newer switch, which the older one, allow_tf32, cannot read, how float32 is
    multiplied.
    """
    switch = torch.backends.cuda.matmul
    before = switch.fp32_precision
    yield lambda precision: setattr(switch, "fp32_precision", precision)
    switch.fp32_precision = before


@pytest.mark.parametrize("precision", ["tf32", "ieee"])
def test_float32_is_multiplied_as_pytorch_is_told(precision, told):
    told(precision)
    with recorded() as launches:
        matmul(torch.ones(2, 2), torch.ones(2, 2))
        matmul(torch.ones(2, 2).half(), torch.ones(2, 2).half())
    assert [run.named["PRECISION"] for run in launches] == [precision, "ieee"]
