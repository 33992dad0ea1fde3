"""Measurements in wall clock, with real engines and sockets: schemes, engines, many devices, what an edge holds."""
