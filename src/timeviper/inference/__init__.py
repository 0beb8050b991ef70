"""Encode once, ask often: prefill, decode, sampling and the engine around them."""
