"""What should a model remember?

*Open question · 5 minutes*

The cache grows with the text; the state of a recurrence does not. You serve a model of 8 billion parameters that reads contracts of 300,000 tokens and answers questions about them. Write four or five sentences: what would you choose,
what would you measure first, and what could change your mind?
"""

POINTS = (
    "Numbers first: with 8 key heads of width 128 in 32 layers a token takes 131,072 bytes in bfloat16, so a contract 39 GB. How many texts are open at once decides whether that is too much.",
    "What a fixed state costs: it has to choose what to keep before it knows the question. Looking up one clause word for word is what a cache can do and a small state cannot.",
    "What lies between: fewer key heads, windows in most layers, fewer bits, a few layers of attention among many of recurrence.",
    "To measure: exact recall against the distance of the clause, not perplexity; seconds and bytes for each written token; both at 300,000 tokens, not at 4,000.",
    "What would change the answer: many readers of one text (a shared cache is paid for once), streams without an end (no cache can hold them), or questions known in advance (then a state can keep just that).",
)
