"""Hostile peers: what they send, and how, for the fuzzer and for measurements in wall clock."""
