"""The commands: one module for each family, and the work that needs no mount."""
