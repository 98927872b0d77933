"""CPU replacements of XLA's operations (convolution, dense, max-pool, Threefry) and compiler options."""
