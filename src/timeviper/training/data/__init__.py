"""Training data from files: samples, mixtures, packs, and what is wrong with them."""
