"""Stage 10: subnets as files for a device, checked in the client that runs there, and measured.

ONNX graphs (onnx_export, quantize), sherpa-onnx as the client (client), its checks beside torch
(graph_check, client_check, findings), its speed (benchmark_client on the device, benchmark_rounds
here), and what people read of it (deploy_report, model_card).  Imports page and what stands below
it; client and benchmark_client import no torch, so that they run on a device.
"""
