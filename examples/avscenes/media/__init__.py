"""Decodes images, sounds and videos, and turns them into what the encoders are fed."""
