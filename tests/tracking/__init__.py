"""Tests of what is kept of an experiment."""
