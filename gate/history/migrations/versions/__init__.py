"""One module a step, each naming the one before it. A released step is never changed."""
