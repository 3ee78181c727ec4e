"""Measurements against peers: model list, exports, the benchmark runner and the demo.

Nothing here is imported by the compiler; the peers (ONNX Runtime, OpenVINO) and PyTorch are extras.
"""
