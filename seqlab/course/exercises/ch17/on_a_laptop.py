"""A mixture for your laptop?

*Open question · 5 minutes*

You may have one model for a laptop with 32 GB of memory and one user, or for a server with eight large GPUs and thousands of users at a time. In which of the two does a
mixture of experts pay, against a dense model with as many *active* parameters, and against one with as many parameters in *all*? Write four or five sentences.
"""

POINTS = (
    "Memory must hold all experts, whatever a token uses: on the laptop the total decides whether the model fits at all.",
    "Against a dense model of equal active size a mixture costs much more memory at about the same work for each token, and is better for it.",
    "Against a dense model of equal total size it is much faster for each token: one user's decoding waits for weights to be read, and few are read.",
    "With thousands of users each expert gets many tokens in a batch, so its weights are read once for all of them; but loads must be even, and tokens travel between GPUs.",
    "What would settle it: tokens per second and quality at the batch size that is really used, with the memory that is really there.",
)
