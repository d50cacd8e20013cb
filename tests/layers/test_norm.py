import torch

from seqlab.layers.norm import GatedRMSNorm, RMSNorm, l2norm, rms_norm

F64 = {"dtype": torch.float64}


def test_norms_against_their_formulas():
    x, gate = torch.randn(2, 3, 8, **F64), torch.randn(2, 3, 8, **F64)
    torch.testing.assert_close(rms_norm(x), torch.nn.functional.rms_norm(x, (8,), eps=1e-6))
    torch.testing.assert_close(l2norm(x).norm(dim=-1), torch.ones(2, 3, **F64), rtol=0, atol=1e-5)
    assert l2norm(torch.zeros(3)).isfinite().all()
    norm, gated = RMSNorm(8).double(), GatedRMSNorm(8).double()
    norm.weight.data.uniform_(), gated.weight.data.copy_(norm.weight.data)
    torch.testing.assert_close(gated(x, gate), norm(x * gate * torch.sigmoid(gate)))
    assert rms_norm(x.bfloat16()).dtype == torch.bfloat16
