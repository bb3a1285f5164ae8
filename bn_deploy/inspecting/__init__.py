"""What is in a file: a checkpoint, an ONNX file or a TensorRT plan. Nothing is loaded that could execute.

inspection.py  what is told of any of them
weights.py     a safetensors file
model.py       an ONNX file
plan.py        a plan with its side-car, and its engine's layers where there is a GPU for it
"""
