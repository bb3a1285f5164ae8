"""Evidence that the forms of a network compute the same."""
