"""SynthReel: a benchmark of drawn films with exact answers, for any model and any length."""
