"""Knocker: services stay behind a reverse proxy, and whoever knocks with a key is let in, by address, for a while."""

__version__ = "0.1.0"
