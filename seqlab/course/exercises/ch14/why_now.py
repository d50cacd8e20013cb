"""Why did it take until 2022?

*Open question · 5 minutes*

The one-pass softmax was published in 2018, attention in little memory in 2021, and blocked matrix products are older than both. Yet until 2022 every framework wrote the matrix out. Write three or four
sentences: what made the difference, when does tiling *not* help, and what would you measure before you replace an attention that works?
"""

POINTS = (
    "Processors became faster at multiplying much sooner than memory became faster at moving: only then was the matrix the bottleneck.",
    "A framework composes kernels; each one reads and writes slow memory. The gain needs one kernel that does all three steps, and its backward.",
    "It does little where T is small beside K (the matrix is no larger than the inputs), or where another part, such as the MLP, takes the time.",
    "It does not help where the weights themselves are needed: for a look at attention maps, or for a loss on them.",
    "To measure: time and peak memory, forward and backward, at the real T, K, heads and type; bytes moved against the roofline; and the error in that type.",
)
