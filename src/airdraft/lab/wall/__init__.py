"""Real engines and real sockets in wall clock: engines side by side, many devices at one edge, what an edge holds."""
