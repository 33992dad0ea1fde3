"""The two machines without a network, side by side in memory, for tests and the conformance test."""
