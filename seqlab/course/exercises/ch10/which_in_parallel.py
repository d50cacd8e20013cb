"""Which of the two can be trained in parallel, and why?

*Open question · 5 minutes*

sLSTM and mLSTM have the same gates, the same stabiliser and a normaliser each. Write three or four sentences: which of them can be computed for all tokens at once, what exactly stands in the way of the other, and what does one get in return for waiting?
"""

POINTS = (
    "The mLSTM can: its gates depend on the token alone, so all gates are known before any state is.",
    "Its stabiliser is no obstacle: m unrolls to a running sum and a running maximum, both of which are scans.",
    "In the sLSTM the gates see h of the step before through R, behind a nonlinearity: two steps do not merge into one step of the same form.",
    "With R = 0 the sLSTM's cell could be scanned (exercise 10.3): it is the mixing, not the exponential, that costs the parallel form.",
    "In return the same token can act differently in different states: parity, which the chapter's mLSTM did not learn.",
)
