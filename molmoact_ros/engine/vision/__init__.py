"""The vision tower exported to ONNX, and run by ONNX Runtime."""
