"""Models outside of torch: ONNX files, int8, what is faster in onnxruntime, what sherpa-onnx reads."""
