"""Tests of the preprocessors."""
