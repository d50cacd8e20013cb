"""Does the layer learn, or only look like it?

*Open question · 5 minutes*

In a trained model the inner loss of a TTT layer falls while it reads. Somebody concludes: "So the layer memorises the text, and with two inner steps per token, which lower the inner loss further, it would be better." Write three or four sentences: is that so? What would you measure before you believe it?
"""

POINTS = (
    "The outer loop was trained for answers with one step per token. Keys, values and step sizes fit that; a second step at test time is a layer that nobody trained.",
    "A small inner loss is a means. The target v - k of the inner model is itself learned: it need not be anything that the answer depends on, and a loss can fall on parts that no query asks for.",
    "The read is at q and the loss at k. If queries and keys point in different directions, a better fit at the keys says little about the reads.",
    "Measure the error of the answers, not the inner loss: with one step and with two (each trained so), with the step turned round, with the state frozen or reset in the middle of the text.",
    "Liu et al. (2026) report trained layers in which more inner steps made the task worse, and read many such layers as learned linear attention.",
)
