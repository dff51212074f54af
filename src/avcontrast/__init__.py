"""Contrastive losses for audio-visual learning that know about false negatives."""

__version__ = "0.1.0"
