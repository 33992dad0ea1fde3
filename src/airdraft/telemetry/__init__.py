"""Telemetry of a process: metrics, logs, and traces of single texts. None of it contains the text, unless asked."""
