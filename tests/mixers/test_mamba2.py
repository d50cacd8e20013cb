import math
import warnings

import pytest
import torch
from torch.distributions import Uniform
from torch.nn.functional import silu, softplus

from seqlab.core.recurrence import recurrent
from seqlab.mixers.mamba2 import Mamba2

D = 24
SIZES = {"d_head": 5, "d_state": 6, "n_groups": 2, "d_conv": 3}


def copy_into(ours, theirs):
    """The weights of a transformers Mamba-2 layer, name by name."""
    for name, part in {"in_proj": theirs.in_proj, "out": theirs.out_proj}.items():
        getattr(ours, name).load_state_dict(part.state_dict())
    for name in ("A_log", "D", "dt_bias"):
        getattr(ours, name).data = getattr(theirs, name).data.clone()
    ours.norm.data = theirs.norm.weight.data.clone()
    ours.conv.weight.data = theirs.conv1d.weight.data[:, 0].clone()
    if ours.conv.bias is not None:
        ours.conv.bias.data = theirs.conv1d.bias.data.clone()


def bamba(transformers, bias):
    from transformers.models.bamba.modeling_bamba import BambaMixer

    heads = {"mamba_n_heads": 4, "mamba_d_head": 6, "mamba_n_groups": 2, "mamba_chunk_size": 8}
    sizes = {"mamba_expand": 1, "mamba_d_state": 6, "mamba_d_conv": 3}
    biases = {"mamba_proj_bias": bias, "mamba_conv_bias": bias}
    config = transformers.BambaConfig(hidden_size=D, **heads, **sizes, **biases)
    return BambaMixer, config


def mamba2(transformers, bias):
    from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

    heads = {"num_heads": 4, "head_dim": 6, "n_groups": 2, "chunk_size": 8}
    sizes = {"expand": 1, "state_size": 6, "conv_kernel": 3, "num_hidden_layers": 1}
    biases = {"use_bias": bias, "use_conv_bias": bias}
    config = transformers.Mamba2Config(hidden_size=D, **heads, **sizes, **biases)
    return Mamba2Mixer, config


def zamba2(transformers, bias):
    from transformers.models.zamba2.modeling_zamba2 import Zamba2MambaMixer

    heads = {"n_mamba_heads": 4, "mamba_headdim": 6, "mamba_ngroups": 2, "chunk_size": 8}
    sizes = {"mamba_expand": 1, "mamba_d_state": 6, "mamba_d_conv": 3}
    # Their prefill raises a Δ below this bound to it, their decoding does not: no bound here.
    sizes["time_step_min"] = 0.0
    config = transformers.Zamba2Config(hidden_size=D, add_bias_linear=bias, **heads, **sizes)
    return Zamba2MambaMixer, config


@pytest.fixture
def transformers():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        needed = "needs transformers: pip install -e '.[test]'"
        return pytest.importorskip("transformers", reason=needed)


@pytest.mark.oracle
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("family", [mamba2, bamba, zamba2])
def test_a_layer_of_transformers_loads(transformers, wide_floats, family, bias):
    """Prefill, then token by token, in float64; random A, D and Δ, two groups, three taps."""
    make, config = family(transformers, bias)
    theirs = make(config, layer_idx=0).double().eval()
    for p in theirs.parameters():
        p.data = p.data + 0.3 * torch.randn_like(p)
    ours = Mamba2(
        D,
        4,
        d_head=6,
        d_state=6,
        n_groups=2,
        d_conv=3,
        bias=bias,
        conv_bias=theirs.conv1d.bias is not None,
        dt_limit=theirs.time_step_limit,
        eps=theirs.norm.variance_epsilon,
    ).double()
    copy_into(ours, theirs)
    x = torch.randn(2, 21, D, dtype=torch.float64)
    cache = transformers.DynamicCache(config=config)
    whole = theirs(x)
    torch.testing.assert_close(ours(x)[0], whole, rtol=0, atol=1e-9)
    y, state = ours(x[:, :13])
    torch.testing.assert_close(y, theirs(x[:, :13], cache_params=cache), rtol=0, atol=1e-9)
    for token in x[:, 13:].split(1, dim=1):
        y, state = ours(token, state)
        torch.testing.assert_close(y, theirs(token, cache_params=cache), rtol=0, atol=1e-9)


@pytest.mark.oracle
def test_steps_are_clipped_in_every_form(transformers, wide_floats):
    """As in their prefill. Their decoding forgets the limit, so it differs from their prefill."""
    make, config = mamba2(transformers, bias=True)
    config.time_step_limit = (0.5, 0.8)
    theirs = make(config, layer_idx=0).double().eval()
    theirs.dt_bias.data.normal_()
    ours = Mamba2(D, 4, **SIZES | {"d_head": 6}, bias=True, dt_limit=(0.5, 0.8)).double()
    copy_into(ours, theirs)
    x = torch.randn(2, 9, D, dtype=torch.float64)
    for form in ("recurrent", "parallel", "chunkwise"):
        ours.form = form
        torch.testing.assert_close(ours(x)[0], theirs(x), rtol=0, atol=1e-9)


def test_it_is_a_state_space_model_whose_step_the_input_chooses():
    """h' = A h + B x held for Δ_t: A by zero-order hold, B by Euler; token by token and by head."""
    H, V, N = 4, 5, 6
    mixer, x = Mamba2(D, H, **SIZES).double(), torch.randn(1, 9, D, dtype=torch.float64)
    z, xBC, w = mixer.in_proj(x)[0].split([H * V, H * V + 4 * N, H], dim=-1)
    padded = torch.cat([torch.zeros(2, xBC.shape[1], dtype=torch.float64), xBC])
    xBC = silu(sum(padded[j : j + 9] * mixer.conv.weight[:, j] for j in range(3)) + mixer.conv.bias)
    u, B, C = xBC.split([H * V, 2 * N, 2 * N], dim=-1)
    h, ys = torch.zeros(H, V, N, dtype=torch.float64), []
    for t in range(9):
        y = torch.zeros(H, V, dtype=torch.float64)
        for i in range(H):
            group = slice(N * (i // 2), N * (i // 2) + N)
            dt, u_t = softplus(w[t, i] + mixer.dt_bias[i]), u[t, V * i : V * i + V]
            h[i] = torch.exp(-dt * mixer.A_log[i].exp()) * h[i] + dt * torch.outer(u_t, B[t, group])
            y[i] = h[i] @ C[t, group] + mixer.D[i] * u_t
        g = (y.flatten() * silu(z[t])).unflatten(0, (2, -1))
        ys.append((g / (g.square().mean(-1, keepdim=True) + 1e-5).sqrt()).flatten() * mixer.norm)
    torch.testing.assert_close(mixer(x)[0][0], mixer.out(torch.stack(ys)), rtol=0, atol=1e-9)


def test_project_gives_what_the_recurrence_reads_with_and_without_a_state():
    mixer, x = Mamba2(D, 4, **SIZES).double(), torch.randn(2, 17, D, dtype=torch.float64)
    _, S = recurrent(**mixer.project(x))
    _, state = mixer(x[:, :5])
    _, continued = recurrent(**mixer.project(x[:, 5:], state), state=state.S)
    for ours in (S, continued):
        torch.testing.assert_close(ours, mixer(x)[1].S, rtol=0, atol=1e-9)


def test_ssd_has_two_readings():
    """One matrix M_ij = C_i·B_j exp(Σ_{j<s≤i} Δ_s A): attention with a mask, and a recurrence."""
    mixer, x = Mamba2(D, 4, **SIZES).double(), torch.randn(2, 17, D, dtype=torch.float64)
    inputs = mixer.project(x)
    G = inputs["log_a"][..., 0].cumsum(1)  # (B, T, H)
    future = torch.ones(17, 17).triu(1).bool()[:, :, None]
    mask = (G[:, :, None] - G[:, None]).exp().masked_fill(future, 0)
    M = torch.einsum("bihk, bjhk, bijh -> bijh", inputs["q"], inputs["k"], mask)
    matrix = torch.einsum("bijh, bjhv -> bihv", M, inputs["v"])
    state, ys = torch.zeros(2, 4, 5, 6, dtype=torch.float64), []
    tokens = (inputs[name].unbind(1) for name in ("q", "k", "v", "log_a"))
    for q, k, v, log_a in zip(*tokens, strict=True):
        state = state * log_a.exp()[..., None] + v[..., :, None] * k[..., None, :]
        ys.append(torch.einsum("bhvk, bhk -> bhv", state, q))
    torch.testing.assert_close(matrix, torch.stack(ys, dim=1), rtol=0, atol=1e-9)


def test_every_weight_starts_where_the_authors_start_it(drawn_from):
    mixer = Mamba2(8, 4096, d_head=1)
    steps = softplus(mixer.dt_bias).log()
    drawn_from(steps, Uniform(math.log(1e-3), math.log(0.1), validate_args=False))
    A = mixer.A_log.exp()
    drawn_from(A, Uniform(1, 16, validate_args=False))
    assert A.min() > 0.999 and A.max() < 16.001
    assert (mixer.D == 1).all() and (mixer.norm == 1).all() and (mixer.conv.bias == 0).all()


def test_the_defaults_are_the_authors():
    """Twice as wide, 128 states, one group, four taps with a bias, no other bias, no limit on Δ."""
    mixer = Mamba2(64)
    assert mixer.n_heads == 4 and mixer.in_proj.weight.shape == (2 * 128 + 2 * 128 + 4, 64)
    assert mixer.widths == (128, 128) and mixer.conv.weight.shape == (128 + 2 * 128, 4)
    assert mixer.in_proj.bias is None and mixer.out.bias is None
    assert mixer.dt_limit == (0, math.inf) and mixer.n_groups == 1 and mixer.eps == 1e-5


def test_a_closed_step_keeps_the_state_and_an_open_one_forgets():
    """Δ → 0: the token is skipped. Δ → ∞: the past is gone."""
    mixer, x = Mamba2(D, 4, **SIZES).double(), torch.randn(1, 7, D, dtype=torch.float64)
    _, state = mixer(x)
    mixer.dt_bias.data.fill_(-40)
    torch.testing.assert_close(mixer(x, state)[1].S, state.S, rtol=0, atol=1e-9)
    mixer.dt_bias.data.fill_(400)
    torch.testing.assert_close(mixer(x, state)[0][:, 3:], mixer(x)[0][:, 3:], rtol=0, atol=1e-9)


def test_wrong_options_get_one_clear_sentence():
    sentence = "n_heads is 4, n_groups is 3: each group needs the same number of heads"
    with pytest.raises(ValueError, match=sentence):
        Mamba2(D, 4, n_groups=3)
    with pytest.raises(ValueError, match="form is 'scan': choose one of recurrent"):
        Mamba2(D, 4, form="scan")(torch.randn(1, 2, D))
