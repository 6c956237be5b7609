"""Export of the vision tower to ONNX, and its inference with ONNX Runtime."""
