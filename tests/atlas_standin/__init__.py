"""Atlas Vector Search for the tests: a proxy before a real mongod (6.0 or newer, a replica set).

    with AtlasStandin(mongod.host, mongod.port, lag_s=0.1).in_thread() as standin:
        async with AsyncMongoClient(standin.uri) as client:
            await client.db.memories.create_search_index(model)
            await standin.finish_builds()
            await client.db.memories.insert_one(memory)
            await standin.sync()

`WireProxy` is the proxy alone, which makes a server slow, deaf or gone.
"""

from .hosting import Hosted
from .modes import Mode
from .standin import AtlasStandin
from .wire import Answer, Command, Forward, Intercept, WireProxy

__all__ = [
    "Answer",
    "AtlasStandin",
    "Command",
    "Forward",
    "Hosted",
    "Intercept",
    "Mode",
    "WireProxy",
]
