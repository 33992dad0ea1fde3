"""The demonstration: real models, processes and sockets, every scheme side by side, and the proof of exactness."""
