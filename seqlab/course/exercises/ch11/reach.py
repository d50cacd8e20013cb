r"""How far do stacked windows see?

*Compute the reach of the windows alone. · 5 minutes · ●●○ · 1 point*

A token sees the 2,048 newest tokens, itself included, in each of RecurrentGemma 2B's 8 layers of attention. Suppose its 18 recurrent layers passed nothing from one token to another (gates shut, convolutions of width 1). At token t, how many tokens back is the oldest token that can still act on the output?
"""

### BEGIN SOLUTION
layers, window = 8, 2048
reach = layers * (window - 1)
### END SOLUTION

WHY = r"""
**Solution.** One layer reaches 2,047 tokens back, because the window includes the token itself. The next layer reads what *those* tokens have computed, 2,047 tokens further back. Eight layers reach 8 · 2,047 = 16,376.

"Can act" says little: the far token has to be passed on eight times, each time by a token that did not know what would be asked. In the chapter two windows of 32 reach 62 tokens back, and the title is 65 tokens old: no training could help them.

*Common mistakes:* the window of one layer; a window that does not include the token itself.
"""

HINTS = (
    "How far back does one layer of attention reach, if the window includes the token itself?",
    "One layer reaches 2,047 back. What does the second layer read at that token?",
    "8 * 2047.",
)

reference = 16376

TOLERANCE = 1e-8

OUTPUTS = ("reach",)

ALTERNATIVES = (16376.0, 8 * 2048 - 8)

MISTAKES = """
layers * (window - 1) → layers * window
    The window includes the token itself, so each layer reaches one token less.
layers * (window - 1) → window - 1
    This is the reach of one layer: the next layer reads what the far token has read.
layers * (window - 1) → window
    This is the width of one window: the token itself is in it, and layers add up.
layers * (window - 1) → layers * (window - 1) + 1
    This counts the tokens that are seen, the last one included: how far back the oldest is was asked.
layers, window = 8, 2048 → layers, window = 26, 2048
    All 26 layers are counted: only 8 of them attend.
"""
