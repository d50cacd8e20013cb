import math

import pytest
import torch

from seqlab.mixers.memory_network import MemoryNetwork

B, T, D, K, N = 2, 7, 5, 3, 4


def one_question(net, question, memory):
    """The paper's equations for one question about a list of facts, oldest first."""
    E, ages = net.E.tolist(), net.ages.tolist()
    embed = lambda k, x: [sum(w * v for w, v in zip(row, x, strict=True)) for row in E[k]]  # noqa: E731
    u, weights = embed(0, question), []
    facts = list(reversed(memory))[:N]
    for k in range(net.n_hops):
        if not facts:
            break
        of = lambda k: [  # noqa: E731
            [a + b for a, b in zip(embed(k, x), ages[k][age], strict=True)]
            for age, x in enumerate(facts)
        ]
        scores = [math.exp(sum(a * b for a, b in zip(u, m, strict=True))) for m in of(k)]
        p = [s / sum(scores) for s in scores]
        c = of(k + 1)
        u = [u[d] + sum(p[i] * c[i][d] for i in range(len(p))) for d in range(K)]
        weights.append(p + [0.0] * (N - len(p)))
    y = [sum(E[-1][d][j] * u[d] for d in range(K)) for j in range(D)]
    return y, weights


@pytest.mark.parametrize("hops", [1, 2, 3])
def test_it_is_the_papers_network_one_question_at_a_time(hops):
    net = MemoryNetwork(D, n_hops=hops, d_head=K, n_memory=N).double()
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(8)
    x = torch.randn(B, T, D, dtype=torch.float64)
    y, state, weights = net.run(x)
    for b in range(B):
        for t in range(T):
            expected, p = one_question(net, x[b, t].tolist(), x[b, :t].tolist())
            torch.testing.assert_close(y[b, t], torch.tensor(expected, dtype=torch.float64))
            if t:
                torch.testing.assert_close(weights[b, t], torch.tensor(p, dtype=torch.float64))
    torch.testing.assert_close(state, x[:, -N:], rtol=0, atol=0)
    assert weights[:, 0].abs().max() == 0


def test_its_gradients_are_those_of_finite_differences():
    net = MemoryNetwork(3, d_head=2, n_memory=3).double()
    x = torch.randn(1, 5, 3, dtype=torch.float64, requires_grad=True)
    names = [name for name, _ in net.named_parameters()]

    def run(x, *values):
        named = dict(zip(names, values, strict=True))
        return torch.func.functional_call(net, named, (x,))[0]

    leaves = [p.detach().clone().requires_grad_() for p in net.parameters()]
    assert torch.autograd.gradcheck(run, (x, *leaves))


def test_what_is_older_than_the_memory_is_not_seen():
    net, x = MemoryNetwork(D, n_memory=N).double(), torch.randn(1, T, D, dtype=torch.float64)
    changed = x.clone()
    changed[:, T - 2 - N] += 1
    torch.testing.assert_close(net(changed)[0][:, -1], net(x)[0][:, -1], rtol=0, atol=0)
    changed[:, T - 1 - N] += 1
    assert (net(changed)[0][:, -1] - net(x)[0][:, -1]).abs().max() > 1e-4


def test_sizes_and_states_that_do_not_fit_get_one_clear_sentence():
    with pytest.raises(ValueError, match="n_hops is 0: it must be at least 1"):
        MemoryNetwork(D, n_hops=0)
    with pytest.raises(ValueError, match=r"the state has shape \(2, 3, 4\): \(2, 3, 5\) is needed"):
        MemoryNetwork(D)(torch.randn(2, 1, D), torch.randn(2, 3, 4))
