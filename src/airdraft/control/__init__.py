"""The control of sessions: predictions, draft lengths, estimates and the choice of a scheme.

The core uses it through three protocols of `core/policy.py`: `Learner` (see `estimate`), `Policy` (`auto`, `plan`) and
`Length` (`lengths`). Nothing here reads a clock or draws a random number.
"""
