"""What to do next, and how fast it would be: predictions, draft lengths, estimates and the choice of a scheme.

The core asks through three protocols of `core/policy.py`: `Learner` (see `estimate`), `Policy` (`auto`, `plan`) and
`Length` (`lengths`). Nothing here reads a clock or draws a number.
"""
