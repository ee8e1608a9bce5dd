"""Tests of result packages and metrics."""
