"""Knocks as single datagrams: bytes to a knock and back, and what was seen before."""
