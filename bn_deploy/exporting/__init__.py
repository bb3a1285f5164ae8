"""From a torch network to an ONNX file that says only what the network computes."""
