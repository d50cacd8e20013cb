import warnings

import pytest
import torch
import torch.nn.functional as F

from seqlab.core.exponential_gates import divide, stabilise
from seqlab.core.recurrence import chunkwise, recurrent
from seqlab.mixers.mlstm import MLSTM

D, H, T = 32, 4, 19


def unstabilised(q, k, v, i, f):
    """The paper's equations: C = f C + i v kᵀ, n = f n + i k, h = C q / max(|n·q|, 1)."""
    C, n, ys = 0, 0, []
    for t in range(q.shape[1]):
        f_t, i_t = torch.sigmoid(f[:, t, :, None]), i[:, t, :, None].exp()
        C = f_t[..., None] * C + i_t[..., None] * v[:, t, :, :, None] * k[:, t, :, None, :]
        n = f_t * n + i_t * k[:, t]
        qn = (n * q[:, t]).sum(-1, keepdim=True).abs()
        ys.append((C * q[:, t, :, None, :]).sum(-1) / qn.clamp(min=1))
    return torch.stack(ys, dim=1), C, n


def awake(mixer):
    """With gates that depend on the token, as after training."""
    for gate in (mixer.i, mixer.f):
        torch.nn.init.normal_(gate.weight, std=0.5)
        torch.nn.init.normal_(gate.bias)
    return mixer.double()


def test_it_is_the_papers_recurrence_without_stabiliser():
    mixer, x = awake(MLSTM(D, H, eps=0.0)), 2 * torch.randn(2, T, D, dtype=torch.float64)
    q, k, v = (W(x).unflatten(-1, (H, -1)) for W in (mixer.q, mixer.k, mixer.v))
    i, f = (15 * torch.tanh(W(x) / 15) for W in (mixer.i, mixer.f))
    y, C, n = unstabilised(q / 2.0, k, v, i, f)  # K = 4
    y = F.layer_norm(y, (D // H,), eps=1e-6).flatten(-2)
    ours, state = mixer(x)
    torch.testing.assert_close(ours, mixer.out(torch.sigmoid(mixer.g(x)) * y), rtol=0, atol=1e-9)
    true = state.S * state.m.exp()[..., None, None]
    torch.testing.assert_close(true, torch.cat([C, n[:, :, None]], dim=2), rtol=1e-9, atol=1e-9)


def test_the_gates_start_as_in_xlstm_7b():
    """ĩ = -10, f̃ = 3 .. 6 over the heads, whatever the token."""
    mixer = MLSTM(D, H)
    assert (mixer.i.weight == 0).all() and (mixer.f.weight == 0).all()
    torch.testing.assert_close(mixer.i.bias, torch.full((H,), -10.0))
    torch.testing.assert_close(mixer.f.bias, torch.tensor([3.0, 4.0, 5.0, 6.0]))
    assert (mixer.norm == 1).all() and mixer.norm_bias is None


def test_the_default_sizes_are_those_of_xlstm_7b():
    """Keys half as wide as values, the gates capped to ±15, both eps 1e-6, no bias."""
    mixer = MLSTM(D)
    assert mixer.n_heads == H and mixer.soft_cap == 15 and mixer.eps == mixer.norm_eps == 1e-6
    assert mixer.q.out_features == mixer.k.out_features == D // 2
    assert mixer.v.out_features == mixer.g.out_features == mixer.out.in_features == D
    names = {name for name, _ in mixer.named_parameters() if name.endswith("bias")}
    assert names == {"i.bias", "f.bias"}
    assert (MLSTM(D, bias=True).norm_bias == 0).all()


def test_without_m_it_divides_by_n_q_alone():
    """What the microscope asks: the read of a table that is not scaled by e^-m."""
    mixer, y = MLSTM(D, H, eps=0.0).double(), torch.randn(2, 3, H, 9).double()
    expected = F.layer_norm(y[..., :8] / y[..., 8:].abs(), (8,), eps=1e-6)
    torch.testing.assert_close(mixer.read(y), expected, rtol=0, atol=1e-12)


def test_project_gives_what_the_recurrence_reads_with_and_without_a_state():
    mixer, x = awake(MLSTM(D, H)), 2 * torch.randn(2, T, D, dtype=torch.float64)
    _, S = recurrent(**mixer.project(x))
    _, state = mixer(x[:, :5])
    _, continued = recurrent(**mixer.project(x[:, 5:], state), state=state.S)
    for ours in (S, continued):
        torch.testing.assert_close(ours, mixer(x)[1].S, rtol=0, atol=1e-9)


def test_the_unrolled_stabiliser_is_the_recurrence():
    f, i = F.logsigmoid(3 * torch.randn(2, 50, H).double()), 5 * torch.randn(2, 50, H).double()
    log_a, log_i, m = stabilise(f, i)
    before = torch.zeros(2, H).double()
    for t in range(50):
        now = torch.maximum(f[:, t] + before, i[:, t])
        torch.testing.assert_close(m[:, t], now, rtol=0, atol=1e-12)
        torch.testing.assert_close(log_a[:, t], f[:, t] + before - now, rtol=0, atol=1e-12)
        before = now
    assert (log_a <= 0).all() and (log_i <= 0).all()


def test_the_output_does_not_depend_on_m():
    """Any other start of m gives other tables and the same y: so no gradient need go through m."""
    f, i = F.logsigmoid(torch.randn(2, T, H).double()), 2 * torch.randn(2, T, H).double()
    q, k, v = torch.randn(3, 2, T, H, 6).double()
    results = []
    for start in (0.0, 3.0, -5.0):
        log_a, log_i, m = stabilise(f, i, torch.full((2, H), start).double())
        k_in, v_in = k * log_i.exp()[..., None], F.pad(v, (0, 1), value=1.0)
        results.append(divide(chunkwise(q, k_in, v_in, log_a=log_a[..., None])[0], m))
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=1e-9)
    torch.testing.assert_close(results[2], results[0], rtol=0, atol=1e-9)


def test_gradients_are_those_of_the_unstabilised_equations():
    qkv = [torch.randn(1, T, H, 6).double() for _ in range(3)]
    inputs = qkv + [torch.randn(1, T, H).double() for _ in range(2)]

    def ours(q, k, v, i, f):
        log_a, log_i, m = stabilise(F.logsigmoid(f), i)
        k, v = k * log_i.exp()[..., None], F.pad(v, (0, 1), value=1.0)
        return divide(chunkwise(q, k, v, log_a=log_a[..., None])[0], m)

    grads = []
    for function in (ours, lambda *xs: unstabilised(*xs)[0]):
        leaves = [u.clone().requires_grad_() for u in inputs]
        grads.append(torch.autograd.grad(function(*leaves).square().sum(), leaves))
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_a_gate_that_overflows_exp_is_no_trouble():
    f, i = torch.zeros(1, T, H), torch.full((1, T, H), 1000.0)
    log_a, log_i, m = stabilise(F.logsigmoid(f), i)
    assert log_a.exp().isfinite().all() and log_i.exp().isfinite().all() and m.isfinite().all()


def test_wrong_options_get_one_clear_sentence():
    sentence = "d_model is 32, 2 n_heads is 10: the first must be a multiple of the second"
    with pytest.raises(ValueError, match=sentence):
        MLSTM(D, 5)


@pytest.fixture(scope="module")
def xlstm():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("transformers", reason="needs transformers: pip install -e '.[test]'")
        from transformers.models.xlstm import modeling_xlstm
    if modeling_xlstm.external_xlstm:
        reason = "the xlstm package is installed, so transformers calls it, not its own code"
        pytest.skip(reason)
    return modeling_xlstm


@pytest.mark.oracle
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("qk", "v"), [(0.5, 1.0), (1.5, 0.75)])
def test_against_xlstm_prefill_and_token_by_token(xlstm, bias, qk, v):
    config = xlstm.xLSTMConfig(
        hidden_size=D,
        num_heads=H,
        num_hidden_layers=1,
        use_bias=bias,
        qk_dim_factor=qk,
        v_dim_factor=v,
        chunk_size=8,
        norm_reduction_force_float32=False,
        eps=1e-4,  # large enough to see that it is added in the same place
    )
    theirs = xlstm.xLSTMLayer(config).double().eval()
    kernels = theirs.mlstm_backend._inference_fn.keywords
    kernels["mlstm_step_kernel"].keywords["dtype_state"] = torch.float64
    kernels["mlstm_sequence_kernel"].keywords["dtype_state"] = torch.float64
    for p in theirs.parameters():
        torch.nn.init.normal_(p, std=0.3)
    widths = {"d_key": int(D * qk) // H, "d_value": int(D * v) // H}
    ours = MLSTM(D, H, **widths, bias=bias, eps=1e-4).double()
    names = {"q": "q", "k": "k", "v": "v", "out": "out_proj"}
    names |= {"g": "ogate_preact", "i": "igate_preact", "f": "fgate_preact"}
    for name, their_name in names.items():
        getattr(ours, name).load_state_dict(getattr(theirs, their_name).state_dict())
    ours.norm.data = theirs.multihead_norm.weight.data.unflatten(0, (H, -1))
    if bias:
        ours.norm_bias.data = theirs.multihead_norm.bias.data.unflatten(0, (H, -1))
    x = 2 * torch.randn(2, T + 4, D, dtype=torch.float64)
    y, state = ours(x[:, :T])
    expected, their_state = theirs(x[:, :T])
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-9)
    for token in x[:, T:].split(1, dim=1):
        y, state = ours(token, state)
        expected, their_state = theirs(token, their_state)
        torch.testing.assert_close(y, expected, rtol=0, atol=1e-9)
    C, n, m = their_state
    torch.testing.assert_close(state.S, torch.cat([C, n[..., None]], dim=-1).mT, rtol=0, atol=1e-9)
    torch.testing.assert_close(state.m, m[..., 0], rtol=0, atol=1e-9)
