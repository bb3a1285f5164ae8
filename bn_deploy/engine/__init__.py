"""TensorRT, from the driver up: which one is here, what it can do, building a plan and describing it.

driver.py     the CUDA driver, asked through ctypes: is there a GPU, and which
api.py        the one place that imports TensorRT; its capabilities by attribute, never by version
messages.py   what TensorRT says, as one line
onnx_input.py an ONNX file, certain to be one before TensorRT sees it
precision.py  the number format of a network or an engine, read back
sidecar.py    the JSON beside a plan: what it was built from and where it may run
build.py      ONNX file -> plan and side-car
"""
