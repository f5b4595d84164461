"""Tensors: objects of Zarr arrays under keys, local or remote, read without copies, and the kernel that sums them."""
