"""The commands of `python -m trtgate`, a file for each."""
