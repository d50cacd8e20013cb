from functools import partial

import torch

from seqlab.mixers.attention import Attention
from seqlab.mixers.titans import Titans
from seqlab.mixers.titans_mag import MemoryAsGate

D = 16


def make():
    attention = partial(Attention, n_heads=2, window=5)
    memory = partial(Titans, n_heads=2, chunk_size=4)
    return MemoryAsGate(D, attention=attention, memory=memory).double()


def test_each_branch_reads_the_input_and_the_memory_gates_the_attention():
    mixer, x = make(), torch.randn(2, 13, D, dtype=torch.float64)
    for norm in (mixer.attention_norm, mixer.memory_norm):
        norm.weight.data.normal_()
    a, m = mixer.attention(x)[0], mixer.memory(x)[0]
    a = a / (a.square().mean(-1, keepdim=True) + 1e-6).sqrt() * mixer.attention_norm.weight
    m = m / (m.square().mean(-1, keepdim=True) + 1e-6).sqrt() * mixer.memory_norm.weight
    expected = (a / (1 + torch.exp(-m))) @ mixer.out.weight.T
    torch.testing.assert_close(mixer(x)[0], expected, rtol=0, atol=1e-12)


def test_beyond_the_window_only_the_memory_remembers():
    """A token before the window changes y only through the memory: with its norm at 0, never."""
    mixer, x = make(), torch.randn(1, 13, D, dtype=torch.float64)
    other = torch.cat([torch.randn(1, 1, D, dtype=torch.float64), x[:, 1:]], dim=1)

    def change():
        return (mixer(x)[0] - mixer(other)[0])[:, -1].abs().max()

    assert change() > 1e-6
    mixer.memory_norm.weight.data.zero_()
    assert change() == 0
