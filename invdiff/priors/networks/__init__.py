"""Networks of other people's checkpoints: modules whose state dicts have the names and shapes of theirs."""

__all__: list[str] = []
