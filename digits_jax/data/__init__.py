"""The data sets: sources, the TFDS store without TensorFlow, the cache of decoded arrays."""
