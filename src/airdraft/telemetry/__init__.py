"""Metrics, logs, and traces of single texts. None of them contains what was written."""
