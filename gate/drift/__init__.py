"""The drift matrix: which fine-tuning moved which task's refusals. A plan comes in; rows, claims and drawings go out.

`plan` is the file that says what is trained and asked; `matrix` makes rows of verdicts, the spread over seeds and the claims;
`markdown` puts them in tables, `heat_map` draws them.
"""
