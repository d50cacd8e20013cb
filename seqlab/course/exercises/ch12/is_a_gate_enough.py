"""Do fixed filters select?

*Open question · 6 minutes*

A review says: "Hyena and H3 use fixed filters, so unlike Mamba they cannot select by content." Write four or five sentences: what is right about it, what did the chapter's experiments show instead, and which experiment would you run to find where the difference to Mamba begins?
"""

POINTS = (
    "A filter by itself weighs by age alone, and a sum of such weights cannot tell which of two tokens was marked: the four texts of section 1.",
    "The layers are more than their filters. The product of neighbours before the filter decides what is written, and with it one marked token is found in all three seeds.",
    "Taking the inner gate or the short convolution away brings back guessing, with the same settings: so these parts are the cause, on this task and at this size.",
    "What remains fixed is *when* something fades: a filter counts tokens, so among several marked tokens it prefers the young or the old. Mamba's decay can depend on the token.",
    "A further experiment changes one thing: more marks, longer gaps, marks at known places, or a Mamba whose Δ is held constant; several seeds, and more than one learning rate for each.",
)
