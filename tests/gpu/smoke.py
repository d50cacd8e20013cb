"""The whole lab once, quickly, with the Triton that is found first.

test_versions.py runs it in a process of its own. It prints the version and where it came from.
"""

import torch
import toy_kernels as toys
import triton
import triton.language as tl
from triton.runtime import interpreter
from triton.runtime.jit import JITFunction

from seqlab.gpu.compile import TARGETS, compile_report
from seqlab.gpu.events import OutOfBounds
from seqlab.gpu.interpreter import launch
from seqlab.gpu.sanitize import sanitize
from seqlab.gpu.trace import trace


def everything():
    """All that a run could have changed in Triton."""
    places = [tl, tl.core, tl.math, tl.standard, tl.tensor, tl.dtype, interpreter, JITFunction]
    places += [interpreter.InterpretedFunction, interpreter.InterpreterBuilder, toys]
    optional = ("condition", "tensor_descriptor_base")  # not in every version
    places += [getattr(tl.core, name) for name in optional if hasattr(tl.core, name)]
    return [dict(vars(place)) for place in places]


def a_kernel_runs_and_is_counted():
    x, y, z = torch.randn(100), torch.randn(100), torch.zeros(100)
    seen = trace(toys.add, (4,), x, y, z, 100, BLOCK=32)
    assert torch.equal(z, x + y)
    assert (seen.bytes_in, seen.bytes_out) == (800, 400)


def a_product_runs_in_each_type():
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        a, b, c = torch.randn(32, 64).to(dtype), torch.randn(64, 32).to(dtype), torch.zeros(32, 32)
        seen = trace(toys.product, (1,), a, b, c, 64, BLOCK=32, STEP=16)
        assert torch.allclose(c, a.float() @ b.float(), atol=1e-4)
        assert seen.flops == 2 * 32 * 32 * 64


def sums_scans_and_maxima_run():
    x, y = torch.rand(64) + 1, torch.zeros(64)
    launch(toys.greedy, (1,), x, y, BLOCK=64)
    assert torch.allclose(y, x / x.cumsum(0).sum() + x.cumsum(0) * x.max())


def a_fault_is_found_and_a_clean_kernel_is_clean():
    x, z = torch.randn(100), torch.full((100,), torch.nan)
    assert sanitize(toys.add, (4,), x, x.clone(), z, 100, BLOCK=32) == []
    findings = sanitize(toys.add, (4,), x, x.clone(), z, 128, BLOCK=32)
    assert {f.kind for f in findings} == {"out of bounds"} and "toy_kernels.py:" in str(findings[0])


def a_fault_stops_a_launch():
    try:
        launch(toys.add, (4,), torch.ones(100), torch.ones(100), torch.ones(100), 128, BLOCK=32)
    except OutOfBounds:
        return
    raise AssertionError("an access out of bounds was not stopped")


def a_report_has_four_targets():
    report = compile_report(toys.product, "*fp16", "*fp16", "*fp32", 512, BLOCK=64, STEP=32)
    assert tuple(report.targets) == TARGETS
    dot = next(n for n, line in report.source.items() if "the line of the dot" in line)
    for target, compiled in report.targets.items():
        assert compiled.registers > 0 and compiled.occupancy.blocks > 0 and compiled.tensor_cores
        assert all(report.made_by(dot, target, stage) for stage in compiled.stages)


def pythons_own_functions_run():
    x, y = 3 * torch.randn(100), torch.zeros(100)
    assert sanitize(toys.clamped, (4,), x, y, 100, LOUD=False, BLOCK=32) == []
    launch(toys.clamped, (4,), x, y, 100, LOUD=False, BLOCK=32)
    assert torch.equal(y, x.clamp(-1, 1))


def pythons_own_functions_compile():
    """They would not, had Triton's compiler been imported while the language was replaced."""
    report = compile_report(toys.clamped, "*fp32", "*fp32", 4096, LOUD=True, BLOCK=256)
    assert set(report.targets) == set(TARGETS)


if __name__ == "__main__":
    before = everything()
    a_kernel_runs_and_is_counted()
    a_product_runs_in_each_type()
    sums_scans_and_maxima_run()
    a_fault_is_found_and_a_clean_kernel_is_clean()
    a_fault_stops_a_launch()
    pythons_own_functions_run()
    assert everything() == before, "something stayed patched"
    pythons_own_functions_compile()
    a_report_has_four_targets()
    a_kernel_runs_and_is_counted()
    pythons_own_functions_run()
    assert everything() == before, "something stayed patched"
    print(triton.__version__, triton.__file__)
