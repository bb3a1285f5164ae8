"""Precision lives in the model: a float32 ONNX file becomes one whose tensors have the types to compute in.

formats.py     the half formats: unit roundoff, range
graph.py       nodes by name, types of values, what both rewrites and checks ask of a graph
opset.py       which types an operator takes in which operator set
half.py        float32 -> fp16 or bf16, all but a keep-list
quantize.py    float32 -> Q/DQ around convolutions and matrix products
checks.py      what a typed file must be: no mixed types, Q/DQ in the one form that every parser takes
emulate.py     a typed model as a float32 one that rounds as it would
runtime.py     the one place here that runs a model, and that calibrates
sensitivity.py the keep-list: what each operator alone costs, measured
census.py      what a file computes in: operators and multiply-accumulates by type
typed.py       all of it: float32 file and images -> typed model
"""
