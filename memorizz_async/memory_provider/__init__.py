"""Where memories are kept. One kind so far: MongoDB, on any server."""
