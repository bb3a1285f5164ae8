"""Folds ONNX graphs: any file, from any framework."""
