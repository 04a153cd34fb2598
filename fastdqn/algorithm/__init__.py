"""What the papers say: pure functions of tensors and numbers, without streams, files, games or consoles."""
