"""The study of false negatives: known harm, known ceiling, and what the losses make of it."""
