"""Smaller models: weights in 8 or 4 bits, chosen so that a draft agrees with its target as before."""
