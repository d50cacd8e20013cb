"""What to ask a GPU first

*Open question · 6 minutes*

Your kernel passes every check here: right numbers, a clean sanitizer, no spills on four targets. You get one hour on an H100. Write three or four sentences: what do you measure, against what, and what would make you doubt your own numbers?
"""

POINTS = (
    "Correctness first, on the device: the same comparison with a float64 reference, at ragged sizes and in bf16, because the interpreter neither runs programs at once nor rounds as a GPU does.",
    "Against a floor and against a peer: the share of the roofline that is reached, and PyTorch's scaled_dot_product_attention at the same sizes, forward and backward apart.",
    "Several sizes: short and long texts, head widths 64, 128 and 256, few and many heads, decoding. A tile that wins for one may lose for another.",
    "The tiles, warps and stages that were left over: a compile report could rule some out, but not choose among the rest.",
    "Doubt: times without warm-up or without waiting for the GPU, a cache that still holds the inputs from the run before, clocks that fall when the device is hot, a rate above the peak (then the count of flops is wrong: causal is half).",
)
