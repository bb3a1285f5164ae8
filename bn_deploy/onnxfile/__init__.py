"""ONNX files as they lie on disk: graphs are read and written whole, large weights only when needed."""
