"""What did HiPPO give?

*Open question · 5 minutes*

S4 starts from HiPPO's matrix, and its authors found that a random start fails on long sequences. LRU and Mamba start without HiPPO and
succeed. Write three or four sentences: what does a good start have to provide, how does HiPPO provide it, and how do the other two?
"""

POINTS = (
    "A start must let the gradient reach far back: some modes need half-lives as long as the task.",
    "No single length will do: the modes should cover many time scales, from a few tokens to thousands.",
    "HiPPO derives such modes from a fit of the past; S4 spreads its steps Δ over two powers of ten as well.",
    "LRU gets there by a ring near the unit circle (and a factor that keeps the state's size), Mamba by rates -1 to -N with "
    "steps from 0.001 to 0.1.",
    "So HiPPO is one sufficient start among several, not a necessary one; it gave the first that was derived rather than guessed.",
)
