"""Tensors: objects of Zarr arrays under keys, here or elsewhere, read without copies, and the kernel that sums them."""
