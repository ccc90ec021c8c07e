"""Torture: what the recipe survives, counted. The program is in ``__main__.py``; every section is a
module of its own that yields trials."""
