"""Online stores: the newest row of each view for each entity key.

One module per adapter of `llmfeatures.ports.OnlineStore`: `llmfeatures.online.sqlite` and `llmfeatures.online.redis`.
Both hold the same cells, so that what `redis-cli HGETALL` shows is what ``SELECT field, value`` shows. `rows` has what
they decide alike, `pool` and `wire` how they hold connections.
"""
