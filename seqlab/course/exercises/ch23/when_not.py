"""When not to write a kernel

*Open question · 5 minutes*

A colleague shows you a training step in which ten small operations of PyTorch follow one another between two
matrix products, and wants to write a Triton kernel for them. Write three or four sentences: what would you
measure first, what could do it without a kernel of one's own, and what will the kernel cost after it is written?
"""

POINTS = (
    "Measure first: which share of the step these operations take (a profiler), and how far the whole is from the "
    "floor of its bytes. Ten operations on small tensors may be bound by launches, not by bytes.",
    "torch.compile fuses chains of elementwise operations and reductions into Triton kernels by itself; a library "
    "(Liger, fla) may have the kernel, tested.",
    "The gain is bounded: bytes moved now against bytes that must move. If the products take 95 % of the time, "
    "nothing here can save more than 5 %.",
    "A kernel needs a backward, tests against a reference at ragged sizes and in each type, and a sanitizer.",
    "It must be tuned, and tested again, for each GPU and version of Triton: somebody has to own it.",
)
