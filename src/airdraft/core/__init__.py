"""The core: sampling, noise, schemes, messages and the two machines. No socket, no clock, no model, no randomness
of its own: time, bytes and model results are arguments, and what must be done next comes back as events."""
