"""The second table of ``latent.py``."""
from typing import Any

def cost(*a: Any, **k: Any) -> dict[str, dict[str, float]]:
    return {"-": {"-": 0.0}}
