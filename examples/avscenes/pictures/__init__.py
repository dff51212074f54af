"""Draws what a run has learned, and where a model hears a sound."""
