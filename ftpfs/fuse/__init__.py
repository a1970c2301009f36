"""The edge to the kernel: the FUSE bindings, the callbacks, and what the kernel believes."""
