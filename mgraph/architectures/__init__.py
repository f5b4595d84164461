"""Architectures: small built-in networks, those of torchvision and timm, and a user's own factories."""
