"""ONNX importer, pipeline, options, `compile()`, report and command line."""
