"""The parts of AsyncMongoDBProvider: one file a kind of thing that it does."""
