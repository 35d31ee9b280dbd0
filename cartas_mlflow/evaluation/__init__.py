"""Texts -> numbers and words about them. Never imports torch at import time."""
