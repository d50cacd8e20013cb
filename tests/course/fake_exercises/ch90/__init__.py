"""Chapter 90, for the tests of the machinery: a write, a recurrence in chunks, and a number."""
