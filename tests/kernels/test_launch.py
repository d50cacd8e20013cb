"""What a launch hands to Triton where there is a GPU: everything but the compiler and the GPU
itself.
"""

import contextlib

import pytest
import torch

pytest.importorskip("triton", reason="needs Triton (Linux only)")

from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from seqlab import kernels
from seqlab.ffn.routers import Routing
from seqlab.kernels.launch import _tuned, recorded


class Driver:
    """Of a GPU that nobody has seen before, so that nothing is compiled for it. Times what it is
    given by one run.
    """

    def __init__(self, target):
        self.get_current_target, self.get_current_device = lambda: target, lambda: self
        self.get_current_stream = lambda device: 0
        self.get_benchmarker = lambda: lambda f, quantiles: (f(), (1.0, 1.0, 1.0))[1]


@pytest.fixture(
    params=[("cuda", 80, 32), ("cuda", 90, 32), ("hip", "gfx942", 64)],
    ids=lambda target: str(target[1]),
)
def started(request, monkeypatch):
    """Every tensor says it is on a GPU. What it would have run: name, grid, what was fixed, the
    compiler's options.
    """
    seen = []

    class Made:
        function = packed_metadata = None

        def __init__(self, *made):
            self.made = made

        def launch_metadata(self, *_):
            pass

        def run(self, x, y, z, *_):
            seen.append((self.made[0], (x, y, z), *self.made[1:]))

    def compiled(self, key, signature, device, constants, options, attributes, warmup):
        fixed = {self.arg_names[i]: value for (i,), value in constants.items()}
        return self.device_caches[device][0].setdefault(key, Made(self.__name__, fixed, options))

    monkeypatch.setattr(JITFunction, "_do_compile", compiled)
    monkeypatch.setattr(torch.Tensor, "device", property(lambda self: torch.device("cuda:0")))
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    before = driver._active
    driver.set_active(Driver(GPUTarget(*request.param)))
    _tuned.cache_clear()
    yield seen
    driver._active = before
    _tuned.cache_clear()


def experts(x, gate_up, down):
    routing = Routing(
        torch.zeros(3, 2, dtype=torch.int64), torch.zeros(3, 2, requires_grad=True), None, {}
    )
    return kernels.mix_stacked(x, routing, gate_up, down)


RUNS = {
    "softmax": (kernels.softmax, (3, 5)),
    "softmax, long": (kernels.softmax, (1, 20000)),
    "rms_norm": (kernels.rms_norm, (3, 5), (5,)),
    "matmul": (kernels.matmul, (3, 5), (5, 2)),
    "flash_attention": (kernels.flash_attention, (1, 3, 2, 16), (1, 3, 1, 16), (1, 3, 1, 16)),
    "flash_decode": (kernels.flash_decode, (1, 1, 2, 16), (1, 3, 1, 16), (1, 3, 1, 16)),
    "chunk_recurrence": (kernels.chunk_recurrence, (1, 3, 1, 16), (1, 3, 1, 16), (1, 3, 1, 16)),
    "chunk_recurrence, decays": (
        lambda q, k, v, log_a: kernels.chunk_recurrence(q, k, v, log_a=log_a),
        *[(1, 3, 1, 16)] * 4,
    ),
    "chunk_delta": (
        lambda q, k, v, beta: kernels.chunk_delta(q, k, v, beta=beta),
        *[(1, 3, 1, 16)] * 3,
        (1, 3, 1),
    ),
    "linear_scan": (kernels.linear_scan, (1, 3, 5), (1, 3, 5)),
    "selective_scan": (kernels.selective_scan, (1, 3, 5), (1, 3, 5), (5, 2), (1, 3, 2), (1, 3, 2)),
    "causal_conv1d": (kernels.causal_conv1d, (1, 3, 5), (5, 4), (5,)),
    "top_k_gate": (lambda x: kernels.top_k_gate(x, 2), (3, 4)),
    "experts": (experts, (3, 16), (4, 8, 16), (4, 16, 4)),
}


@pytest.mark.parametrize("name", RUNS)
def test_every_configuration_reaches_triton(name, started):
    function, *shapes = RUNS[name]
    with recorded() as first:
        y = function(
            *map(lambda shape: torch.zeros(shape, dtype=torch.bfloat16, requires_grad=True), shapes)
        )
        y = y[0] if isinstance(y, tuple) else y
        y.sum().backward()  # whose gradient is one number, expanded
    assert {run.kernel.fn.__name__ for run in first} == {kernel for kernel, *_ in started}
    for _, grid, _, _ in started:
        assert all(type(n) is int and n > 0 for n in grid)
    for run in first:  # as "meta" tensors are compiled, so it would run
        same = [
            fixed | {"num_warps": options.num_warps}
            for kernel, _, fixed, options in started
            if kernel == run.kernel.fn.__name__
        ]
        wanted = {name: value for name, value in run.named.items() if name != "num_stages"}
        assert any(wanted.items() <= fixed.items() for fixed in same)


def test_a_grid_larger_than_a_gpu_has_gets_a_sentence(started):
    q = torch.zeros(65536, 1, 1, 16)
    with pytest.raises(
        ValueError, match=r"attend_forward would need 1 × 65536 programs.*; split the batch"
    ):
        kernels.flash_attention(q, q, q)
