"""Can a fixed state learn in context as attention does?

*Open question · 10 minutes*

A survey says: "Recurrent models cannot learn in context, because their state has a fixed size." Write five or six sentences. What does the state hold if the task is linear regression, and how many numbers are enough? Which tasks need a memory that grows? And which experiment would tell "cannot hold" from "does not
learn to"?
"""

POINTS = (
    "In-context learning needs what the examples *say*, not the examples: for a linear rule in d dimensions that is d numbers, however many examples there are.",
    "An update of the state can be a learning rule: a sum is one gradient step on all examples, the delta rule one step for each of them.",
    "The state ends where the rule needs more numbers than it has (keys narrower than d), or where single examples must be returned: copying, or recall of many pairs.",
    "Attention keeps all examples and can use them again, for another rule or for several steps over several layers; it pays with a cache that grows.",
    "An experiment: vary the width of the state at a fixed task, train until the loss is flat, with several seeds; set the weights by hand where you can. If hand-set weights solve it and training does not, the limit is learning.",
)
