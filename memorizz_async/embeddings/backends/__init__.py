"""What computes the vectors: one module a backend, all of them behind `protocol.Backend`."""
