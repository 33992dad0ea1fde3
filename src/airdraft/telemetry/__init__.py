"""What a process tells of itself: metrics, logs, and traces of single texts. Nothing here holds what was written."""
