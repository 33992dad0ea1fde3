"""What to do next, and how fast it would be: predictions, draft lengths, estimates and the choice of a scheme.

Each policy is a small object that is told facts and asked one question. Nothing here reads a clock or draws a number.
"""
