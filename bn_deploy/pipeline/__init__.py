"""Composition: the only place, beside the command line, that knows the order of the stages."""
