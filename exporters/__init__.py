"""Lowering: torch module or NIR file → SpikingGraph → integer SpikingGraph → ONNX, netx, NIR."""
