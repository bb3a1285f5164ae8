"""TensorRT, from the driver up: which one is here, what it can do, building a plan and describing it.

driver.py     the CUDA driver, asked through ctypes: is there a GPU, and which
flavours.py   what of TensorRT may be installed
api.py        the one place that imports TensorRT; its capabilities by attribute, never by version
messages.py   what TensorRT says, as one line
onnx_input.py an ONNX file, certain to be one before TensorRT sees it
options.py    what may be chosen about a build
knobs.py      the choices that not every TensorRT offers, each with the reason where it is missing
profiles.py   batch ranges as optimisation profiles, and the profile for a batch
configure.py  the choices -> the builder's configuration, and back
progress.py   how far a build is
timing_cache.py  timings of kernels, kept from one build to the next
precision.py  the number formats of a network or an engine, read back and counted
proof.py      what an engine that was just built says of its precision
sidecar.py    the JSON beside a plan: what it was built from and where it may run
portability.py   whether a plan can run here, told before TensorRT is touched
build.py      ONNX file -> plan and side-car
support.py    which nodes of an ONNX file TensorRT cannot import, without building
"""
