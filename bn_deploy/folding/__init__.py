"""Folding: every batch norm that provably can be goes into the weights before it; the rest keep a reason."""
