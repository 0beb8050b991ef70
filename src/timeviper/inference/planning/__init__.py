"""Will it fit, and how long will it take: bytes and seconds before anything runs."""
