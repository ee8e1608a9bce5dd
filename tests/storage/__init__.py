"""Folders at URLs, and the copies of runs that are kept there."""
