import torch

from seqlab.layers.norm import GatedRMSNorm, RMSNorm, l2norm, rms_norm

F64 = {"dtype": torch.float64}


def test_rms_norm_is_torchs():
    x, weight = torch.randn(2, 3, 8, **F64), torch.rand(8, **F64)
    torch.testing.assert_close(rms_norm(x), torch.nn.functional.rms_norm(x, (8,), eps=1e-6))
    expected = torch.nn.functional.rms_norm(x, (8,), weight, eps=0.3)
    torch.testing.assert_close(rms_norm(x, weight, 0.3), expected)


def test_l2norm_gives_unit_length_with_its_eps_inside_the_root():
    x = torch.randn(2, 3, 8, **F64)
    torch.testing.assert_close(l2norm(x).norm(dim=-1), torch.ones(2, 3, **F64), rtol=0, atol=1e-5)
    torch.testing.assert_close(l2norm(x, 0.5), x / (x.norm(dim=-1, keepdim=True) ** 2 + 0.5) ** 0.5)
    assert l2norm(torch.zeros(3)).isfinite().all()
    tiny = torch.tensor([1e-3, 0.0], **F64)
    torch.testing.assert_close(l2norm(tiny)[0], torch.tensor(0.5, **F64).sqrt())


def test_the_gated_norm_gates_first():
    x, gate = torch.randn(2, 3, 8, **F64), torch.randn(2, 3, 8, **F64)
    norm, gated = RMSNorm(8, 0.2).double(), GatedRMSNorm(8, 0.2).double()
    assert (norm.weight == 1).all() and RMSNorm(8).eps == GatedRMSNorm(8).eps == 1e-6
    norm.weight.data.uniform_()
    gated.load_state_dict(norm.state_dict())
    torch.testing.assert_close(norm(x), rms_norm(x, norm.weight, 0.2))
    torch.testing.assert_close(gated(x, gate), norm(x * gate * torch.sigmoid(gate)))


def test_a_norm_of_bf16_is_computed_in_float32():
    x = torch.randn(4, 64).bfloat16()
    y = rms_norm(x)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, rms_norm(x.float()).bfloat16())
