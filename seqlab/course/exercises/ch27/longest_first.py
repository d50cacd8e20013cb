"""Which tile first?

*Open question · 6 minutes*

The page launches tiles in the order of their experts. A colleague proposes another rule for the gradient of the matrices, in which one program walks along all rows of its expert: sort the experts by load, and launch the longest first. Write three or four sentences: when does that help, what can it never mend, and what would you do instead for a collapsed router?
"""

POINTS = (
    "It helps if there are more programs than processors: whoever starts the longest walk last waits for it alone at the end, while short walks fill the gaps.",
    "It cannot make the longest walk shorter: the time is at least that of the largest expert, whatever the order.",
    "For a collapsed router the walk must be cut: several programs for one expert, each over a part of its rows, and a sum of their parts (atomic in float32, or a second pass in a fixed order).",
    "The order must be known on the device: sorting E loads is cheap, but the CPU may not wait for it.",
    "For the forward the gain is small: its programs are tiles and take equally long, so any order is nearly as good; there the cache decides.",
)
