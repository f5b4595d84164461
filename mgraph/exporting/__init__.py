"""Export: nodes, places and ensembles as files that run without mgraph, each with a model card, each checked.

Weights (``.safetensors``, ``.pt``) are for whoever has the network's code; programs (``.pt2``, ``.onnx``) need none.
"""
