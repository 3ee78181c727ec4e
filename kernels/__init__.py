"""One scheduled group to a kernel: nests, emitters, the words of kernel source, micro-kernels."""
