"""What computes the vectors: one module for each kind of `protocol.Backend`."""
