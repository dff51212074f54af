"""Scores a trained model on a test set, beside what it has to be compared with."""
