"""The hybrid decoder with TransV, the vision towers and what joins them; reads no file."""
