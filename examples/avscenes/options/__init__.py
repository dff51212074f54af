"""The command lines: which options there are, and which settings they make."""
