"""Tests of the schedulers of a TrainLoop."""
