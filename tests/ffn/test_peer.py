import inspect
import subprocess
import sys

import pytest
import torch
from torch import nn

from seqlab.ffn import PEER

D, N = 12, 64


def make(**options):
    options = {"n_experts": N, "n_heads": 3, "top_k": 5, "d_key": 8} | options
    return PEER(D, **options).double()


def draw(*shape):
    return torch.randn(*shape, D, dtype=torch.float64)


def queries(peer, x):
    return peer.query_norm(peer.query(x)).unflatten(-1, (peer.n_heads, -1))


def every_key(peer):
    """All N keys, each written out: half i // n beside half i mod n."""
    (first, second), n = peer.keys, peer.n
    return torch.stack([torch.cat([first[i // n], second[i % n]]) for i in range(n**2)])


def test_the_weights_start_as_stated():
    """Keys uniform within ±(d_key / 2)^-½, as in product-key memories; experts N(0, 1/D)."""
    peer = PEER(256, 4096, n_heads=1, d_key=32)
    bound = 16**-0.5
    assert -bound <= peer.keys.min() < -0.95 * bound and 0.95 * bound < peer.keys.max() <= bound
    for W in (peer.down, peer.up):
        # A million draws: their spread is within 0.1 % of the stated one (a standard error).
        assert W.std().item() == pytest.approx(256**-0.5, rel=0.01) and abs(W.mean()) < 1e-3
    assert not torch.equal(peer.down, peer.up)


def test_the_defaults_are_the_papers():
    """1024² experts, 8 heads, 16 experts a head: its base setting. Keys are 128 wide."""
    options = {name: p.default for name, p in inspect.signature(PEER).parameters.items()}
    assert options["n_experts"] == 1024**2 and options["d_key"] == 128
    assert options["n_heads"] == 8 and options["top_k"] == 16


def test_scores_are_float32_in_a_bf16_layer():
    peer, x = make().bfloat16(), draw(2).bfloat16()
    experts, scores = peer.route(x)
    assert scores.dtype == torch.float32 and peer(x).dtype == torch.bfloat16
    q, keys = queries(peer, x).float(), every_key(peer).float()
    expected = (q @ keys.T).gather(-1, experts)
    torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("top_k", [1, 5, 8])
def test_the_best_halves_hold_the_best_of_all_experts(top_k):
    """Brute force: the score of every expert, sorted."""
    peer, x = make(top_k=top_k), draw(40)
    expected, best = (queries(peer, x) @ every_key(peer).T).sort(descending=True)
    experts, scores = peer.route(x)
    assert torch.equal(experts, best[..., :top_k])
    torch.testing.assert_close(scores, expected[..., :top_k], rtol=0, atol=1e-12)


@pytest.mark.parametrize("sparse", [False, True])
def test_it_is_the_papers_sum_over_all_experts_with_its_gradients(sparse):
    """Brute force: all N neurons at work, the weights of all but the best k masked away."""
    peer, x = make(sparse=sparse), draw(2, 7)
    scores = queries(peer, x) @ every_key(peer).T  # (B, T, H, N)
    worst = scores.topk(peer.top_k).values[..., -1:]
    weights = scores.masked_fill(scores < worst, -torch.inf).softmax(-1).sum(-2)
    expected = (weights * nn.functional.gelu(x @ peer.down.T)) @ peer.up
    y = peer(x)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-12)
    ours = torch.autograd.grad(y.sin().sum(), list(peer.parameters()))
    theirs = torch.autograd.grad(expected.sin().sum(), list(peer.parameters()))
    for (name, _), a, b in zip(peer.named_parameters(), ours, theirs, strict=True):
        assert a.is_sparse == (sparse and name in ("down", "up"))
        torch.testing.assert_close(a.to_dense() if a.is_sparse else a, b, rtol=0, atol=1e-12)


def test_a_sparse_gradient_holds_only_the_rows_in_use():
    peer = make(sparse=True)
    peer(draw(2)).sum().backward()
    used = 2 * peer.n_heads * peer.top_k
    assert peer.up.grad._nnz() <= used and peer.down.grad._nnz() <= used
    before = peer.up.detach().clone()
    torch.optim.SparseAdam([peer.down, peer.up], lr=0.1).step()
    touched = (peer.up != before).any(-1).nonzero()[:, 0].tolist()
    rows = peer.up.grad.coalesce().indices()[0].tolist()
    assert 0 < len(touched) < N and set(touched) == set(rows)


def test_a_single_expert_is_an_mlp_of_one_neuron_once_per_head():
    peer, x = make(n_experts=1, top_k=1), draw(9)
    neuron = nn.functional.gelu(x @ peer.down.T) @ peer.up
    torch.testing.assert_close(peer(x), 3 * neuron, rtol=0, atol=1e-12)


def test_the_papers_batch_norm_lets_tokens_see_each_other_in_training_alone():
    peer, x = make(query_norm=nn.BatchNorm1d), draw(1, 30)
    changed = torch.cat([x[:, :20], draw(1, 10)], dim=1)
    normed = peer.query_norm(peer.query(x[0]))
    torch.testing.assert_close(normed.mean(0), torch.zeros_like(normed[0]), rtol=0, atol=1e-12)
    assert not torch.allclose(peer(x)[:, :20], peer(changed)[:, :20])
    peer.eval()
    torch.testing.assert_close(peer(x)[:, :20], peer(changed)[:, :20], rtol=0, atol=1e-12)


def test_without_a_norm_the_query_is_the_projection():
    peer, x = make(query_norm=None), draw(3)
    assert torch.equal(queries(peer, x).flatten(1), peer.query(x))


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory from /proc")
@pytest.mark.parametrize(
    ("d_model", "T", "sparse"),
    [
        (64, 256, False),
        pytest.param(128, 2048, False, marks=pytest.mark.slow),
        pytest.param(256, 2048, True, marks=pytest.mark.slow),
    ],
)
def test_a_million_experts_run_forward_and_backward_in_under_4_gb(d_model, T, sparse):
    code = f"""
import re, torch
from seqlab.ffn import PEER
torch.set_num_threads(1)
peer = PEER({d_model}, sparse={sparse})
assert len(peer.down) == 1024**2
peer(torch.randn(1, {T}, {d_model})).square().mean().backward()
assert peer.down.grad is not None and peer.keys.grad.any()
print(int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert 2 * 4 * 1024**2 * d_model < int(done.stdout) < 4e9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_experts": 60}, "n_experts is 60, top_k 5: it must be n², with n at least top_k"),
        ({"top_k": 9}, "n_experts is 64, top_k 9: it must be n², with n at least top_k"),
        ({"d_key": 7}, "d_key is 7: a key has two halves, so its width must be even"),
    ],
)
def test_wrong_arguments_get_one_clear_sentence(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)
