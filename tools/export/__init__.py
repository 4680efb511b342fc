"""Writes a trained model as a file for other programs; `python -m tools.export --help`.

export    load, write, compare, keep      formats   weights, safetensors, pt2, onnx
"""
