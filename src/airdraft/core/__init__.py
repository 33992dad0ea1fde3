"""The core: sampling, noise, schemes, messages and the two machines. It has no socket, clock, model or randomness of
its own. Time, bytes and model results are arguments, and events say what must happen next."""
