"""Adapters: code that was written for another library, trained on our loop."""
