"""Architectures: small built-in networks, those of torchvision and timm, and the user's own factories."""
