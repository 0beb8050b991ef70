"""Files that are whole or not there: sealed headers, tensors that are mapped, locks."""
