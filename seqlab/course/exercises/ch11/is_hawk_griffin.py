"""Is Hawk a Griffin whose windows are 0?

*Open question · 5 minutes*

Griffin has two recurrent layers to one of local attention. Somebody says: "Hawk is Griffin with every window set to 0, so Griffin can only be better." Write three or four sentences: what would a window of 0 be, what is left of the layer with a window of 1, and is the conclusion right?
"""

POINTS = (
    "A window of 0 is a softmax over nothing: 0 / 0. The smallest window is 1, the token itself.",
    "With a window of 1 the softmax has one weight, 1. The layer is then a linear map of the token, W_o W_v x: no memory, and no use for q and k.",
    "So Griffin with windows of 1 has a third fewer recurrent layers than Hawk. Hawk *replaces* attention by RG-LRU: neither is a special case of the other.",
    "Hawk's parameters and states differ too: in the zoo's 7B sizes Hawk has more recurrent state, and no cache.",
    "Which one is better is therefore a question for measurement: in the chapter each alone fails at one kind of question, at one small size.",
)
