"""The project's scripts. A package so that mypy knows each module by one name only."""
