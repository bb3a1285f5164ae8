"""Folding: every batch norm that provably can be goes into the weights around it; the rest keep a reason.

`absorb` holds the laws, `outcome` the report; `graph` folds ONNX graphs, `modules` torch networks.
"""
