"""The papers' experiments, one command each: their rows run again, with our numbers beside the published ones."""
