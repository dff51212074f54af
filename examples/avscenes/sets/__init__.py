"""Reads the data sets, lists and annotations that are in use, in an order that can be repeated."""
