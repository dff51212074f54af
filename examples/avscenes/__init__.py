"""The example pipeline: trains image and sound encoders on pairs, and tests what they localise."""
