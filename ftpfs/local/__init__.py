"""This machine's disk: what belongs to this user alone, and files that appear when complete."""
