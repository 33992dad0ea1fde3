"""The two machines without a network: side by side in memory, for tests and for the conformance test."""
