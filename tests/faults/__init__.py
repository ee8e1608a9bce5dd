"""Runs that are killed, filled or cut on purpose."""
