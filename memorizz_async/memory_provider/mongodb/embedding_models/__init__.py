"""Which embedding model a collection's vectors are of: kept, asked before comparing, changed."""
