"""The laboratory: texts recorded once with the real pair, replayed over any link in virtual time, and reported."""
