"""Experiments in virtual time: the machines are the real ones, and the clock is not."""
