"""Speed on the machine at hand: ``python -m vmamba.bench ops`` and ``python -m vmamba.bench speed_history``."""
