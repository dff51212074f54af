"""One training run: its settings, data, steps and processes, and what it writes down."""
