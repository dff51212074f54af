"""What every room stands on: one-line errors, whole files, and workers that may crash."""
