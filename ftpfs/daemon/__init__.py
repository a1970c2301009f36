"""A mount as a process: how it is built, runs, answers, and ends."""
