"""What meets the kernel: the FUSE bindings and the Operations class."""
