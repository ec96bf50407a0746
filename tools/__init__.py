"""Writes the files that are derived from code: `python -m tools.generate`. Nothing at run time imports this."""
